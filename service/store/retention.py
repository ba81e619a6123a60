"""What is dropped of what nobody needs any more: by its age, and where all together is too much.

Nothing that a job which has not ended needs, and no model or uploaded data set, is ever dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.errors import Conflict, NotFound
from service.store import audit, tables
from service.store.blobs import Blobs
from service.store.database import Clock, Database
from service.store.datasets import Datasets
from service.store.idempotency import PROMISED

__all__ = ["Kept", "Limit", "Retention"]

JOBS, EVENTS, KEYS = tables.jobs, tables.events, tables.idempotency_keys
AUDIT = tables.audit
_ENTRY_BYTES = 200
"""About what an entry of the audit trail takes beside its details."""


@dataclass(frozen=True)
class Kept:
    """Something that may be dropped: its name, since when nobody has needed it, its size."""

    name: str
    since: datetime
    bytes: int


@dataclass(frozen=True)
class Limit:
    """How long and how much of a kind is kept; None for ever, and however much."""

    days: float | None = None
    bytes: int | None = None

    @property
    def is_none(self) -> bool:
        return self.days is None and self.bytes is None

    def past(self, found: Sequence[Kept], now: datetime) -> list[Kept]:
        """Return what is too old, and of the rest the oldest of what is too much, oldest first."""
        newest_first = sorted(found, key=lambda kept: (kept.since, kept.name), reverse=True)
        dropped, total = [], 0
        for kept in newest_first:
            total += kept.bytes
            is_old = self.days is not None and now - kept.since > timedelta(days=self.days)
            if is_old or (self.bytes is not None and total > self.bytes):
                dropped.append(kept)
        return dropped[::-1]


class Retention:
    """Drops what is past its limits; safe beside everything else that a server does."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        datasets: Datasets,
        clock: Clock,
        *,
        checkpoints: Limit = Limit(),
        events: Limit = Limit(),
        results: Limit = Limit(),
        idempotency: Limit = Limit(),
        trail: Limit = Limit(),
    ) -> None:
        """`checkpoints` and `events` are those of jobs that have ended; `results` are data sets
        that jobs have left; answers to `idempotency` keys are kept as long as is promised; `trail`
        is that of the audit trail's entries."""
        self._database = database
        self._blobs = blobs
        self._datasets = datasets.seen_by(None, actor=audit.RETENTION)
        self._clock = clock
        kinds: Sequence[tuple[str, Limit, Callable[[], list[Kept]], Callable[[str], bool]]] = (
            ("checkpoints", checkpoints, self._checkpoints, self._drop_checkpoint),
            ("events", events, self._events, self._drop_events),
            ("results", results, self._results, self._drop_result),
            ("idempotency_keys", idempotency, self._keys, self._drop_key),
            ("audit", trail, self._trail, self._drop_entry),
        )
        self._kinds = kinds

    def apply(self) -> Mapping[str, int]:
        """Drop what is past its limits now; return how many of each kind."""
        dropped = {}
        for name, limit, find, drop in self._kinds:
            if not limit.is_none:
                past = limit.past(find(), self._clock())
                dropped[name] = sum(drop(kept.name) for kept in past)
        return dropped

    def _checkpoints(self) -> list[Kept]:
        query = sa.select(JOBS.c.id, JOBS.c.finished_at, JOBS.c.checkpoint_key).where(
            JOBS.c.finished_at.is_not(None), JOBS.c.checkpoint_key.is_not(None)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Kept(row.id, row.finished_at, self._size(row.checkpoint_key)) for row in rows]

    def _size(self, key: str) -> int:
        try:
            return self._blobs.path(key).stat().st_size
        except (NotFound, FileNotFoundError):
            return 0

    def _drop_checkpoint(self, job_id: str) -> bool:
        with self._database.write() as connection:
            query = sa.select(JOBS.c.checkpoint_key).where(JOBS.c.id == job_id)
            key = connection.scalar(query.with_for_update())
            if key is None:
                return False
            nothing = dict.fromkeys(("checkpoint_key", "checkpoint_epoch", "checkpoint_attempt"))
            connection.execute(sa.update(JOBS).where(JOBS.c.id == job_id).values(nothing))
        self._blobs.delete(key)
        return True

    def _events(self) -> list[Kept]:
        size = sa.func.sum(sa.func.length(sa.cast(EVENTS.c.data, sa.Text)))
        query = (
            sa.select(JOBS.c.id, JOBS.c.finished_at, size)
            .join(EVENTS, EVENTS.c.job_id == JOBS.c.id)
            .where(JOBS.c.finished_at.is_not(None), EVENTS.c.type != "finished")
            .group_by(JOBS.c.id, JOBS.c.finished_at)
        )
        with self._database.read() as connection:
            return [Kept(*row) for row in connection.execute(query)]

    def _drop_events(self, job_id: str) -> bool:
        """All but the last, which tells how the job ended."""
        which = sa.and_(EVENTS.c.job_id == job_id, EVENTS.c.type != "finished")
        with self._database.write() as connection:
            return connection.execute(sa.delete(EVENTS).where(which)).rowcount > 0

    def _results(self) -> list[Kept]:
        made = tables.datasets
        query = sa.select(made.c.id, made.c.created_at, made.c.bytes).where(
            made.c.job_id.is_not(None)
        )
        with self._database.read() as connection:
            return [Kept(*row) for row in connection.execute(query)]

    def _drop_result(self, dataset_id: str) -> bool:
        with suppress(Conflict, NotFound):  # a job needs it, or somebody was faster
            self._datasets.delete(dataset_id)
            return True
        return False

    def _trail(self) -> list[Kept]:
        size = sa.func.length(sa.cast(AUDIT.c.details, sa.Text)) + _ENTRY_BYTES
        with self._database.read() as connection:
            rows = connection.execute(sa.select(AUDIT.c.id, AUDIT.c.at, size)).all()
        return [Kept(*row) for row in rows]

    def _drop_entry(self, entry: str) -> bool:
        with self._database.write() as connection:
            return connection.execute(sa.delete(AUDIT).where(AUDIT.c.id == entry)).rowcount > 0

    def _keys(self) -> list[Kept]:
        """Only what is older than anybody was promised."""
        oldest = self._clock() - PROMISED
        name = KEYS.c.owner + "\n" + KEYS.c.key
        query = sa.select(name, KEYS.c.created_at, sa.func.length(KEYS.c.body))
        with self._database.read() as connection:
            rows = connection.execute(query.where(KEYS.c.created_at < oldest)).all()
        return [Kept(*row) for row in rows]

    def _drop_key(self, name: str) -> bool:
        owner, _, key = name.rpartition("\n")
        which = sa.and_(KEYS.c.owner == owner, KEYS.c.key == key)
        with self._database.write() as connection:
            return connection.execute(sa.delete(KEYS).where(which)).rowcount > 0
