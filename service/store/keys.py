"""API keys: shown once, stored as hashes.

A secret is 256 random bits, so that nobody can guess it nor try all that there are: one round of
SHA-256 hides it as well as a slow hash would, which is for passwords that people think of, and is
quick enough for every request.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa

from service.errors import Invalid, NotFound
from service.store import audit, tables
from service.store.database import Clock, Database, is_id, new_id, plain_text
from service.store.quotas import NO_QUOTAS, Quotas

__all__ = ["ALL_SCOPES", "ApiKey", "ApiKeys", "Scope"]

KEYS = tables.api_keys
_MOST_FOUND = 1024

Scope = Literal["predict", "train", "admin"]
"""What a key may do: predict and evaluate; upload, train and keep models; all, with everybody's."""
ALL_SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key, without its secret."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    """In the order of `ALL_SCOPES`."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    quotas: Quotas = NO_QUOTAS


class ApiKeys:
    """The keys that were made by this service; safe between threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._finding = threading.Lock()
        self._found_at: int | None = None
        self._found: dict[str, ApiKey | None] = {}

    def create(
        self,
        name: str,
        *,
        scopes: Collection[str] = ALL_SCOPES,
        expires_at: datetime | None = None,
        quotas: Quotas = NO_QUOTAS,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, ``bk_…``, which is told this once and not stored."""
        now = self._clock()
        if not name:
            raise Invalid("a key needs a name that says what it is for", pointer="#/name")
        plain_text(name, pointer="#/name")
        if expires_at is not None and expires_at <= now:
            raise Invalid("a key must expire later than now", pointer="#/expires_at")
        secret = f"bk_{secrets.token_urlsafe(32)}"
        key = ApiKey(
            id=new_id("key"),
            name=name,
            scopes=_checked(scopes),
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
            quotas=quotas,
        )
        row = {**vars(key), "sha256": _hash(secret), "quotas": quotas.given() or None}
        with self._database.write() as connection:
            connection.execute(sa.insert(KEYS).values(row))
            told = {"scopes": list(key.scopes)}
            audit.record(connection, now, audit.COMMAND_LINE, "created", key.id, **told)
        return key, secret

    def verify(self, secret: str) -> ApiKey | None:
        """The key with this secret, unless there is none, it was revoked or has expired.

        It takes microseconds for a secret that has been asked for since the database last changed.
        """
        digest = _hash(secret)
        key = self._find(digest)
        if key is None or key.revoked_at is not None:
            return None
        if key.expires_at is not None and key.expires_at <= self._clock():
            return None
        return key

    def _find(self, digest: str) -> ApiKey | None:
        version = self._database.version()
        if version is None:
            return self._read(digest)
        with self._finding:
            if version != self._found_at or len(self._found) > _MOST_FOUND:
                self._found_at, self._found = version, {}
            found = self._found
        if digest not in found:
            # What is read is of that version or a later one, after which it is forgotten.
            found[digest] = self._read(digest)
        return found[digest]

    def _read(self, digest: str) -> ApiKey | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(KEYS).where(KEYS.c.sha256 == digest)).one_or_none()
        # The index finds a hash, of which timing tells nothing useful: secrets are 256 random bits.
        if row is None or not hmac.compare_digest(row.sha256, digest):
            return None
        return _key_of(row)

    def list(self) -> list[ApiKey]:
        """Every key, revoked and expired ones included, the newest first."""
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
            change = sa.update(KEYS).where(KEYS.c.id == key_id)
            revoked_at = row.revoked_at or self._clock()
            if row.revoked_at is None:
                audit.record(connection, revoked_at, audit.COMMAND_LINE, "revoked", key_id)
            revoked = connection.execute(change.values(revoked_at=revoked_at).returning(KEYS)).one()
        return _key_of(revoked)


def _checked(scopes: Collection[str]) -> tuple[Scope, ...]:
    """Return the scopes in their order; Invalid for none, and for one that does not exist."""
    unknown = sorted(set(scopes) - set(ALL_SCOPES))
    if unknown or not scopes:
        said = f"{unknown[0][:40]!r} is none" if unknown else "none is given"
        raise Invalid(f"the scopes are {', '.join(ALL_SCOPES)}; {said}", pointer="#/scopes")
    return tuple(scope for scope in ALL_SCOPES if scope in scopes)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key_of(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        quotas=Quotas(**(row.quotas or {})),
    )
