"""Rows of many columns of numbers at once, taken straight out of the chunks of a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Columns", "cut", "is_ascending"]

Rows = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
Piece = tuple[int, slice, Rows | slice]
"""A chunk, which of the rows are in it, and their numbers within it."""


def is_ascending(rows: Rows) -> bool:
    """Say whether there are rows, in the order of the table; some may be there twice."""
    return len(rows) > 0 and bool((rows[1:] >= rows[:-1]).all())


def cut(ends: Rows, rows: Rows) -> list[Piece]:
    """Cut ascending row numbers into those of each chunk; raises IndexError beyond the last.

    `ends` are the numbers of rows up to the end of each chunk. Rows that follow each other are a
    slice.
    """
    cuts = np.searchsorted(rows, ends).tolist()
    if cuts[-1] < len(rows) or rows[0] < 0:
        raise IndexError(f"the column has rows 0 to {ends[-1] - 1}")
    pieces: list[Piece] = []
    begin = 0
    for chunk, ((start, stop), end) in enumerate(
        zip(pairwise([0, *cuts]), ends.tolist(), strict=True)
    ):
        if start < stop:
            first, last = int(rows[start]) - begin, int(rows[stop - 1]) - begin
            if last - first == stop - start - 1 and _follow(rows[start:stop]):
                pieces.append((chunk, slice(start, stop), slice(first, last + 1)))
            else:
                pieces.append((chunk, slice(start, stop), rows[start:stop] - begin))
        begin = end
    return pieces


def _follow(rows: Rows) -> bool:
    return bool((np.diff(rows) == 1).all())


class Columns:
    """The columns of numbers of a table, as NumPy sees them without copying."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._ends: dict[str, Rows] = {}
        self._views: dict[str, list[Array | None]] = {}

    def gather(self, names: Sequence[str], rows: Rows, out: npt.NDArray[np.float64]) -> None:
        """Write ascending rows of columns of numbers to (columns, rows), NaN where missing."""
        last: Rows | None = None
        pieces: list[Piece] = []
        for name, values in zip(names, out, strict=True):
            ends = self._ends_of(name)
            if ends is not last:
                pieces = cut(ends, rows)
                last = ends
            views = self._views_of(name)
            for chunk, part, local in pieces:
                view = views[chunk]
                if view is None:
                    values[part] = self._with_gaps(name, chunk, local)
                elif isinstance(local, slice) or view.dtype != np.float64:
                    values[part] = view[local]
                else:
                    np.take(view, local, out=values[part], mode="clip")

    def _ends_of(self, name: str) -> Rows:
        """Return where a column's chunks end: the same object for columns that are cut alike."""
        if name not in self._ends:
            ends = np.cumsum([len(chunk) for chunk in self._table.column(name).chunks])
            alike = (own for own in self._ends.values() if np.array_equal(own, ends))
            self._ends[name] = next(alike, ends.astype(np.int64))
        return self._ends[name]

    def _views_of(self, name: str) -> list[Array | None]:
        if name not in self._views:
            self._views[name] = [
                None if chunk.null_count else chunk.to_numpy()
                for chunk in self._table.column(name).chunks
            ]
        return self._views[name]

    def _with_gaps(self, name: str, chunk: int, local: Rows | slice) -> Array:
        column = self._table.column(name).chunk(chunk)
        if isinstance(local, slice):
            taken = column.slice(local.start, local.stop - local.start)
        else:
            taken = column.take(pa.array(local))
        values: Array = taken.to_numpy(zero_copy_only=False)
        return values
