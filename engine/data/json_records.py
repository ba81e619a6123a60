"""JSON: a list of records or an object of columns; NDJSON: a record a line.

A column whose first value is a list makes all columns arrays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from engine.data.columns import check_names, make_table
from engine.data.dataset import BOOLEAN, INTEGER, NUMBER, TEXT, Data, Limits
from engine.data.nested import array_of_values, make_arrays
from engine.errors import DataError

__all__ = ["parse_json", "parse_ndjson"]

_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?")
_TYPE_NAMES = {
    int: "a number",
    float: "a number",
    bool: "a boolean",
    str: "a text",
    list: "a list",
    dict: "an object",
}


def parse_json(path: Path, limits: Limits) -> Data:
    """Read a JSON document: a list of records, or an object of columns of the same length."""
    _check_size(path, limits)
    try:
        document = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"this is not JSON: it breaks off or is misspelt at line {error.lineno}, "
            f"column {error.colno}"
        ) from error
    if isinstance(document, list):
        return _from_records(document, limits, "row {}")
    if isinstance(document, dict):
        return _from_columns(document, limits)
    raise DataError("JSON data are a list of records or an object of columns")


def parse_ndjson(path: Path, limits: Limits) -> Data:
    """Read a JSON object a line; empty lines are passed over."""
    _check_size(path, limits)
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                raise DataError(f"line {number} is not a JSON object") from error
    return _from_records(records, limits, "record {}")


def _check_size(path: Path, limits: Limits) -> None:
    if (size := path.stat().st_size) > limits.max_json_bytes:
        raise DataError(
            f"{size} bytes of JSON are too many; at most {limits.max_json_bytes} are taken "
            "(CSV, Parquet and Arrow streams may be larger)"
        )


def _from_records(records: list[Any], limits: Limits, where: str) -> Data:
    names: dict[str, None] = {}
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(f"{where.format(row)} is not an object of column names and values")
        names.update(dict.fromkeys(record))
        # At every row: a million rows of a new column each must not come as far as a table.
        limits.check_table(row + 1, len(names))
    if not records:
        raise DataError("there are no rows; at least one is needed")
    columns = {name: [record.get(name) for record in records] for name in names}
    return _from_columns(columns, limits)


def _from_columns(columns: dict[str, Any], limits: Limits) -> Data:
    check_names(tuple(columns), limits)
    for name, values in columns.items():
        if not isinstance(values, list):
            raise DataError(f"column {name!r} is not a list of values")
    if any(isinstance(value, list) for values in columns.values() for value in values[:1]):
        arrays = {name: array_of_values(name, values, limits) for name, values in columns.items()}
        return make_arrays(arrays, limits)
    converted = [_column(name, values) for name, values in columns.items()]
    return make_table(tuple(columns), converted, limits)


def _column(name: str, values: list[Any]) -> pa.ChunkedArray:
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= {int}:
        try:
            return pa.chunked_array([pa.array(values, type=INTEGER)])
        except (OverflowError, pa.ArrowInvalid):
            kinds = {float}
    if kinds <= {int, float}:
        numbers = [None if value is None else float(value) for value in values]
        return pa.chunked_array([pa.array(numbers, type=NUMBER)])
    if kinds == {bool}:
        return pa.chunked_array([pa.array(values, type=BOOLEAN)])
    if kinds == {str}:
        return pa.chunked_array([_text_or_time(values)])
    raise _mixed(name, values)


def _text_or_time(values: Sequence[str | None]) -> pa.Array:
    """Return ISO 8601 times as such if every value is one, as CSV does; else texts."""
    texts = pa.array(values, type=TEXT)
    if not all(value is None or _TIME.fullmatch(value) for value in values):
        return texts
    zoned = {value[-1] == "Z" or value[19:].count("+") + value[19:].count("-") > 0
             for value in values if value is not None}  # fmt: skip
    if len(zoned) > 1:
        return texts
    try:
        return texts.cast(pa.timestamp("us", tz="UTC" if zoned.pop() else None))
    except pa.ArrowInvalid:  # 2021-02-30
        return texts


def _mixed(name: str, values: list[Any]) -> DataError:
    """Return the error for a column of lists, of objects, or of values of several types."""
    kinds = [(row, _TYPE_NAMES[type(v)]) for row, v in enumerate(values) if v is not None]
    first = kinds[0][1]
    row, kind = next(
        pair for pair in kinds if pair[1] in ("a list", "an object") or pair[1] != first
    )
    if kind in ("a list", "an object"):
        return DataError(
            f"column {name!r} holds {kind} at row {row}; a value is a number, a boolean, "
            "a text or null"
        )
    return DataError(
        f"column {name!r} holds {first}, but {kind} at row {row}; "
        "the values of a column are of one type"
    )
