"""The `inputs` of a request, as JSON has them, to a matrix of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NoReturn
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from engine.errors import DataError

__all__ = ["FieldShape", "read_records"]

_SHOWN = 20
Matrix = npt.NDArray[np.float64]
Pointer = Callable[[int], str]


@dataclass(frozen=True)
class FieldShape:
    """A column of numbers, or an array with `size` numbers a row."""

    name: str
    size: int
    boolean: bool


def read_records(inputs: Any, fields: Sequence[FieldShape], *, spare: Collection[str]) -> Matrix:
    """Return (rows, numbers) in the order of `fields`.

    Takes a list of lists of numbers, a list of objects, or an object of columns. Keys in `spare`
    may be there and are passed over; others are refused.
    """
    if isinstance(inputs, dict):
        return _from_columns(inputs, fields, spare)
    if not isinstance(inputs, list | tuple):
        raise DataError(
            f"inputs are a list of rows or an object of columns, got {_kind(inputs)}",
            pointer="#/inputs",
        )
    if not inputs:
        raise DataError("there are no rows; give at least one", pointer="#/inputs")
    kinds = set(map(type, inputs))
    if kinds <= {list, tuple}:
        return _from_lists(inputs, fields)
    if kinds == {dict}:
        return _from_objects(inputs, fields, spare)
    alike = dict if isinstance(inputs[0], dict) else (list, tuple)
    index = next(i for i, row in enumerate(inputs) if not isinstance(row, alike))
    raise DataError(
        f"a row is a list of {_width(fields)} numbers or an object of column names and values, "
        f"and all rows are alike; got {_kind(inputs[index])}",
        pointer=f"#/inputs/{index}",
    )


def _from_lists(rows: Sequence[Sequence[Any]], fields: Sequence[FieldShape]) -> Matrix:
    width = _width(fields)
    names = [field.name for field in fields]
    expected = f"{width} numbers"
    if len(names) == width:
        expected += f" ({', '.join(names[:_SHOWN])}{', …' if width > _SHOWN else ''})"
    flags = np.repeat([field.boolean for field in fields], [field.size for field in fields])
    return _matrix(rows, flags, expected, lambda row: f"#/inputs/{row}")


def _matrix(
    rows: Sequence[Any], booleans: npt.NDArray[np.bool_], expected: str, pointer: Pointer
) -> Matrix:
    """Return lists of numbers as a matrix; the slow way is only taken to find what is wrong."""
    width = len(booleans)
    well_formed = (
        set(map(type, rows)) <= {list, tuple}
        and set(map(len, rows)) == {width}
        and set(map(type, chain.from_iterable(rows))) <= {int, float}
    )
    if well_formed:
        numbers = _as_numbers(rows)
        if numbers is not None and _are_binary(numbers[:, booleans]):
            return numbers
    matrix = np.empty((len(rows), width))
    for index, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            raise DataError(f"expected {expected}, got {_kind(row)}", pointer=pointer(index))
        if len(row) != width:
            raise DataError(f"expected {expected}, got a row of {len(row)}", pointer=pointer(index))
        for at, value in enumerate(row):
            matrix[index, at] = _number(value, bool(booleans[at]), f"{pointer(index)}/{at}")
    return matrix


def _as_numbers(values: Sequence[Any]) -> Matrix | None:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (OverflowError, ValueError):  # an integer beyond every float
        return None
    return numbers if np.isfinite(numbers).all() else None


def _are_binary(values: Matrix) -> bool:
    return bool(((values == 0) | (values == 1)).all())


def _from_objects(
    rows: Sequence[dict[str, Any]], fields: Sequence[FieldShape], spare: Collection[str]
) -> Matrix:
    allowed = {field.name for field in fields} | set(spare)
    if not set().union(*rows) <= allowed:
        index = next(i for i, row in enumerate(rows) if not row.keys() <= allowed)
        _refuse_unknown(rows[index], allowed, f"#/inputs/{index}")
    columns: list[list[Any]] = []
    for field in fields:
        try:
            columns.append([row[field.name] for row in rows])
        except KeyError:
            index = next(i for i, row in enumerate(rows) if field.name not in row)
            _refuse_missing(field, f"#/inputs/{index}/{_token(field.name)}")
    parts = [
        _column(values, field, _below_rows(field.name))
        for field, values in zip(fields, columns, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _below_rows(name: str) -> Pointer:
    token = _token(name)
    return lambda row: f"#/inputs/{row}/{token}"


def _below(where: str) -> Pointer:
    return lambda row: f"{where}/{row}"


def _from_columns(
    columns: dict[str, Any], fields: Sequence[FieldShape], spare: Collection[str]
) -> Matrix:
    _refuse_unknown(columns, {field.name for field in fields} | set(spare), "#/inputs")
    rows: int | None = None
    parts: list[Matrix] = []
    for field in fields:
        where = f"#/inputs/{_token(field.name)}"
        if field.name not in columns:
            _refuse_missing(field, where)
        values = columns[field.name]
        if not isinstance(values, list | tuple):
            raise DataError(
                f"expected a list of the values of {field.name!r}, got {_kind(values)}",
                pointer=where,
            )
        rows = len(values) if rows is None else rows
        if len(values) != rows:
            raise DataError(
                f"{field.name!r} has {len(values)} values, {fields[0].name!r} has {rows}; "
                "all columns have the same number",
                pointer=where,
            )
        if rows == 0:
            raise DataError("there are no rows; give at least one", pointer=where)
        parts.append(_column(values, field, _below(where)))
    return np.concatenate(parts, axis=1)


def _column(values: Sequence[Any], field: FieldShape, pointer: Pointer) -> Matrix:
    """Return the values of one column (array) as (rows, size)."""
    if field.size > 1 or any(isinstance(value, list | tuple) for value in values):
        flags = np.full(field.size, field.boolean)
        return _matrix(values, flags, f"a list of {field.size} numbers", pointer)
    if set(map(type, values)) <= {int, float}:
        numbers = _as_numbers(values)
        if numbers is not None and (not field.boolean or _are_binary(numbers)):
            return numbers[:, np.newaxis]
    read = [_number(value, field.boolean, pointer(row)) for row, value in enumerate(values)]
    return np.array(read, dtype=np.float64)[:, np.newaxis]


def _number(value: Any, boolean: bool, pointer: str) -> float:
    if isinstance(value, bool) and boolean:
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        hint = "; missing values are not taken yet" if value is None else ""
        expected = "true, false, 0 or 1" if boolean else "a number"
        raise DataError(f"expected {expected}, got {_kind(value)}{hint}", pointer=pointer)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError("expected a finite number that a 64-bit float holds", pointer=pointer)
    if boolean and number not in (0.0, 1.0):
        raise DataError(f"expected true, false, 0 or 1, got {number!r}", pointer=pointer)
    return number


def _refuse_unknown(keys: Collection[str], allowed: Collection[str], pointer: str) -> None:
    unknown = [key for key in keys if key not in allowed]
    if unknown:
        some = ", ".join(repr(str(key)[:256]) for key in unknown[:_SHOWN])
        raise DataError(
            f"the model does not know {some}; its columns are "
            f"{', '.join(map(repr, sorted(allowed)[:_SHOWN]))}"
            + (", …" if len(allowed) > _SHOWN else ""),
            pointer=pointer,
        )


def _refuse_missing(field: FieldShape, pointer: str) -> NoReturn:
    raise DataError(f"{field.name!r} is missing; the model needs it", pointer=pointer)


def _width(fields: Sequence[FieldShape]) -> int:
    return sum(field.size for field in fields)


def _token(name: str) -> str:
    """Return a name as a step of a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@?")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"
