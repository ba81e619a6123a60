"""The `inputs` of a request to a model of sequences or images: nested lists to arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from engine.data.arrays import ScaledArray
from engine.data.category_arrays import CategoryArray
from engine.data.given_columns import is_column, listed
from engine.data.records import kind_of, pointer_token
from engine.data.shapes import ArrayField
from engine.errors import DataError

__all__ = ["encode_array_records", "given_steps"]

_SHOWN = 20
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Pointer = Callable[[int], str]


def given_steps(inputs: Any, field: ArrayField, *, lone: bool) -> int | None:
    """Return how many steps the first row of a sequence has; None where there is none.

    `lone` says that a row may be the sequence itself, for it is all that the model reads.
    """
    if isinstance(inputs, dict):
        rows = inputs.get(field.name)
        if isinstance(rows, np.ndarray):
            return rows.shape[1] or None if rows.ndim > 1 else None
        first = rows[0] if isinstance(rows, list | tuple) and rows else None
    else:
        first = inputs[0] if isinstance(inputs, list | tuple) and inputs else None
        if isinstance(first, dict):
            first = first.get(field.name)
        elif not lone:
            return None
    if isinstance(first, str) and not isinstance(field, CategoryArray):
        return None
    return len(first) or None if isinstance(first, list | tuple | str) else None


def encode_array_records(
    inputs: Any,
    fields: Sequence[ArrayField],
    *,
    others: Sequence[str] = (),
    spare: Collection[str] = (),
) -> dict[str, Floats]:
    """Return each array as (rows, *shape), as the network reads it.

    Takes a list of rows, where the model reads one array and nothing else; a list of objects, or an
    object of arrays. `others` are the columns that the model reads beside; keys in `spare` may be
    there and are passed over; others are refused.
    """
    known = [*(field.name for field in fields), *others]
    if isinstance(inputs, dict):
        rows = _from_object(inputs, fields, known, spare)
    elif not isinstance(inputs, list | tuple):
        raise DataError(
            f"inputs are a list of rows or an object of arrays, got {kind_of(inputs)}",
            pointer="#/inputs",
        )
    elif not inputs:
        raise DataError("there are no rows; give at least one", pointer="#/inputs")
    elif isinstance(inputs[0], dict):
        rows = _from_objects(inputs, fields, known, spare)
    elif len(known) > 1:
        raise DataError(
            f"a row is an object of {_listed(known)}, got {kind_of(inputs[0])}",
            pointer="#/inputs/0",
        )
    else:
        rows = {fields[0].name: inputs}
    return {
        field.name: _encoded(rows[field.name], field, _row_pointer(inputs, field.name))
        for field in fields
    }


def _encoded(values: Any, field: ArrayField, where: Pointer) -> Floats:
    if isinstance(field, CategoryArray):
        return field.read(listed(values), where)
    encoded = field.encode(_array(values, field, where))
    if not np.isfinite(encoded).all():
        _refuse_far(field, encoded, where)
    return encoded


def _row_pointer(inputs: Any, name: str) -> Pointer:
    """Return what points at a row of an array in `inputs`."""
    token = pointer_token(name)
    if isinstance(inputs, dict):
        return lambda row: f"#/inputs/{token}/{row}"
    if isinstance(inputs[0], dict):
        return lambda row: f"#/inputs/{row}/{token}"
    return lambda row: f"#/inputs/{row}"


def _refuse_far(field: ScaledArray, encoded: Floats, where: Pointer) -> NoReturn:
    """Say which number of an array, encoded as (rows, *shape), no float of 32 bits holds."""
    row, *position = (int(i) for i in np.argwhere(~np.isfinite(encoded))[0])
    raise DataError(
        f"the number is too far from those of {field.name!r} that the model was trained on to be "
        "represented",
        pointer="/".join([where(row), *map(str, position)]),
    )


def _from_object(
    arrays: dict[str, Any], fields: Sequence[ArrayField], known: Sequence[str], spare: Any
) -> dict[str, Any]:
    _refuse_unknown(arrays, known, spare, "#/inputs")
    read: dict[str, Any] = {}
    for field in fields:
        where = f"#/inputs/{pointer_token(field.name)}"
        if field.name not in arrays:
            raise DataError(f"{field.name!r} is missing; the model needs it", pointer=where)
        values = arrays[field.name]
        if not is_column(values):
            raise DataError(
                f"expected a list of rows, each {_expected(field)}, got {kind_of(values)}",
                pointer=where,
            )
        if not len(values):
            raise DataError("there are no rows; give at least one", pointer=where)
        first = next(iter(read), None)
        if first is not None and len(read[first]) != len(values):
            raise DataError(
                f"{field.name!r} has {len(values)} rows, {first!r} has {len(read[first])}; "
                "all have the same number",
                pointer=where,
            )
        read[field.name] = values
    return read


def _from_objects(
    rows: Sequence[Any], fields: Sequence[ArrayField], known: Sequence[str], spare: Any
) -> dict[str, Any]:
    allowed = {*known, *spare}
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"all rows are objects, as the first; got {kind_of(row)}",
                pointer=f"#/inputs/{index}",
            )
        if not row.keys() <= allowed:
            _refuse_unknown(row, known, spare, f"#/inputs/{index}")
    read: dict[str, Any] = {}
    for field in fields:
        where = _row_pointer(rows, field.name)
        for index, row in enumerate(rows):
            if field.name not in row:
                raise DataError(
                    f"{field.name!r} is missing; the model needs it", pointer=where(index)
                )
        read[field.name] = [row[field.name] for row in rows]
    return read


def _refuse_unknown(
    row: dict[str, Any], known: Sequence[str], spare: Collection[str], pointer: str
) -> None:
    unknown = [key for key in row if key not in known and key not in spare]
    if unknown:
        raise DataError(
            f"the model does not know {str(unknown[0])[:256]!r}; it reads {_listed(known)}",
            pointer=pointer,
        )


def _array(values: Any, field: ScaledArray, where: Pointer) -> Doubles:
    """Return nested lists of numbers as (rows, *shape); the first thing wrong has its pointer."""
    if isinstance(values, np.ndarray):
        if values.shape[1:] == field.shape and values.dtype.kind in "iuf":
            found = values.astype(np.float64)
            if np.isfinite(found).all():
                return found
        values = listed(values)
    level: Sequence[Any] = values
    for length in field.shape:
        if not set(map(type, level)) <= {list, tuple} or set(map(len, level)) != {length}:
            break
        level = list(chain.from_iterable(level))
    else:
        if set(map(type, level)) <= {int, float}:
            try:
                numbers = np.array(level, dtype=np.float64)
            except OverflowError:  # an integer beyond every float
                numbers = np.array([math.inf])
            if np.isfinite(numbers).all():
                return numbers.reshape(len(values), *field.shape)
    raise next(_mistakes(values, field, where))


def _mistakes(values: Sequence[Any], field: ScaledArray, where: Pointer) -> Iterator[DataError]:
    for row, value in enumerate(values):
        yield from _mistakes_in(value, field.shape, field, where(row))


def _mistakes_in(
    value: Any, shape: tuple[int, ...], field: ScaledArray, pointer: str
) -> Iterator[DataError]:
    """Yield what is wrong with one value, and then with those within."""
    whole = f"; a row of {field.name!r} is {_shape_of_lists(field.shape)}"
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield DataError(f"expected a number, got {kind_of(value)}{whole}", pointer=pointer)
        elif isinstance(value, int) or not math.isfinite(value):
            try:
                finite = math.isfinite(value)
            except OverflowError:
                finite = False
            if not finite:
                yield DataError(
                    "expected a finite number that a 64-bit float holds", pointer=pointer
                )
        return
    expected = _shape_of_lists(shape)
    more = "" if shape == field.shape else whole
    if not isinstance(value, list | tuple):
        yield DataError(f"expected {expected}, got {kind_of(value)}{more}", pointer=pointer)
    elif len(value) != shape[0]:
        yield DataError(f"expected {expected}, got a list of {len(value)}{more}", pointer=pointer)
    else:
        for index, element in enumerate(value):
            yield from _mistakes_in(element, shape[1:], field, f"{pointer}/{index}")


def _shape_of_lists(shape: Sequence[int]) -> str:
    """Say how lists nest: ``a list of 50 lists of 3 numbers``."""
    return "a list of " + " lists of ".join(map(str, shape)) + " numbers"


def _expected(field: ArrayField) -> str:
    if isinstance(field, CategoryArray):
        return f"a list of {field.steps} texts"
    return _shape_of_lists(field.shape)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
