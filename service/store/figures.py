"""Figures of all jobs together, for whoever watches the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

import sqlalchemy as sa

from service.store import tables
from service.store.database import Database
from service.store.lifecycle import ErrorKind, Status

__all__ = ["JobFigures", "job_figures"]

JOBS = tables.jobs


@dataclass(frozen=True)
class JobFigures:
    """What all jobs come to at one instant."""

    queue_age_s: float
    """How long the oldest job in the queue has waited since it was created; 0 without any."""
    failed: Mapping[str, int]
    """Failed jobs by the kind of their errors."""
    rows_per_second: float
    """Rows that the running jobs train on in a second, together."""


def job_figures(database: Database, now: datetime) -> JobFigures:
    """Return the figures of the jobs that are stored now."""
    error = sa.cast(JOBS.c.error, sa.Text)
    kinds = [
        sa.func.count(sa.case((error.like(f'%"kind":"{kind}"%'), 1))).label(kind)
        for kind in get_args(ErrorKind)
    ]
    waiting = sa.select(sa.func.min(JOBS.c.created_at)).where(JOBS.c.status == Status.QUEUED)
    running = sa.select(JOBS.c.progress).where(JOBS.c.status == Status.RUNNING)
    with database.read() as connection:
        oldest = connection.scalar(waiting)
        failed = connection.execute(sa.select(*kinds).where(JOBS.c.status == Status.FAILED)).one()
        told = connection.scalars(running).all()
    return JobFigures(
        queue_age_s=0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()),
        failed=dict(failed._mapping),
        rows_per_second=sum((each or {}).get("rows_per_second") or 0.0 for each in told),
    )
