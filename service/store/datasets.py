"""Data sets: rows that describe them, contents shared by hash."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from service.errors import NotFound
from service.store import audit, tables
from service.store.blobs import Blobs
from service.store.database import Clock, Database, Page, is_id, new_id, newest_first, plain_text
from service.store.idempotency import Remember
from service.store.needs import refuse_needed
from service.store.quotas import NO_QUOTAS, Quotas, check_stored
from service.store.visibility import refuse_foreign, seen

__all__ = ["Dataset", "Datasets", "NewDataset", "StagedDataset", "drop_unused"]

DATASETS = tables.datasets


@dataclass(frozen=True, kw_only=True)
class NewDataset:
    """A data set about to be stored."""

    kind: str
    rows: int
    schema: dict[str, Any]
    """`engine.data.Schema` as JSON."""
    bytes: int
    sha256: str
    blob: str
    """From `dataset_key`, by the hash of the stored content."""
    stored_bytes: int = 0
    """Of the stored content; set when it is staged."""
    name: str | None = None
    owner: str | None = None
    shared: bool = False
    """Whether every key sees it."""


@dataclass(frozen=True, kw_only=True)
class Dataset(NewDataset):
    """A stored data set, immutable."""

    id: str
    created_at: datetime
    job: str | None = None
    """The job that made it; None for an upload."""


class StagedDataset:
    """A data set whose content is a flushed file of `Blobs.temporary`, about to be published."""

    def __init__(self, database: Database, blobs: Blobs, new: NewDataset, content: Path) -> None:
        self.id = new_id("ds")
        self._database = database
        self._blobs = blobs
        self.new = new
        self._content = content

    def publish(
        self, connection: sa.Connection, now: datetime, *, job: str | None, shared: bool = False
    ) -> Dataset:
        """Store row and content within the caller's transaction; the file is gone afterwards."""
        new = vars(self.new) | {"shared": shared}
        dataset = Dataset(id=self.id, created_at=now, job=job, **new)
        self._database.lock(connection, dataset.blob)
        row = {**vars(dataset), "job_id": job}
        del row["job"]
        connection.execute(sa.insert(DATASETS).values(row))
        audit.record(connection, now, dataset.owner, "created", self.id, job=job)
        if self._blobs.exists(dataset.blob):
            self._content.unlink()
        else:
            self._blobs.adopt(self._content, dataset.blob)
        return dataset

    def discard(self) -> None:
        """Remove the file, where it has not been published."""
        self._content.unlink(missing_ok=True)


