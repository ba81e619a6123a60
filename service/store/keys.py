"""API keys: shown once, stored as hashes."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.errors import NotFound
from service.store import tables
from service.store.database import Clock, Database, is_id, new_id, plain_text

__all__ = ["ApiKey", "ApiKeys"]

KEYS = tables.api_keys


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key, without its secret."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


class ApiKeys:
    """The keys that were made by this service."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(self, name: str) -> tuple[ApiKey, str]:
        """A new key and its secret, ``bk_…``, which is told this once and not stored."""
        plain_text(name, pointer="#/name")
        secret = f"bk_{secrets.token_urlsafe(32)}"
        key = ApiKey(id=new_id("key"), name=name, created_at=self._clock(), revoked_at=None)
        with self._database.write() as connection:
            connection.execute(sa.insert(KEYS).values({**vars(key), "sha256": _hash(secret)}))
        return key, secret

    def verify(self, secret: str) -> ApiKey | None:
        """The key with this secret, unless there is none or it was revoked."""
        digest = _hash(secret)
        with self._database.read() as connection:
            row = connection.execute(sa.select(KEYS).where(KEYS.c.sha256 == digest)).one_or_none()
        # The index finds a hash, of which timing tells nothing useful: secrets are 256 random bits.
        if row is None or not hmac.compare_digest(row.sha256, digest) or row.revoked_at is not None:
            return None
        return _key_of(row)

    def list(self) -> list[ApiKey]:
        """Every key, revoked ones included, the newest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(KEYS).order_by(KEYS.c.id.desc())).all()
        return [_key_of(row) for row in rows]

    def revoke(self, key_id: str) -> ApiKey:
        """Make the key void from now on; once revoked, it stays so."""
        with self._database.write() as connection:
            query = sa.select(KEYS).where(KEYS.c.id == key_id).with_for_update()
            row = connection.execute(query).one_or_none() if is_id(key_id, "key") else None
            if row is None:
                raise NotFound(f"no API key has the id {key_id[:80]!r}")
            revoked_at = row.revoked_at or self._clock()
            connection.execute(
                sa.update(KEYS).where(KEYS.c.id == key_id).values(revoked_at=revoked_at)
            )
        return ApiKey(id=row.id, name=row.name, created_at=row.created_at, revoked_at=revoked_at)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key_of(row: sa.Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(id=row.id, name=row.name, created_at=row.created_at, revoked_at=row.revoked_at)
