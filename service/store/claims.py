"""How jobs and workers meet and part; each function works within its caller's transaction."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service.store import tables
from service.store.lifecycle import (
    ErrorKind,
    Job,
    Status,
    end,
    job_error,
    job_of,
    place_of,
    requeue,
    write,
)
from service.store.quotas import Quotas, running_limits

__all__ = ["is_runnable", "part", "take_back", "take_back_expired", "take_next"]

JOBS = tables.jobs
TURNS = tables.job_turns


def is_runnable(connection: sa.Connection, worker: str, now: datetime, quotas: Quotas) -> bool:
    """Whether a claim by `worker` would change anything."""
    held = sa.select(JOBS.c.id).where(
        sa.or_(JOBS.c.lease_expires_at < now, JOBS.c.worker == worker)
    )
    if connection.scalar(held.limit(1)) is not None:
        return True
    return _whose_turn(connection, quotas) is not None


def take_next(
    connection: sa.Connection, worker: str, now: datetime, lease: timedelta, quotas: Quotas
) -> Job | None:
    """Queued -> running, for the oldest job of the key whose turn it is."""
    turn = _whose_turn(connection, quotas)
    if turn is None:
        return None
    owner, job_id = turn
    query = sa.select(JOBS).where(JOBS.c.id == job_id, JOBS.c.status == Status.QUEUED)
    row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None  # somebody else takes it just now
    _count_turn(connection, owner)
    job = job_of(row)
    attempt = job.attempts + 1
    if attempt == 1:
        event: tuple[str, dict[str, Any]] = ("started", {"attempt": 1})
    else:
        from_ = place_of(job.kind, 0 if job.checkpoint is None else job.checkpoint.epoch, "from_")
        event = ("retried", {"attempt": attempt, "reason": job.retry_reason, **from_})
    return write(
        connection,
        job,
        now,
        [event],
        status=Status.RUNNING,
        attempts=attempt,
        worker=worker,
        lease_expires_at=now + lease,
        started_at=job.started_at or now,
    )


def _whose_turn(connection: sa.Connection, quotas: Quotas) -> tuple[str, str] | None:
    """The key that a free worker is to work for, and the job; None where no job may run.

    It is one of those with the fewest jobs running, and of these the one whose last turn is
    longest ago. Keys with as many jobs running as they may have, wait.
    """
    owner = sa.func.coalesce(JOBS.c.owner, "").label("owner")
    oldest = sa.select(owner, sa.func.min(JOBS.c.id)).where(JOBS.c.status == Status.QUEUED)
    first = {row[0]: row[1] for row in connection.execute(oldest.group_by(JOBS.c.owner))}
    if not first:
        return None
    active = sa.select(owner, sa.func.count()).where(
        JOBS.c.status.in_([Status.RUNNING, Status.CANCELLING])
    )
    running = {row[0]: row[1] for row in connection.execute(active.group_by(JOBS.c.owner))}
    limits = running_limits(connection, [name for name in first if name], quotas)
    free = [name for name in first if running.get(name, 0) < limits.get(name, 1 << 62)]
    if not free:
        return None
    served = sa.select(TURNS.c.owner, TURNS.c.number).where(TURNS.c.owner.in_(free))
    last = {row[0]: row[1] for row in connection.execute(served)}
    chosen = min(free, key=lambda name: (running.get(name, 0), last.get(name, 0), first[name]))
    return chosen, first[chosen]


def _count_turn(connection: sa.Connection, owner: str) -> None:
    newest = connection.scalar(sa.select(sa.func.max(TURNS.c.number))) or 0
    change = sa.update(TURNS).where(TURNS.c.owner == owner).values(number=newest + 1)
    if connection.execute(change).rowcount == 0:
        connection.execute(sa.insert(TURNS).values(owner=owner, number=newest + 1))


def take_back_expired(connection: sa.Connection, now: datetime) -> list[Job]:
    """Requeue the jobs whose workers are not heard of any more; that counts as nothing."""
    return take_back(connection, JOBS.c.lease_expires_at < now, now, reason="lease_expired")


def take_back(
    connection: sa.Connection, which: sa.ColumnElement[bool], now: datetime, *, reason: str
) -> list[Job]:
    """Requeue jobs that workers have, without any blame."""
    query = sa.select(JOBS).where(which, JOBS.c.worker.is_not(None)).order_by(JOBS.c.id)
    rows = connection.execute(query.with_for_update(skip_locked=True)).all()
    return [requeue(connection, job_of(row), now, reason=reason) for row in rows]


def part(
    connection: sa.Connection,
    worker: str,
    now: datetime,
    *,
    kind: ErrorKind,
    detail: str,
    max_failures: int,
    is_final: bool = False,
) -> Job | None:
    """Take its job from a worker that died of it, for another try unless it has had enough.

    There is no other where `is_final`.
    """
    query = sa.select(JOBS).where(JOBS.c.worker == worker).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    job = job_of(row)
    # A job that gets on, however slowly, shall be let to: what counts is an attempt without any
    # lasting step.
    failures = job.failures + (job.checkpoint_attempt != job.attempts)
    if job.status is Status.RUNNING and (is_final or failures >= max_failures):
        tried = "" if is_final else f" (given up after {job.attempts} attempts)"
        error = job_error(kind, f"{detail}{tried}")
        return end(connection, job, Status.FAILED, now, error=error, failures=failures)
    return requeue(connection, job, now, reason="worker_died", failures=failures)
