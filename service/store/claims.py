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

__all__ = ["is_runnable", "part", "take_back", "take_back_expired", "take_oldest"]

JOBS = tables.jobs


def is_runnable(worker: str, now: datetime) -> sa.ColumnElement[bool]:
    """Whether a claim by `worker` would change anything."""
    return sa.or_(
        JOBS.c.status == Status.QUEUED,
        JOBS.c.lease_expires_at < now,
        JOBS.c.worker == worker,
    )


def take_oldest(
    connection: sa.Connection, worker: str, now: datetime, lease: timedelta
) -> Job | None:
    """Queued -> running, for the oldest job that nobody else is taking just now."""
    query = sa.select(JOBS).where(JOBS.c.status == Status.QUEUED).order_by(JOBS.c.id).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
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
) -> Job | None:
    """Take its job from a worker that died of it, for another try unless it has had enough."""
    query = sa.select(JOBS).where(JOBS.c.worker == worker).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    job = job_of(row)
    # A job that gets on, however slowly, shall be let to: what counts is an attempt without any
    # lasting step.
    failures = job.failures + (job.checkpoint_attempt != job.attempts)
    if job.status is Status.RUNNING and failures >= max_failures:
        error = job_error(kind, f"{detail} (given up after {job.attempts} attempts)")
        return end(connection, job, Status.FAILED, now, error=error, failures=failures)
    return requeue(connection, job, now, reason="worker_died", failures=failures)
