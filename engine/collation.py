"""Long answers on their way into a data set: some rows at a time, and then all of them as one file.

What is answered for a row becomes a row of a table where it is a list of numbers and labels, and
else a row of arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.data import formats
from engine.data.dataset import BOOLEAN, DATETIME, INTEGER, NUMBER, TEXT, Data
from engine.data.labels import Label
from engine.data.npz import is_array_name, load_npz, write_npz_pieces
from engine.data.profile import profile
from engine.data.schema import Kind, Schema
from engine.errors import DataError
from engine.tabulation import Block

__all__ = [
    "MAX_COLUMNS",
    "Layout",
    "Rows",
    "collate",
    "column_of",
    "label_type",
    "passed_through",
    "type_of",
]

Array = npt.NDArray[Any]
Rows = Mapping[str, Any]
"""Some rows of a result: Arrow arrays of a table, NumPy arrays else, by name."""

MAX_COLUMNS = 1000
"""Of a table; with more, each statistic is an array."""
_MAX_DIMENSIONS = 4
_MAX_TEXT = 1024
_LARGEST = 2**63


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """What a data set of answers consists of."""

    kind: Kind
    schema: pa.Schema | None
    """The columns of a table."""
    arrays: Mapping[str, str]
    """Names of arrays by those of the columns passed through and of the blocks."""

    @classmethod
    def of(
        cls,
        blocks: Sequence[Block],
        passed: Mapping[str, pa.Array],
        *,
        rank: int,
        classes: Sequence[Label] | None,
    ) -> Layout:
        """Return what takes such blocks, and columns passed through before them.

        `rank` is the number of axes of the network's output for one row, `classes` are a
        classifier's. Raises DataError for names that clash, and for what no data set holds.
        """
        flat = rank == 1 and all(block.is_flat for block in blocks)
        if flat and sum(max(1, *block.values.shape[1:], 1) for block in blocks) <= MAX_COLUMNS:
            fields = [pa.field(name, column.type) for name, column in passed.items()]
            for block in blocks:
                kind = type_of(block.values, classes or ())
                fields += [pa.field(name, kind) for name, _ in block.columns()]
            _require_distinct([field.name for field in fields], passed)
            return cls(kind="table", schema=pa.schema(fields), arrays={})
        # Arrays have no missing values, so that what no row has is left out.
        there = [block for block in blocks if not _is_missing(block.values)]
        names = [*passed, *(block.name for block in there)]
        arrays = {name: name.replace(":", ".") for name in names}
        _require_distinct(list(arrays.values()) if len(arrays) == len(names) else names, passed)
        for block in there:
            if block.values.ndim > _MAX_DIMENSIONS or not is_array_name(arrays[block.name]):
                raise DataError(
                    f"{block.name!r} is {_named_so(block.values.ndim)}, which no data set holds; "
                    "ask for other `statistics` or `outputs`",
                    pointer="#/statistics",
                )
        layout = cls(kind="arrays", schema=None, arrays=arrays)
        layout.check(passed)
        return layout

    def check(self, passed: Mapping[str, pa.Array]) -> None:
        """Refuse columns passed through with values that are not held beside such results."""
        if self.schema is None:
            for name, column in passed.items():
                _require_array(name, column)

    def rows(self, blocks: Sequence[Block], passed: Mapping[str, pa.Array]) -> Rows:
        """Return some rows as they are stored."""
        if self.schema is None:
            found = {name: _plain(column) for name, column in passed.items()}
            found |= {block.name: block.values for block in blocks}
            return {new: _native(found[name]) for name, new in self.arrays.items()}
        columns: dict[str, pa.Array] = dict(passed)
        for block in blocks:
            columns |= dict(block.columns())
        return {field.name: column_of(columns[field.name], field.type) for field in self.schema}

    def write(self, pieces: Sequence[Rows], stream: BinaryIO) -> None:
        """Write rows as a part for `collate`."""
        if self.schema is None:
            write_npz_pieces({n: [piece[n] for piece in pieces] for n in pieces[0]}, stream)
            return
        with pa.ipc.new_file(pa.PythonFile(stream, "w"), self.schema) as writer:
            for piece in pieces:
                columns = [piece[name] for name in self.schema.names]
                writer.write_batch(pa.record_batch(columns, schema=self.schema))


def collate(kind: Kind, parts: Sequence[Path], path: Path) -> Schema:
    """Write the rows of all parts, in their order, to `path` as a data set is stored.

    The bytes depend on the rows alone, not on where they were cut. Parts are mapped, not read.
    """
    if kind == "table":
        tables = [pa.ipc.open_file(pa.memory_map(str(part))).read_all() for part in parts]
        data = Data(table=pa.concat_tables(tables))
        formats.save(data, path)
        return profile(data)
    loaded = [load_npz(part) for part in parts]
    with path.open("wb") as file:
        write_npz_pieces({name: [arrays[name] for arrays in loaded] for name in loaded[0]}, file)
    return profile(Data(arrays=load_npz(path)))


def passed_through(data: Data, name: str, rows: npt.NDArray[np.int64], *, pointer: str) -> pa.Array:
    """Return rows of a column (or of an array of one value a row) as a table's column."""
    if name not in data.names:
        some = ", ".join(map(repr, data.names[:20]))
        raise DataError(f"the data set has no {name!r}; it has {some}", pointer=pointer)
    if data.table is not None:
        column = data.table.column(name).take(pa.array(rows))
        chunks: list[pa.Array] = column.chunks
        return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    values = data.column(name, rows)
    if values.ndim > 1 and values[0].size == 1:
        values = values.reshape(len(values))
    if values.ndim > 1:
        raise DataError(
            f"{name!r} has {values[0].size} values a row, and a key has one", pointer=pointer
        )
    # 64 bits without a sign do not all fit into those with one.
    kind = NUMBER if values.dtype == np.uint64 else _ARROW.get(values.dtype.kind, NUMBER)
    return column_of(values, kind)


