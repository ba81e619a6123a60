"""The schema of a data set with the statistics of its columns, exact, a column at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.dataset import Data, array_type, column_type
from engine.data.schema import Array, Column, Schema

__all__ = ["profile", "profile_rows"]

_MAX_CATEGORIES = 1000
_MAX_CATEGORY = 256
_PIECE = 2**20
# Sums of numbers beyond this could leave the range of a float.
_LARGE = 1e290


def profile(data: Data) -> Schema:
    """Return what the data set looks like from outside."""
    if data.table is None:
        arrays = tuple(_array(name, array) for name, array in (data.arrays or {}).items())
        return Schema(kind="arrays", rows=data.rows, arrays=arrays)
    columns = []
    for name, column in zip(data.table.column_names, data.table.columns, strict=True):
        columns.append(_column(name, column))
        data.release()
    return Schema(kind="table", rows=data.rows, columns=tuple(columns))


def profile_rows(
    schema: Schema, data: Data, rows: npt.NDArray[np.int64], *, anew: str | None = None
) -> Schema:
    """Return the profile of a data set with the missing values of the given rows only.

    Of the column `anew` all the rest is that of these rows, too.
    """
    if data.table is None:
        return schema
    columns = []
    for column in schema.columns:
        if column.name == anew:
            column = _column(column.name, data.table.column(column.name).take(pa.array(rows)))
        elif column.nulls:
            missing = data.table.column(column.name).is_null().to_numpy()[rows]
            column = column.model_copy(update={"nulls": int(missing.sum())})
        columns.append(column)
    return schema.model_copy(update={"columns": tuple(columns)})


def _array(name: str, array: npt.NDArray[Any]) -> Array:
    dtype = "text" if array_type(array.dtype) == "text" else array.dtype.name
    return Array(name=name, shape=array.shape, dtype=dtype)


def _column(name: str, column: pa.ChunkedArray) -> Column:
    kind = column_type(column.type)
    nulls = int(column.null_count)
    if kind == "text":
        return Column(name=name, type=kind, nulls=nulls, categories=_categories(column))
    if kind not in ("number", "integer") or nulls == len(column):
        return Column(name=name, type=kind, nulls=nulls)
    bounds = pc.min_max(column).as_py()
    low, high = float(bounds["min"]), float(bounds["max"])
    mean, std = _moments(column, len(column) - nulls, low, high)
    return Column(name=name, type=kind, nulls=nulls, min=low, max=high, mean=mean, std=std)


def _moments(
    column: pa.ChunkedArray, count: int, low: float, high: float
) -> tuple[float, float | None]:
    if low == high:  # exactly, where a rounded mean would leave a deviation of 1e-17
        return low, 0.0 if count > 1 else None
    scale = max(abs(low), abs(high))
    scale = scale if scale > _LARGE else 1.0
    total = math.fsum(float((piece / scale).sum()) for piece in _pieces(column))
    mean = total / count * scale
    mean = min(max(mean, low), high)
    unit = max(mean - low, high - mean)  # deviations in this unit neither overflow nor vanish
    if not 0 < unit < math.inf:
        return mean, None
    square = math.fsum(float((((piece - mean) / unit) ** 2).sum()) for piece in _pieces(column))
    std = unit * math.sqrt(square / (count - 1))
    return mean, std if math.isfinite(std) else None


def _pieces(column: pa.ChunkedArray) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(column), _PIECE):
        values = column.slice(start, _PIECE).drop_null().to_numpy()
        yield values.astype(np.float64, copy=False)


def _categories(column: pa.ChunkedArray) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for chunk in column.chunks:
        distinct = chunk.unique().drop_null()
        short = distinct.filter(pc.less_equal(pc.utf8_length(distinct), _MAX_CATEGORY))
        found.update(dict.fromkeys(short.slice(0, _MAX_CATEGORIES + len(found)).to_pylist()))
        if len(found) >= _MAX_CATEGORIES:
            break
    return tuple(islice(found, _MAX_CATEGORIES))
