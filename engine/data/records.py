"""The `inputs` of a request, as JSON has them, to a matrix of numbers, a column for each value.

Booleans are 0 and 1, times seconds since 1970, texts the numbers of their categories; a missing
value is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import chain
from typing import Any, NoReturn
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from engine.data.categories import Categories, spelled
from engine.data.given_columns import is_column, listed
from engine.data.scaling import Scaled
from engine.data.spelling import expected_time, number_in, seconds_in
from engine.errors import DataError

__all__ = ["FieldShape", "kind_of", "pointer_token", "read_records"]

_SHOWN = 20
_PIECE = 2**15
"""Values that are read without a break."""
Matrix = npt.NDArray[np.float64]
Pointer = Callable[[int], str]


class FieldShape:
    """What a row of a request has to hold for one column (array), and how it is read."""

    def __init__(self, field: Scaled | Categories, *, is_array: bool = True) -> None:
        """`is_array` says that a row of it may be a list, even of a single number."""
        self.name = field.name
        self.is_array = is_array
        self.size = field.size
        self.boolean = field.type == "boolean"
        self.plain = field.type not in ("text", "datetime", "numeral", "date")
        """Whether its values are numbers (or booleans) as they are."""
        self._field = field

    def numbers(self, values: npt.NDArray[Any]) -> Matrix | None:
        """Return a whole column of an array (rows, size), None where values are to be looked at."""
        if isinstance(self._field, Categories) or values.ndim != (1 if self.size == 1 else 2):
            return None
        kind = values.dtype.kind
        if self._field.type in ("datetime", "date"):
            if kind != "M":
                return None
            micro = values.astype("datetime64[us]").astype(np.int64)
            found = np.where(np.isnat(values), np.nan, micro / 1e6)
        else:
            if kind not in ("biuf" if self.boolean else "iuf"):
                return None
            found = values.astype(np.float64)
        found = found.reshape(len(found), -1)
        missing = np.isnan(found)
        if found.shape[1] != self.size or np.isinf(found).any():
            return None
        if missing.any() and not self._field.takes_missing:
            return None
        return found if not self.boolean or _are_binary(found[~missing]) else None

    def read(self, value: Any) -> float:
        """Return one value as a number; the error has no pointer."""
        if value is None:
            if self._field.takes_missing:
                return math.nan
            raise DataError(
                f"expected {self._expected}, got null; the model takes no missing values "
                f"for {self.name!r}"
            )
        if isinstance(self._field, Categories):
            if isinstance(value, list | dict) or (
                isinstance(value, str) != (self._field.of == "text")
            ):
                raise self._mistaken(value)
            code = self._field.code_of(value)
            if code is None:
                raise DataError(self._field.unseen(spelled(value)))
            return code
        if self._field.type == "numeral" and isinstance(value, str):
            return number_in(value)
        if self._field.type not in ("datetime", "date"):
            return self._number(value)
        if not isinstance(value, str):
            raise self._mistaken(value)
        return seconds_in(value, self._field.format)

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) and self.boolean:
            return float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._mistaken(value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise DataError("expected a finite number that a 64-bit float holds")
        if self.boolean and number not in (0.0, 1.0):
            raise DataError(f"expected {self._expected}, got {number!r}")
        return number

    def _mistaken(self, value: Any) -> DataError:
        return DataError(f"expected {self._expected}, got {kind_of(value)}")

    @property
    def _expected(self) -> str:
        if self.boolean:
            return "true, false, 0 or 1"
        if isinstance(self._field, Categories):
            what = {"text": "a text", "boolean": "a boolean"}.get(self._field.of, "a number")
            return f"a category of {self.name!r} ({what})"
        if self._field.type in ("datetime", "date"):
            return expected_time(self._field.format)
        return (
            "a number, or a text that spells one" if self._field.type == "numeral" else "a number"
        )


def read_records(inputs: Any, fields: Sequence[FieldShape], *, spare: Collection[str]) -> Matrix:
    """Return (rows, numbers) in the order of `fields`.

    Takes a list of lists of values, a list of objects, or an object of columns. Keys in `spare`
    may be there and are passed over; others are refused.
    """
    if isinstance(inputs, dict):
        return _from_columns(inputs, fields, spare)
    if not isinstance(inputs, list | tuple):
        raise DataError(
            f"inputs are a list of rows or an object of columns, got {kind_of(inputs)}",
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
        f"a row is a list of {_counted(fields)} or an object of column names and values, "
        f"and all rows are alike; got {kind_of(inputs[index])}",
        pointer=f"#/inputs/{index}",
    )


def _from_lists(rows: Sequence[Sequence[Any]], fields: Sequence[FieldShape]) -> Matrix:
    names = [field.name for field in fields]
    width = sum(field.size for field in fields)
    expected = _counted(fields)
    if len(names) == width:
        expected += f" ({', '.join(names[:_SHOWN])}{', …' if width > _SHOWN else ''})"
    cells = list(chain.from_iterable([field] * field.size for field in fields))
    return _matrix(rows, cells, expected, lambda row: f"#/inputs/{row}")


def _matrix(
    rows: Sequence[Any], cells: Sequence[FieldShape], expected: str, pointer: Pointer
) -> Matrix:
    """Return lists of values as a matrix, some rows at a time.

    So other threads have their turns in between: what runs over a list is not interrupted.
    """
    count = max(1, _PIECE // max(1, len(cells)))
    if len(rows) <= count:
        return _piece(rows, cells, expected, pointer)
    matrix = np.empty((len(rows), len(cells)))
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        matrix[part] = _piece(rows[part], cells, expected, lambda row, s=start: pointer(s + row))  # type: ignore[misc]
    return matrix


def _piece(
    rows: Sequence[Any], cells: Sequence[FieldShape], expected: str, pointer: Pointer
) -> Matrix:
    """Return lists of values as a matrix; lists of numbers alone are read in one go."""
    width = len(cells)
    well_formed = (
        all(cell.plain for cell in cells)
        and set(map(type, rows)) <= {list, tuple}
        and set(map(len, rows)) == {width}
        and set(map(type, chain.from_iterable(rows))) <= {int, float}
    )
    if well_formed:
        numbers = _as_numbers(rows)
        if numbers is not None and _are_binary(numbers[:, [cell.boolean for cell in cells]]):
            return numbers
    matrix = np.empty((len(rows), width))
    for index, row in enumerate(rows):
        if not isinstance(row, list | tuple):
            raise DataError(f"expected {expected}, got {kind_of(row)}", pointer=pointer(index))
        if len(row) != width:
            raise DataError(f"expected {expected}, got a row of {len(row)}", pointer=pointer(index))
        for at, (value, cell) in enumerate(zip(row, cells, strict=True)):
            try:
                matrix[index, at] = cell.read(value)
            except DataError as error:
                raise DataError(error.detail, pointer=f"{pointer(index)}/{at}") from None
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
            _refuse_missing(field, f"#/inputs/{index}/{pointer_token(field.name)}")
    parts = [
        _column(values, field, _below_rows(field.name))
        for field, values in zip(fields, columns, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def _below_rows(name: str) -> Pointer:
    token = pointer_token(name)
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
        where = f"#/inputs/{pointer_token(field.name)}"
        if field.name not in columns:
            _refuse_missing(field, where)
        values = columns[field.name]
        if not is_column(values):
            raise DataError(
                f"expected a list of the values of {field.name!r}, got {kind_of(values)}",
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


def _column(values: Any, field: FieldShape, pointer: Pointer) -> Matrix:
    """Return the values of one column (array) as (rows, size)."""
    if isinstance(values, np.ndarray):
        numbers = field.numbers(values)
        if numbers is not None:
            return numbers
        values = listed(values)
    nested = field.is_array and any(isinstance(value, list | tuple) for value in values)
    if field.size > 1 or nested:
        cells = [field] * field.size
        return _matrix(values, cells, f"a list of {_counted([field])}", pointer)
    if field.plain and set(map(type, values)) <= {int, float}:
        numbers = _as_numbers(values)
        if numbers is not None and (not field.boolean or _are_binary(numbers)):
            return numbers[:, np.newaxis]
    column = np.empty((len(values), 1))
    for row, value in enumerate(values):
        try:
            column[row, 0] = field.read(value)
        except DataError as error:
            raise DataError(error.detail, pointer=pointer(row)) from None
    return column


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


def _counted(fields: Sequence[FieldShape]) -> str:
    """Say how many values a row has, and whether they are all numbers."""
    what = "numbers" if all(field.plain for field in fields) else "values"
    return f"{sum(field.size for field in fields)} {what}"


def pointer_token(name: str) -> str:
    """Return a name as a step of a JSON pointer in a URI fragment (RFC 6901, section 6)."""
    return quote(name.replace("~", "~0").replace("/", "~1"), safe="~!$&'()*+,;=:@?")


def kind_of(value: Any) -> str:
    """Say what a value of JSON is, as messages do."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "an object" if isinstance(value, dict) else "a list"
