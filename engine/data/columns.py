"""Columns of any Arrow type to the five types that a table of ours may have."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.dataset import BOOLEAN, DATETIME, INTEGER, NUMBER, TEXT, Data, Limits
from engine.errors import DataError

__all__ = [
    "Conversion",
    "Widened",
    "check_names",
    "check_text_size",
    "is_column_name",
    "make_table",
    "no_rows",
]

_MAX_NAME = 256
_LONGEST_LIST = 10
# 0001-01-01 and 9999-12-31T23:59:59.999999 in microseconds since 1970: what Python and JSON
# clients can hold.
_FIRST_TIME, _LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def check_names(names: Sequence[str], limits: Limits) -> None:
    """Refuse names that are missing, repeated, too long or not printable."""
    if not names:
        raise DataError("there are no columns")
    limits.check_table(0, len(names))
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for position, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"column {position} has no name; every column needs one")
        if len(name) > _MAX_NAME:
            raise DataError(
                f"the name of column {position} has {len(name)} characters; "
                f"at most {_MAX_NAME} are taken"
            )
        if not _is_printable(name):
            raise DataError(f"the name of column {position} has a character that cannot be printed")
        if name in seen:
            twice[name] = None
        seen.add(name)
    if twice:
        some = ", ".join(repr(name) for name in list(twice)[:_LONGEST_LIST])
        raise DataError(f"column names must be unique; these occur more than once: {some}")


def is_column_name(name: str) -> bool:
    """Say whether a column may be called so."""
    return 0 < len(name) <= _MAX_NAME and _is_printable(name)


def _is_printable(name: str) -> bool:
    return not any(unicodedata.category(character) in ("Cc", "Cs", "Cn") for character in name)


class Widened(Exception):
    """A later piece of a table has shown that a column is of a wider type than earlier ones."""


class Conversion:
    """Makes the pieces of a table ones of our types, and counts them against the limits."""

    def __init__(self, names: Sequence[str], limits: Limits) -> None:
        check_names(names, limits)
        self._names = names
        self._limits = limits
        self._as_numbers: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """Begin with the first piece, be it again."""
        self.rows = 0
        """Of all pieces so far."""
        self._size = 0

    def __call__(self, columns: Sequence[pa.ChunkedArray]) -> pa.Table:
        """Return a piece's columns, each converted to one of our types.

        Raises Widened where the pieces before are to be converted again, after `begin`.
        """
        rows = len(columns[0])
        self._limits.check_table(self.rows + rows, len(self._names))
        converted: list[pa.ChunkedArray] = []
        for name, column in zip(self._names, columns, strict=True):
            if len(column) != rows:
                raise DataError(
                    f"column {name!r} has {self.rows + len(column)} values; the first has "
                    f"{self.rows + rows}"
                )
            converted.append(self._convert(name, column))
            self._size += converted[-1].nbytes
            _check_size(self._size, self._limits)
        self.rows += rows
        # New fields, so that no metadata of the file's writer is kept.
        fields = [
            pa.field(name, column.type) for name, column in zip(self._names, converted, strict=True)
        ]
        return pa.table(converted, schema=pa.schema(fields))

    def _convert(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        try:
            # A file may lie about offsets, indices and encodings; nothing below would survive that.
            column.validate(full=True)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"column {name!r} is damaged") from error
        if pa.types.is_dictionary(column.type):
            check_text_size(column, self._limits)
            column = pa.chunked_array(
                [chunk.dictionary_decode() for chunk in column.chunks], type=column.type.value_type
            )
        if pa.types.is_integer(column.type):
            return self._integer(name, column)
        for accepts, convert in _CONVERSIONS:
            if accepts(column.type):
                return convert(name, column, self._limits, self.rows)
        raise DataError(
            f"column {name!r} holds values of a type that is not taken; "
            "take numbers, booleans, texts, dates or timestamps"
        )

    def _integer(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        if name not in self._as_numbers:
            try:
                return column.cast(INTEGER)
            except pa.ArrowInvalid:  # uint64 beyond int64: the nearest number will do
                self._as_numbers.add(name)
                if self.rows:
                    raise Widened(name) from None
        return _number(name, column, self._limits, self.rows)


def make_table(names: Sequence[str], columns: Sequence[pa.ChunkedArray], limits: Limits) -> Data:
    """Return the data set of these columns, each converted to one of our types."""
    convert = Conversion(names, limits)
    table = convert(columns)
    if not convert.rows:
        raise no_rows()
    return Data(table=table)


def no_rows() -> DataError:
    return DataError("there are no rows; at least one is needed")


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_unpacked_bytes:
        raise DataError(
            f"the data take more than {limits.max_unpacked_bytes} bytes once they are unpacked"
        )


def _number(name: str, column: pa.ChunkedArray, limits: Limits, at: int) -> pa.ChunkedArray:
    del limits
    column = column.cast(NUMBER, safe=False)
    if pc.all(pc.is_finite(column)).as_py() is not False:  # None where all are missing
        return column
    infinite = pc.is_inf(column)
    if pc.any(infinite).as_py():
        row = at + pc.index(infinite, True).as_py()
        raise DataError(
            f"column {name!r} is infinite at row {row}; numbers must be finite (or missing)"
        )
    missing = pc.is_nan(column)
    if pc.any(missing).as_py():
        column = pc.if_else(missing, pa.scalar(None, type=NUMBER), column)
    return column


def _boolean(name: str, column: pa.ChunkedArray, limits: Limits, at: int) -> pa.ChunkedArray:
    del name, limits, at
    return column


def _text(name: str, column: pa.ChunkedArray, limits: Limits, at: int) -> pa.ChunkedArray:
    del at
    check_text_size(column, limits)
    column = column.cast(TEXT)
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest > limits.max_text_bytes:
        raise DataError(
            f"column {name!r} has a text of {longest} bytes; "
            f"at most {limits.max_text_bytes} are taken"
        )
    if pc.any(pc.match_substring(column, "\0")).as_py():
        raise DataError(f"column {name!r} has a null character in a text; this is not a text file")
    return column


def check_text_size(column: pa.ChunkedArray, limits: Limits) -> None:
    """Refuse texts that share one long value many times, before they are unpacked."""
    size = 0
    for chunk in column.chunks:
        size += _unpacked_text_bytes(chunk)
        _check_size(size, limits)


def _unpacked_text_bytes(chunk: pa.Array) -> int:
    if pa.types.is_dictionary(chunk.type):
        values = chunk.dictionary
        if not _is_text(values.type) or len(values) == 0:
            return 0
        lengths = _lengths(values)
        indices = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
        return int(lengths[indices].sum())
    return int(_lengths(chunk).sum())


def _lengths(chunk: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the bytes of each text (0 for a missing one)."""
    if chunk.type == pa.string_view():
        # A view is 16 bytes, of which the first 4 are its length; Arrow has no function for it.
        views = np.frombuffer(chunk.buffers()[1], dtype="<i4")[::4]
        lengths = views[chunk.offset : chunk.offset + len(chunk)].astype(np.int64)
        return np.where(chunk.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
    lengths = pc.fill_null(pc.binary_length(chunk), 0).to_numpy(zero_copy_only=False)
    return np.asarray(lengths, dtype=np.int64)


def _datetime(name: str, column: pa.ChunkedArray, limits: Limits, at: int) -> pa.ChunkedArray:
    del limits, at
    if pa.types.is_date(column.type):
        column = column.cast(
            pa.timestamp("s") if column.type == pa.date32() else pa.timestamp("ms")
        )
    # Bounds are compared in the column's own unit: a cast first would overflow silently.
    factor = _PER_SECOND[column.type.unit] / 1_000_000
    ticks = column.cast(pa.int64())
    bounds = pc.min_max(ticks).as_py()
    if bounds["min"] is not None and not (
        _FIRST_TIME * factor <= bounds["min"] and bounds["max"] <= _LAST_TIME * factor
    ):
        raise DataError(f"column {name!r} has times outside the years 1 to 9999")
    # By way of integers a time with a zone becomes the same instant in UTC, whatever its zone.
    return ticks.cast(pa.timestamp(column.type.unit)).cast(DATETIME, safe=False)


def _nothing(name: str, column: pa.ChunkedArray, limits: Limits, at: int) -> pa.ChunkedArray:
    del name, limits, at
    return column.cast(NUMBER)


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
    )


_Convert = Callable[[str, pa.ChunkedArray, Limits, int], pa.ChunkedArray]
"""Of a name, a column, the limits, and the number of rows before it."""
_CONVERSIONS: tuple[tuple[Callable[[pa.DataType], bool], _Convert], ...] = (
    (pa.types.is_floating, _number),
    (pa.types.is_decimal, _number),
    (lambda kind: bool(kind == BOOLEAN), _boolean),
    (_is_text, _text),
    (pa.types.is_date, _datetime),
    (pa.types.is_timestamp, _datetime),
    (pa.types.is_null, _nothing),
)
