"""Rows of stored data sets that requests name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data import formats
from engine.data.dataset import Data
from engine.errors import DataError
from service.store.blobs import Blobs
from service.store.datasets import Datasets

__all__ = ["StoredData", "is_stored", "row_numbers"]


class StoredData:
    """Reads data sets by their ids."""

    def __init__(self, datasets: Datasets, blobs: Blobs) -> None:
        self._datasets = datasets
        self._blobs = blobs

    def seen_by(self, viewer: str | None) -> StoredData:
        """What the key `viewer` sees of the data sets; all for None."""
        return StoredData(self._datasets.seen_by(viewer), self._blobs)

    def load(self, dataset_id: str, pointer: str) -> Data:
        """Return a data set; NotFound points at `pointer`."""
        dataset = self._datasets.get(dataset_id, pointer=pointer)
        return self._blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))

    def of(self, inputs: Any) -> Data | None:
        """Return the data set that a request's `inputs` name; None where they hold the rows."""
        if not isinstance(inputs, Mapping) or not isinstance(inputs.get("dataset"), str):
            return None
        unknown = set(inputs) - {"dataset", "rows"}
        if unknown:
            raise DataError(
                f"`inputs` from a data set take `dataset` and `rows`, not {sorted(unknown)[0]!r}",
                pointer="#/inputs",
            )
        return self.load(inputs["dataset"], "#/inputs/dataset")


def is_stored(inputs: Any) -> bool:
    """Say whether `inputs` may name a data set."""
    return isinstance(inputs, dict) and "dataset" in inputs


def row_numbers(rows: Any, count: int) -> npt.NDArray[np.int64]:
    """Return the row numbers of `inputs`; raise DataError for what is none of so many rows."""
    if not isinstance(rows, list) or not rows:
        raise DataError(
            "`rows` is a non-empty list of row numbers, counted from 0", pointer="#/inputs/rows"
        )
    for index, row in enumerate(rows):
        if isinstance(row, bool) or not isinstance(row, int) or not 0 <= row < count:
            raise DataError(
                f"a row number is an integer from 0 to {count - 1}, got {row!r:.50}",
                pointer=f"#/inputs/rows/{index}",
            )
    return np.array(rows, dtype=np.int64)
