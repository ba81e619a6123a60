"""Columns of lists to arrays: a table with such a column is a data set of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.dataset import Data, Limits
from engine.data.npz import check_arrays
from engine.errors import DataError

__all__ = ["array_of_column", "array_of_values", "is_array_type", "make_arrays"]

_MAX_LEVELS = 3

Array = npt.NDArray[Any]


def is_array_type(arrow_type: pa.DataType) -> bool:
    """Say whether a column of that type holds lists (of lists, …) of numbers or booleans."""
    levels = 0
    while _is_list(arrow_type):
        arrow_type = arrow_type.value_type
        levels += 1
    plain = pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type)
    return 1 <= levels <= _MAX_LEVELS and (plain or pa.types.is_boolean(arrow_type))


def make_arrays(arrays: Mapping[str, Array], limits: Limits) -> Data:
    """Return the data set of these arrays, which have as many rows each; checks them as npz's."""
    check_arrays(arrays, limits)
    return Data(arrays=dict(arrays))


def array_of_column(name: str, column: pa.ChunkedArray, limits: Limits) -> Array:
    """Return a column of an Arrow table as an array: of lists (rows, …), of values (rows,)."""
    try:
        # A file may lie about offsets and lengths; nothing below would survive that.
        column.validate(full=True)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"column {name!r} is damaged") from error
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        _refuse_missing(name, column.null_count)
        return _texts(name, column.to_pylist(), limits)
    kind = column.type
    if not (is_array_type(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)
            or pa.types.is_floating(kind)):  # fmt: skip
        raise DataError(
            f"column {name!r} is of type {kind}; beside columns of lists, which make a data set of "
            "arrays, take numbers, booleans and texts"
        )
    if not column.num_chunks:
        raise DataError("there are no rows; at least one is needed")
    parts = [_dense(name, chunk) for chunk in column.chunks if len(chunk)]
    if len({part.shape[1:] for part in parts}) > 1:
        raise _ragged(name)
    return np.concatenate(parts)


def array_of_values(name: str, values: Sequence[Any], limits: Limits) -> Array:
    """Return a column of JSON as an array; its lists have one length at every level."""
    level: list[Any] = list(values)
    shape = [len(level)]
    while level and isinstance(level[0], list):
        if len(shape) > _MAX_LEVELS:
            raise DataError(f"column {name!r} has lists within lists beyond 4 dimensions")
        lengths = {len(value) if isinstance(value, list) else -1 for value in level}
        if len(lengths) > 1:
            raise _ragged(name)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if type(None) in kinds:
        raise _missing(name)
    if kinds == {str}:
        return _texts(name, level, limits).reshape(shape)
    if kinds == {bool}:
        return np.array(level, dtype=np.bool_).reshape(shape)
    if not kinds <= {int, float}:
        raise DataError(
            f"column {name!r} holds values of several types, or lists of several lengths; an array "
            "is of numbers, of booleans or of texts"
        )
    try:
        dtype = np.int64 if kinds == {int} else np.float64
        return np.array(level, dtype=dtype).reshape(shape)
    except OverflowError:
        return np.array([float(value) for value in level]).reshape(shape)


def _dense(name: str, array: pa.Array) -> Array:
    _refuse_missing(name, array.null_count)
    if not _is_list(array.type):
        values: Array = array.to_numpy(zero_copy_only=False)
        return values
    lengths = pc.unique(pc.list_value_length(array)).to_pylist()
    if len(lengths) > 1:
        raise _ragged(name)
    inner = _dense(name, array.flatten())
    return inner.reshape(len(array), lengths[0], *inner.shape[1:])


def _texts(name: str, values: Sequence[str], limits: Limits) -> Array:
    longest = max(map(len, values), default=0)
    if 4 * longest * len(values) > limits.max_unpacked_bytes:
        raise DataError(
            f"the texts of column {name!r}, the longest of {longest} characters, take too much"
        )
    return np.array(values, dtype=np.str_)


def _is_list(arrow_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(arrow_type)
        or pa.types.is_large_list(arrow_type)
        or pa.types.is_fixed_size_list(arrow_type)
    )


def _refuse_missing(name: str, count: int) -> None:
    if count:
        raise _missing(name)


def _missing(name: str) -> DataError:
    return DataError(
        f"column {name!r} has missing values; arrays have none, and columns of lists make a data "
        "set of arrays"
    )


def _ragged(name: str) -> DataError:
    return DataError(
        f"column {name!r} holds lists of several lengths; those of an array have one at every level"
    )
