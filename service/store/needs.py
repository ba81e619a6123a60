"""What jobs that have not ended need: data sets and models that cannot be deleted until then."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from service.errors import Conflict, NotFound
from service.store import tables
from service.store.database import is_id
from service.store.visibility import seen

__all__ = ["drop_needs", "need_datasets", "need_models", "refuse_needed"]

DATASETS = tables.job_datasets
MODELS = tables.job_models
SHOWN = 5


def need_datasets(
    connection: sa.Connection, job_id: str, needed: Mapping[str, str], *, viewer: str | None
) -> None:
    """Have data sets stay until the job has ended; `needed` has the JSON pointer of each."""
    for dataset_id, pointer in needed.items():
        # On PostgreSQL the lock makes a deletion wait, and then see the job.
        query = sa.select(tables.datasets.c.id).where(
            tables.datasets.c.id == dataset_id, seen(tables.datasets, viewer)
        )
        lock = query.with_for_update(read=True, key_share=True)
        if not is_id(dataset_id, "ds") or connection.scalar(lock) is None:
            raise NotFound(f"no data set has the id {dataset_id[:80]!r}", pointer=pointer)
        row = {"job_id": job_id, "dataset_id": dataset_id}
        connection.execute(sa.insert(DATASETS).values(row))


def need_models(
    connection: sa.Connection, job_id: str, needed: Mapping[str, str], *, viewer: str | None
) -> None:
    """Have models stay until the job has ended; `needed` has the JSON pointer of each."""
    for model_id, pointer in needed.items():
        query = sa.select(tables.models.c.id).where(
            tables.models.c.id == model_id, seen(tables.models, viewer)
        )
        lock = query.with_for_update(read=True, key_share=True)
        if not is_id(model_id, "mdl") or connection.scalar(lock) is None:
            raise NotFound(f"no model has the id {model_id[:80]!r}", pointer=pointer)
        row = {"job_id": job_id, "model_id": model_id}
        connection.execute(sa.insert(MODELS).values(row))


def drop_needs(connection: sa.Connection, job_id: str) -> None:
    """Let go of what a job needed that has ended."""
    for needs in (DATASETS, MODELS):
        connection.execute(sa.delete(needs).where(needs.c.job_id == job_id))


def refuse_needed(
    connection: sa.Connection,
    column: sa.Column[str],
    needed_id: str,
    what: str,
    *,
    viewer: str | None,
) -> None:
    """Raise Conflict where a job needs what `column` of a table of needs refers to.

    It names the jobs that `viewer` sees.
    """
    jobs = tables.jobs
    query = (
        sa.select(jobs.c.id, seen(jobs, viewer).label("is_seen"))
        .join(column.table, column.table.c.job_id == jobs.c.id)
        .where(column == needed_id)
        .order_by(jobs.c.id)
        .limit(SHOWN)
    )
    users = connection.execute(query).all()
    if users:
        names = [user.id for user in users if user.is_seen] or ["a job of another key"]
        raise Conflict(
            f"{what} {needed_id} is needed by {', '.join(names)}; "
            "wait for the job to end or cancel it"
        )