class Datasets:
    """The data sets of the service.

    Data sets of equal content share one blob. Whether it is still needed is decided, and acted
    upon, only under the lock that every upload of that content takes as well:

    - The file is published inside the transaction that adds the row, so no deletion can see
      the file without the row. A crash in between leaves a file without a row, which `sweep` finds.
    - `delete` commits the row's end first (a row without a file would be a lie), then, in a second
      transaction, looks for other rows and removes the file if there are none.
    """

    def __init__(
        self, database: Database, clock: Clock, blobs: Blobs, *, quotas: Quotas = NO_QUOTAS
    ) -> None:
        """`quotas` are those of keys that have none of their own."""
        self._database = database
        self._clock = clock
        self._blobs = blobs
        self._quotas = quotas
        self._viewer: str | None = None
        self._actor: str | None = None

    def seen_by(self, viewer: str | None, *, actor: str | None = None) -> Datasets:
        """What the key `viewer` sees of the data sets, all for None; `actor` is who changes any."""
        if viewer is None and actor is None:
            return self
        view = copy.copy(self)
        view._viewer = viewer
        view._actor = actor
        return view

    def create(
        self, new: NewDataset, content: Path, *, remember: Remember[Dataset] | None = None
    ) -> Dataset:
        """Store a data set whose content is the file `content`, from `Blobs.temporary`.

        The file is gone afterwards: published, or dropped where the same bytes are stored already.
        QuotaExceeded where its owner has too much stored.
        """
        staged = self.stage(new, content)
        now = self._clock()
        with self._database.write() as connection:
            check_stored(connection, new.owner, staged.new.stored_bytes, self._quotas)
            dataset = staged.publish(connection, now, job=None, shared=new.shared)
            if remember is not None:
                remember.store(connection, dataset, now)
        return dataset

    def stage(self, new: NewDataset, content: Path) -> StagedDataset:
        """Get a data set ready to be stored in a transaction with something else; see `create`."""
        plain_text(new.name, pointer="#/name")
        self._blobs.flush(content)  # before the lock is taken: the file may be large
        sized = replace(new, stored_bytes=content.stat().st_size)
        return StagedDataset(self._database, self._blobs, sized, content)

    def check_room(self, owner: str | None) -> None:
        """Raise QuotaExceeded where a key has as much stored as it may: before it sends more."""
        if owner is not None:
            with self._database.read() as connection:
                check_stored(connection, owner, 0, self._quotas)

    def get(self, dataset_id: str, *, pointer: str = "#") -> Dataset:
        with self._database.read() as connection:
            query = sa.select(DATASETS).where(
                DATASETS.c.id == dataset_id, seen(DATASETS, self._viewer)
            )
            row = connection.execute(query).one_or_none() if is_id(dataset_id, "ds") else None
        if row is None:
            raise NotFound(f"no data set has the id {dataset_id[:80]!r}", pointer=pointer)
        return _dataset_of(row)

    def list(self, *, limit: int = 100, after: str | None = None) -> Page[Dataset]:
        """Newest first."""
        with self._database.read() as connection:
            query = sa.select(DATASETS).where(seen(DATASETS, self._viewer))
            page = newest_first(
                connection, query, DATASETS.c.id, limit=limit, after=after, prefix="ds"
            )
        return Page([_dataset_of(row) for row in page.data], page.has_more)

    def delete(self, dataset_id: str) -> None:
        """Remove a data set, and its content if no other has the same.

        Conflict while a job that has not ended needs it.
        """
        with self._database.write() as connection:
            dataset = self._own(connection, dataset_id)
            column = tables.job_datasets.c.dataset_id
            refuse_needed(connection, column, dataset_id, "data set", viewer=self._viewer)
            connection.execute(sa.delete(DATASETS).where(DATASETS.c.id == dataset_id))
            audit.record(connection, self._clock(), self._actor, "deleted", dataset_id)
        drop_unused(self._database, self._blobs, dataset.blob)

    def share(self, dataset_id: str, shared: bool) -> Dataset:
        """Have every key see the data set, or its own alone."""
        with self._database.write() as connection:
            before = self._own(connection, dataset_id)
            if before.shared != shared:
                action: audit.Action = "shared" if shared else "unshared"
                audit.record(connection, self._clock(), self._actor, action, dataset_id)
            change = sa.update(DATASETS).where(DATASETS.c.id == dataset_id)
            row = connection.execute(change.values(shared=shared).returning(DATASETS)).one()
        return _dataset_of(row)

    def _own(self, connection: sa.Connection, dataset_id: str) -> Dataset:
        """The data set, locked, that the viewer may change; NotFound or Forbidden."""
        query = sa.select(DATASETS).where(DATASETS.c.id == dataset_id, seen(DATASETS, self._viewer))
        row = None
        if is_id(dataset_id, "ds"):
            row = connection.execute(query.with_for_update()).one_or_none()
        if row is None:
            raise NotFound(f"no data set has the id {dataset_id[:80]!r}")
        refuse_foreign(row.owner, self._viewer, f"data set {dataset_id}")
        return _dataset_of(row)


def _dataset_of(row: sa.Row[Any]) -> Dataset:
    fields = dict(row._mapping)
    return Dataset(job=fields.pop("job_id"), **fields)


def drop_unused(database: Database, blobs: Blobs, blob: str) -> bool:
    """Remove a content that no data set has; return whether it was so."""
    with database.write() as connection:
        database.lock(connection, blob)
        query = sa.select(DATASETS.c.id).where(DATASETS.c.blob == blob).limit(1)
        if connection.scalar(query) is not None:
            return False
        blobs.delete(blob)
        return True
