"""The life of a job: its values, and the transitions between its states.

    queued ──claim──▶ running ──finish──▶ succeeded | failed | cancelled
      ▲  │               │  │
      │  └──cancel──┐    │  └──cancel──▶ cancelling ──finish──▶ cancelled, or failed if it did so
      │             ▼    │                   │                  before it was told
      └──requeue─────────┘                   └──requeue──▶ cancelled: what was to be cancelled
                 cancelled                                 never runs again

Every transition works within its caller's transaction and adds its event there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import sqlalchemy as sa

from service.errors import LeaseLost, NotFound
from service.store import tables
from service.store.database import is_id
from service.store.needs import drop_needs
from service.store.visibility import refuse_foreign, seen

__all__ = [
    "Checkpoint",
    "Claim",
    "ErrorKind",
    "Event",
    "Job",
    "Status",
    "end",
    "held_claim",
    "held_job",
    "job_error",
    "job_of",
    "locked_job",
    "place_of",
    "requeue",
    "say",
    "write",
]

JOBS = tables.jobs
EVENTS = tables.events
# Built once: a job that goes on executes some of them a few times a second.
_LOCKED = JOBS.c.id == sa.bindparam("held")
_HELD = sa.select(JOBS).where(_LOCKED).with_for_update()
_CLAIM = (
    sa.select(
        JOBS.c.worker,
        JOBS.c.attempts,
        JOBS.c.status,
        JOBS.c.cancel_keep,
        JOBS.c.checkpoint_key,
        JOBS.c.last_event,
    )
    .where(_LOCKED)
    .with_for_update()
)
_SET = sa.update(JOBS).where(JOBS.c.id == sa.bindparam("changed"))
_CHANGE = _SET.returning(JOBS)
_ADD = sa.insert(EVENTS)
_SAID = sa.func.json_each(sa.bindparam("said")).table_valued("key", "value")
_ADD_AT_ONCE = sa.insert(EVENTS).from_select(
    ["job_id", "id", "type", "at", "data"],
    sa.select(
        sa.bindparam("job", type_=EVENTS.c.job_id.type),
        sa.bindparam("first", type_=sa.Integer) + _SAID.c.key,
        sa.func.json_extract(_SAID.c.value, "$[0]"),
        sa.bindparam("at", type_=EVENTS.c.at.type),
        sa.func.json_extract(_SAID.c.value, "$[1]"),
    ),
)
"""The same by one step of SQLite, which takes no turns at Python's lock with a training thread."""

ErrorKind = Literal["user", "memory", "timeout", "infrastructure"]


