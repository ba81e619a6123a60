"""Idempotency keys: the answer to a POST that created something, kept with what it created."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from service.errors import IdempotencyInFlight, IdempotencyMismatch, Invalid
from service.store import tables
from service.store.database import Clock, Database

__all__ = ["PROMISED", "Answer", "Idempotency", "IdempotencyKeys", "InFlight", "Remember"]

T = TypeVar("T")
KEYS = tables.idempotency_keys

#: How long an answer is kept at least, whatever is set.
PROMISED = timedelta(hours=24)


@dataclass(frozen=True)
class Idempotency:
    """An `Idempotency-Key` as it came: whose it is, and a hash of the parsed content."""

    key: str
    owner: str | None
    fingerprint: str
    """At most 64 characters: a SHA-256 in hexadecimal."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.key) <= 255 or not all(32 < ord(c) < 127 for c in self.key):
            raise Invalid(
                f"Idempotency-Key must be 1 to 255 visible ASCII characters, got {self.key[:80]!r}"
            )


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, to be given again byte by byte."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Remember(Generic[T]):
    """Given to a method that creates: what to store in the same transaction as the new row."""

    idempotency: Idempotency
    answer: Callable[[T], Answer]
    """Called within the transaction: it must not use the store."""

    def store(self, connection: sa.Connection, created: T, now: datetime) -> None:
        """Store the answer for `created`; IdempotencyInFlight if another request was faster."""
        answer = self.answer(created)
        values = {
            "owner": self.idempotency.owner or "",
            "key": self.idempotency.key,
            "fingerprint": self.idempotency.fingerprint,
            "status": answer.status,
            "headers": dict(answer.headers),
            "body": answer.body,
            "created_at": now,
        }
        try:
            connection.execute(sa.insert(KEYS).values(values))
        except IntegrityError as error:
            # Not `InFlight`'s case: another process has answered since the look-up. This
            # transaction is undone, and the caller's next try reads the stored answer.
            raise _in_flight(self.idempotency) from error


class IdempotencyKeys:
    """The answers kept so far."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def lookup(self, idempotency: Idempotency) -> Answer | None:
        """The first answer to this key; IdempotencyMismatch if the content was another."""
        with self._database.read() as connection:
            row = _find(connection, idempotency)
        if row is None:
            return None
        if row.fingerprint != idempotency.fingerprint:
            raise IdempotencyMismatch(
                f"Idempotency-Key {idempotency.key!r} was used before with other content; "
                "use a new key, or send the same content for the same answer"
            )
        return Answer(row.status, row.headers, row.body)

    def replace(self, idempotency: Idempotency, answer: Answer) -> None:
        """Keep another answer than the one stored with what was created."""
        change = sa.update(KEYS).where(
            KEYS.c.owner == (idempotency.owner or ""), KEYS.c.key == idempotency.key
        )
        values = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body}
        with self._database.write() as connection:
            connection.execute(change.values(values))


class InFlight:
    """The keys whose first request is being answered by this process; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: set[tuple[str | None, str]] = set()

    @contextmanager
    def hold(self, idempotency: Idempotency) -> Iterator[None]:
        """Hold the key while the block runs; IdempotencyInFlight if another request does."""
        entry = (idempotency.owner, idempotency.key)
        with self._lock:
            if entry in self._held:
                raise _in_flight(idempotency)
            self._held.add(entry)
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(entry)


def _in_flight(idempotency: Idempotency) -> IdempotencyInFlight:
    return IdempotencyInFlight(
        f"the first request with Idempotency-Key {idempotency.key!r} is not answered yet; "
        "repeat this one in a moment"
    )


def _find(connection: sa.Connection, idempotency: Idempotency) -> sa.Row[tuple[object, ...]] | None:
    query = sa.select(KEYS).where(
        KEYS.c.owner == (idempotency.owner or ""), KEYS.c.key == idempotency.key
    )
    return connection.execute(query).one_or_none()
