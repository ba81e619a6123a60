"""Finding blobs that no row refers to: what a crash leaves between a file and its row."""

from __future__ import annotations

import sqlalchemy as sa

from service.store import tables
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.datasets import drop_unused

__all__ = ["missing", "sweep"]


def sweep(database: Database, blobs: Blobs, *, older_than_s: float = 0.0) -> int:
    """Remove forgotten temporary files and blobs without a row; return how many.

    With `older_than_s` at 0 only for a server that starts and knows that it is alone: a running
    worker publishes a blob some time before its row.
    """
    swept = blobs.sweep(older_than_s=older_than_s)
    # Listed before the rows are read: a blob of the list without a row then has none to come,
    # or is younger than any work in hand.
    found = [
        key
        for folder in ("datasets", "models", "checkpoints", "parts")
        for key, age_s in blobs.keys(folder)
        if age_s >= older_than_s
    ]
    working = _working(database)
    # While workers are at work, a state may wait for room beside which its job's end is stored.
    theirs = ("parts/", "checkpoints/") if older_than_s > 0 else ("parts/",)
    for key in sorted(set(found) - _referred(database)):
        if key.startswith(theirs) and key.split("/")[1] in working:
            continue  # which of them are of use, the job's checkpoint and its worker know
        if key.startswith("datasets/"):
            swept += drop_unused(database, blobs, key)
        else:
            blobs.delete(key)
            swept += 1
    return swept


def missing(database: Database, blobs: Blobs) -> list[str]:
    """Return the ids of data sets and models whose content is not there, as after a lost disk."""
    datasets, models = tables.datasets.c, tables.models.c
    with database.read() as connection:
        rows = [
            *connection.execute(sa.select(datasets.id, datasets.blob)),
            *connection.execute(sa.select(models.id, models.weights)),
        ]
    return [name for name, key in rows if not blobs.exists(key)]


def _referred(database: Database) -> set[str]:
    columns = (tables.datasets.c.blob, tables.models.c.weights, tables.jobs.c.checkpoint_key)
    with database.read() as connection:
        return {key for column in columns for key in connection.scalars(sa.select(column)) if key}


def _working(database: Database) -> set[str]:
    """Return the jobs that have not ended."""
    query = sa.select(tables.jobs.c.id).where(tables.jobs.c.finished_at.is_(None))
    with database.read() as connection:
        return set(connection.scalars(query))