_ARROW = {"b": BOOLEAN, "i": INTEGER, "u": INTEGER, "U": TEXT}


def label_type(classes: Sequence[Label]) -> pa.DataType:
    """Return the type of a column of labels, which are all of one type."""
    if all(isinstance(label, bool) for label in classes):
        return BOOLEAN
    if all(isinstance(label, int) for label in classes):
        return INTEGER if all(-_LARGEST <= int(label) < _LARGEST for label in classes) else NUMBER
    return TEXT


def type_of(values: Array, classes: Sequence[Label]) -> pa.DataType:
    """Return the type of a column of such values: numbers, marks or labels."""
    if values.dtype == object:
        return label_type(classes)
    return BOOLEAN if values.dtype == np.bool_ else NUMBER


def column_of(values: Any, kind: pa.DataType) -> pa.Array:
    """Return numbers or labels as a column; what is not finite is missing."""
    if isinstance(values, pa.Array):
        return values
    if kind == NUMBER:
        numbers = np.ascontiguousarray(values, dtype=np.float64)
        return pa.array(numbers, type=NUMBER, mask=~np.isfinite(numbers))
    return pa.array(values.tolist(), type=kind)


def _plain(column: pa.Array) -> Array:
    values: Array = column.to_numpy(zero_copy_only=False)
    return values


def _native(values: Array) -> Array:
    """Return an array as npz holds it: labels are texts, integers or booleans."""
    return np.array(values.tolist()) if values.dtype == object else values


def _is_missing(values: Array) -> bool:
    return values.dtype.kind == "f" and not np.isfinite(values).any()


def _require_distinct(names: Sequence[str], passed: Mapping[str, pa.Array]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        advice = "rename the key column" if twice[0] in passed else "ask for fewer `outputs`"
        raise DataError(
            f"the result would have two columns {twice[0]!r}; {advice}",
            pointer="#/key" if twice[0] in passed else "#/outputs",
        )


def _require_array(name: str, column: pa.Array) -> None:
    """Refuse a key that npz does not hold beside a result of arrays."""
    if not is_array_name(name) or column.type == DATETIME:
        raise DataError(
            f"the result consists of arrays, and none is a time or called {name!r}; names are "
            "letters, digits, '_', '-' and '.', up to 64 of them",
            pointer="#/key",
        )
    if column.null_count:
        raise DataError(
            f"the result consists of arrays, which have no missing values, and {name!r} has some",
            pointer="#/key",
        )
    if column.type == TEXT and (pc.max(pc.utf8_length(column)).as_py() or 0) > _MAX_TEXT:
        raise DataError(
            f"the result consists of arrays, whose texts have at most {_MAX_TEXT} characters; "
            f"{name!r} has a longer one",
            pointer="#/key",
        )


def _named_so(dimensions: int) -> str:
    if dimensions > _MAX_DIMENSIONS:
        return f"an array of {dimensions} dimensions"
    return "a name that is too long"