class Status(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  # waits for a worker, for the first time or again
    RUNNING = "running"  # a worker has it and a lease
    CANCELLING = "cancelling"  # a worker has it, and is told to stop
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Nothing will happen to the job any more."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True)
class Checkpoint:
    """A blob from which a job can go on after `epoch` whole epochs, or rows of a prediction."""

    key: str
    epoch: int


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; ids count from 1 without gaps."""

    id: int
    type: str
    at: datetime
    data: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was when it was read."""

    id: str
    owner: str | None
    shared: bool
    """Whether every key sees it, and will see what it leaves."""
    kind: str
    name: str | None
    tags: dict[str, Any]
    spec: dict[str, Any]
    resumed_from: str | None
    status: Status
    progress: dict[str, Any] | None
    metrics: dict[str, Any]
    model: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    attempts: int
    """Claims so far; with `id` and `worker` the token that fences a worker's writes."""
    ran_s: float
    """Seconds that its attempts have run, together, when that was last recorded."""
    failures: int
    """Attempts that ended by themselves and left no new checkpoint."""
    retry_reason: str | None
    worker: str | None
    lease_expires_at: datetime | None
    cancel_keep: bool
    """The best so far becomes a model when the job is cancelled."""
    checkpoint: Checkpoint | None
    checkpoint_attempt: int | None
    last_event: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def terminal(self) -> bool:
        return self.status.terminal


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What changes of a job while a worker has it."""

    is_cancelling: bool
    keep: bool
    """The best so far is to become a model then."""
    checkpoint_key: str | None
    last_event: int


_OF_ROWS = ("predict", "evaluate")
"""Kinds of jobs that go through rows."""


def place_of(kind: str, number: int, prefix: str = "") -> dict[str, int]:
    """Say in an event how far a job of this kind has come: in epochs, or rows where it has none."""
    return {f"{prefix}{'row' if kind in _OF_ROWS else 'epoch'}": number}


def job_of(row: sa.Row[Any]) -> Job:
    """The job that a row of the table describes."""
    fields = dict(row._mapping)
    key, epoch = fields.pop("checkpoint_key"), fields.pop("checkpoint_epoch")
    fields["checkpoint"] = None if key is None else Checkpoint(key, epoch)
    fields["status"] = Status(fields["status"])
    return Job(**fields)


def job_error(kind: ErrorKind, detail: str) -> dict[str, Any]:
    """The `error` of a failed job; `detail` is shown to the caller, so it is our own text."""
    return {
        "type": "urn:bernoulli:problem:job-failed",
        "title": "Job failed",
        "kind": kind,
        "detail": detail,
    }


def locked_job(connection: sa.Connection, job_id: str, *, viewer: str | None = None) -> Job:
    """The job, which nobody else can change before this transaction ends, for one who may."""
    query = sa.select(JOBS).where(JOBS.c.id == job_id, seen(JOBS, viewer)).with_for_update()
    row = connection.execute(query).one_or_none() if is_id(job_id, "job") else None
    if row is None:
        raise NotFound(f"no job has the id {job_id[:80]!r}")
    refuse_foreign(row.owner, viewer, f"job {job_id}")
    return job_of(row)


def held_job(connection: sa.Connection, claimed: Job) -> Job:
    """As `locked_job`, once it is certain that the claim which gave `claimed` still holds."""
    return job_of(_held(connection, claimed, _HELD))


def held_claim(connection: sa.Connection, claimed: Job) -> Claim:
    """Likewise, with no more of the job than changes while it goes on."""
    row = _held(connection, claimed, _CLAIM)
    return Claim(
        is_cancelling=row.status == Status.CANCELLING,
        keep=row.cancel_keep,
        checkpoint_key=row.checkpoint_key,
        last_event=row.last_event,
    )


def _held(connection: sa.Connection, claimed: Job, query: sa.Select[Any]) -> sa.Row[Any]:
    row = connection.execute(query, {"held": claimed.id}).one_or_none()
    if (
        row is None
        or row.worker is None  # ended, or waiting again
        or (row.attempts, row.worker) != (claimed.attempts, claimed.worker)
    ):
        raise LeaseLost(f"attempt {claimed.attempts} at {claimed.id} is no longer its worker's")
    return row


def say(
    connection: sa.Connection,
    job_id: str,
    claim: Claim,
    now: datetime,
    events: Sequence[tuple[str, Mapping[str, Any]]],
    **values: Any,
) -> None:
    """Change the columns of a job that goes on, and add events."""
    values["last_event"] = claim.last_event + len(events)
    connection.execute(_SET, {"changed": job_id, **values})
    _add(connection, job_id, claim.last_event, now, events)


def write(
    connection: sa.Connection,
    job: Job,
    now: datetime,
    events: Iterable[tuple[str, Mapping[str, Any]]],
    **values: Any,
) -> Job:
    """Change the job's columns and add events; return the job as it is then."""
    added = list(events)
    values["last_event"] = job.last_event + len(added)
    changed = job_of(connection.execute(_CHANGE, {"changed": job.id, **values}).one())
    _add(connection, job.id, job.last_event, now, added)
    return changed


def _add(
    connection: sa.Connection,
    job_id: str,
    last_event: int,
    now: datetime,
    events: Sequence[tuple[str, Mapping[str, Any]]],
) -> None:
    first = last_event + 1
    if not events:
        return
    if connection.dialect.name == "sqlite":
        said = tables.json_text([(kind, tables.json_text(data)) for kind, data in events])
        at_once = {"job": job_id, "first": first, "at": now, "said": said}
        connection.execute(_ADD_AT_ONCE, at_once)
    else:
        rows = [
            {"job_id": job_id, "id": number, "type": kind, "at": now, "data": data}
            for number, (kind, data) in enumerate(events, first)
        ]
        connection.execute(_ADD, rows)


def end(
    connection: sa.Connection,
    job: Job,
    status: Status,
    now: datetime,
    *,
    events: Iterable[tuple[str, Mapping[str, Any]]] = (),
    error: Mapping[str, Any] | None = None,
    **values: Any,
) -> Job:
    """Any state but the terminal ones -> a terminal one, with the final event."""
    last = {
        "status": status,
        "model": values.get("model"),
        "result": values.get("result"),
        "error": error,
    }
    drop_needs(connection, job.id)
    return write(
        connection,
        job,
        now,
        [*events, ("finished", last)],
        status=status,
        error=error,
        worker=None,
        lease_expires_at=None,
        finished_at=now,
        **values,
    )


def requeue(
    connection: sa.Connection, job: Job, now: datetime, *, reason: str, failures: int | None = None
) -> Job:
    """Running -> queued, to be `retried` by its next claim; cancelling -> cancelled."""
    if job.status is Status.CANCELLING:
        return end(connection, job, Status.CANCELLED, now)
    return write(
        connection,
        job,
        now,
        (),
        status=Status.QUEUED,
        worker=None,
        lease_expires_at=None,
        retry_reason=reason,
        failures=job.failures if failures is None else failures,
    )
