"""A data set in memory (or mapped from a file): a table, or named arrays with the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.data.gathering import Columns, cut, is_ascending
from engine.data.schema import ColumnType, Kind
from engine.errors import DataError

__all__ = [
    "BOOLEAN",
    "DATETIME",
    "INTEGER",
    "NUMBER",
    "TEXT",
    "Data",
    "Limits",
    "column_type",
    "pieces_of",
]

# The only Arrow types that a table of ours has; every other one is converted or refused.
NUMBER = pa.float64()
INTEGER = pa.int64()
BOOLEAN = pa.bool_()
TEXT = pa.large_string()
DATETIME = pa.timestamp("us")  # UTC

_TYPES: dict[Any, ColumnType] = {
    NUMBER: "number",
    INTEGER: "integer",
    BOOLEAN: "boolean",
    TEXT: "text",
    DATETIME: "datetime",
}


def column_type(arrow_type: pa.DataType) -> ColumnType:
    """Return our name for the type of a table's column."""
    return _TYPES[arrow_type]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How large a data set may be; checked before anything is unpacked wherever a format allows."""

    max_rows: int = 100_000_000
    max_columns: int = 20_000
    max_cells: int = 250_000_000
    max_arrays: int = 100
    max_unpacked_bytes: int = 4 * 2**30
    max_json_bytes: int = 128 * 2**20
    """JSON takes about ten times its size to read, so it has a limit of its own."""
    max_row_bytes: int = 8 * 2**20
    """Of one row of CSV, its header included."""
    max_text_bytes: int = 2**20
    """Of one text value."""

    def check_table(self, rows: int, columns: int) -> None:
        """Refuse a table that is too large or empty."""
        if columns > self.max_columns:
            raise DataError(f"{columns} columns are too many; at most {self.max_columns} are taken")
        if rows > self.max_rows:
            raise DataError(f"{rows} rows are too many; at most {self.max_rows} are taken")
        if rows * columns > self.max_cells:
            raise DataError(
                f"{rows} rows of {columns} columns are too many values; "
                f"at most {self.max_cells} are taken"
            )


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: either a `table` or `arrays`; never changed once made."""

    table: pa.Table | None = None
    arrays: Mapping[str, npt.NDArray[Any]] | None = None
    release: Callable[[], object] = lambda: None
    """Tells the system that the pages read so far of a mapped file need not stay in this process's
    memory; those that are read again are fetched again."""

    def __post_init__(self) -> None:
        if (self.table is None) == (self.arrays is None):
            raise ValueError("a data set is either a table or arrays")

    @property
    def kind(self) -> Kind:
        return "arrays" if self.table is None else "table"

    @property
    def rows(self) -> int:
        if self.table is not None:
            return int(self.table.num_rows)
        return len(next(iter((self.arrays or {}).values()), ()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns or arrays, in order."""
        return tuple(self.arrays or ()) if self.table is None else tuple(self.table.column_names)

    def type_of(self, name: str) -> ColumnType:
        """Return what the column (the array's elements) holds."""
        if self.table is not None:
            return column_type(self.table.schema.field(name).type)
        return array_type(self._array(name).dtype)

    def column(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> npt.NDArray[Any]:
        """Return a column (array), or the given rows of it, as a NumPy array.

        Numbers are float64, integers int64, booleans bool, texts `str` objects, datetimes
        datetime64[us]. Missing values are NaN in numbers and integers (which are float64 then),
        NaT in datetimes and None in objects for the rest.
        """
        if self.table is None:
            array = self._array(name)
            return array if rows is None else array[rows]
        if rows is not None and self.table.schema.field(name).type == NUMBER and is_ascending(rows):
            numbers = np.empty((1, len(rows)))
            self.gather([name], rows, numbers)
            column: npt.NDArray[Any] = numbers[0]
            return column
        values: npt.NDArray[Any] = self.values(name, rows).to_numpy()
        return values

    def values(self, name: str, rows: npt.NDArray[np.int64] | None = None) -> pa.ChunkedArray:
        """Return a table's column, or the given rows of it, as Arrow has it."""
        assert self.table is not None
        column = self.table.column(name)
        return column if rows is None else _taken(column, rows)

    def gather(
        self, names: Sequence[str], rows: npt.NDArray[np.int64], out: npt.NDArray[np.float64]
    ) -> None:
        """Write rows of a table's columns of numbers and integers to (columns, rows).

        Missing values are NaN. It takes less time where the rows are ascending.
        """
        if is_ascending(rows):
            self._columns.gather(names, rows, out)
            return
        for name, values in zip(names, out, strict=True):
            values[:] = self.column(name, rows)

    @cached_property
    def _columns(self) -> Columns:
        assert self.table is not None
        return Columns(self.table)

    def _array(self, name: str) -> npt.NDArray[Any]:
        if self.arrays is None or name not in self.arrays:
            raise KeyError(name)
        return self.arrays[name]


def pieces_of(
    count: int, rows: npt.NDArray[np.int64] | None, size: int
) -> Iterator[tuple[slice, npt.NDArray[np.int64] | None]]:
    """Cut `rows`, or all of `count`, into pieces of `size`: which of them, and their numbers.

    All rows at once, where they are one piece, are None.
    """
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        if rows is not None:
            yield part, rows[part]
        else:
            whole = part.stop - part.start == count
            yield part, None if whole else np.arange(part.start, part.stop, dtype=np.int64)


def _taken(column: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> pa.ChunkedArray:
    """Return rows of a column, of each chunk by itself: Arrow would first join all chunks."""
    if column.num_chunks < 2 or not len(rows) or (rows[1:] < rows[:-1]).any():
        return column.take(pa.array(rows, type=pa.int64()))
    ends = np.cumsum([len(chunk) for chunk in column.chunks])
    taken = []
    for number, _, local in cut(ends, rows):
        chunk = column.chunk(number)
        if isinstance(local, slice):
            taken.append(chunk.slice(local.start, local.stop - local.start))
        else:
            taken.append(chunk.take(pa.array(local)))
    return pa.chunked_array(taken, type=column.type)


def array_type(dtype: np.dtype[Any]) -> ColumnType:
    """Return our name for what an array of that dtype holds."""
    if dtype.kind == "b":
        return "boolean"
    if dtype.kind in "iu":
        return "integer"
    return "text" if dtype.kind == "U" else "number"
