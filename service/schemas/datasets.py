"""Data sets, as they are told of."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from engine.data.schema import Array, Column
from service.schemas.views import View
from service.store.datasets import Dataset

__all__ = ["DatasetView", "PreviewView"]


class DatasetView(View):
    """A stored data set."""

    id: str = Field(examples=["ds_01k9t3v5rqk2m8xw4c7h1n6b0e"])
    name: str | None
    kind: Literal["table", "arrays"]
    rows: int
    columns: list[Column]
    arrays: list[Array]
    bytes: int
    """Size of what was uploaded."""
    sha256: str
    """Hash of what was uploaded."""
    job: str | None
    """The job that made it, whose size and hash are those of what is stored; null for an upload."""
    shared: bool
    """Every key sees it; else its own and admins do."""
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetView:
        return cls(
            id=dataset.id,
            name=dataset.name,
            kind=dataset.kind,
            rows=dataset.rows,
            columns=dataset.schema["columns"],
            arrays=dataset.schema["arrays"],
            bytes=dataset.bytes,
            sha256=dataset.sha256,
            job=dataset.job,
            shared=dataset.shared,
            created_at=dataset.created_at,
        )


class PreviewView(View):
    """The first rows of a data set: records of a table, or lists by array."""

    rows: list[dict[str, Any]] | dict[str, list[Any]]
