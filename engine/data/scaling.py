"""Columns of numbers and times, standardised by what the training rows say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data.dataset import Data, pieces_of
from engine.data.spelling import Reader, number_in, read_texts, seconds_in
from engine.errors import DataError
from engine.spec import Spec

__all__ = [
    "BLOCK",
    "Scaled",
    "blocks",
    "encode",
    "is_plain",
    "joined",
    "read",
    "require",
    "standardise",
    "standardise_into",
    "standardise_plain",
]

BLOCK = 2**22
"""Numbers held at a time in double precision, while a column (array) is read."""
_TOGETHER = 2**17
"""Rows of which all columns are read together."""
_CACHED = 2**16
"""Numbers that are standardised at a time."""
_PER_SECOND = 1e6  # a table's times are counted in microseconds

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Scaled(Spec):
    """A column (array) of numbers that is read as (value - mean) / scale."""

    name: str
    type: Literal["number", "integer", "boolean", "datetime", "numeral", "date"] = "number"
    """Booleans are read as 0 and 1, times as seconds since 1970-01-01T00:00:00Z; numerals are texts
    that spell numbers, dates texts that spell times."""
    format: str | None = None
    """How dates are written, as `strptime` has it; null for ISO 8601."""
    size: Annotated[int, Field(ge=1)] = 1
    """How many numbers a row of it has; 1 for a column."""
    mean: float | tuple[float, ...] = 0.0
    """Mean of the values of the training rows, without missing ones; for an array one for each of
    its `size` numbers."""
    scale: float | tuple[float, ...] = 1.0
    """Standard deviation of the same values (divisor n); 1 where all are the same."""
    low: float | tuple[float, ...] | None = None
    """The smallest of the same values; null where there were none, or nobody looked."""
    high: float | tuple[float, ...] | None = None
    """The largest of the same values."""
    fill: float | None = None
    """Read in place of a missing value: the median of the training rows (of booleans the more
    frequent, of equally frequent ones false; 0 if there is no value). Null where missing values are
    refused."""
    indicator: bool = False
    """Whether one more input, `NAME is missing`, is 1 where the value was missing, else 0; so where
    the training rows have missing values."""

    @property
    def width(self) -> int:
        """How many inputs of the network it comes to."""
        return self.size + self.indicator

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each input: the column's, or `x[0]`, `x[1]`, …, and `NAME is missing`."""
        if self.size > 1:
            return tuple(f"{self.name}[{index}]" for index in range(self.size))
        return (self.name, f"{self.name} is missing") if self.indicator else (self.name,)

    @property
    def takes_missing(self) -> bool:
        return self.fill is not None

    @property
    def reader(self) -> Reader | None:
        """What its texts stand for, where it is a column of texts."""
        if self.type == "date":
            return partial(seconds_in, written=self.format)
        return number_in if self.type == "numeral" else None

    def write(self, values: Doubles, out: Floats) -> None:
        """Write values (rows, size), NaN where missing, as inputs (rows, width).

        They are infinite where 32 bits do not reach.
        """
        if self.fill is not None:
            missing = np.isnan(values)
            values = np.where(missing, self.fill, values)
            if self.indicator:
                out[:, -1] = missing[:, 0]
        out[:, : self.size] = encode(values, np.asarray(self.mean), np.asarray(self.scale))


def standardise(data: Data, fields: Sequence[Scaled], rows: Rows | None, role: str) -> Floats:
    """Return the fields' values as (rows, numbers), as a network reads them."""
    count = data.rows if rows is None else len(rows)
    encoded = np.empty((count, sum(field.width for field in fields)), dtype=np.float32)
    at = 0
    for field in fields:
        standardise_into(encoded[:, at : at + field.width], data, field, rows, role)
        at += field.width
    return encoded


def standardise_into(out: Floats, data: Data, field: Scaled, rows: Rows | None, role: str) -> None:
    """Write a field's values into (rows, width), as a network reads them."""
    start = 0
    gaps = field.takes_missing and data.kind == "table"
    for block in blocks(data, field, rows, role, gaps=gaps):
        _check_size(field, block, role)
        part = out[start : start + len(block)]
        field.write(block, part)
        if not np.isfinite(part).all():
            raise _too_far(field, role)
        start += len(block)


def is_plain(data: Data, field: object) -> bool:
    """Say whether a field is a table's column of numbers that is one input of the network."""
    return (
        isinstance(field, Scaled)
        and data.kind == "table"
        and field.type in ("number", "integer")
        and field.takes_missing
        and not field.indicator
        and field.name in data.names
        and data.type_of(field.name) in ("number", "integer")
    )


def standardise_plain(
    out: Floats, data: Data, fields: Sequence[Scaled], rows: Rows | None, role: str
) -> None:
    """Do what `standardise_into` does for many plain columns, (rows, fields), to the same bits.

    Some rows of all columns at a time, which stay in the cache: a row is written once and not once
    for each of its columns.
    """
    halves = joined(fields, "mean")[:, np.newaxis] / 2, joined(fields, "scale")[:, np.newaxis] / 2
    fills = np.array([[field.fill] for field in fields], dtype=np.float64)
    names = [field.name for field in fields]
    step = _CACHED // len(fields) + 1
    buffer = np.empty((len(fields), min(step, len(out))))
    for part, numbers in pieces_of(len(out), rows, _TOGETHER):
        if numbers is None:
            numbers = np.arange(len(out), dtype=np.int64)
        for start in range(0, len(numbers), step):
            some = numbers[start : start + step]
            values = buffer[:, : len(some)]
            data.gather(names, some, values)
            target = out[part.start + start : part.start + start + len(some)]
            _standardise(values, halves, target)
            if not np.isfinite(target).all():
                data.gather(names, some, values)
                np.copyto(values, fills, where=np.isnan(values))
                _standardise(values, halves, target)
        data.release()
    if not np.isfinite(out).all():
        far = fields[int(np.argmin(np.isfinite(out).all(axis=0)))]
        raise _too_far(far, role)


def _standardise(values: Doubles, halves: tuple[Doubles, Doubles], out: Floats) -> None:
    """Write values (columns, rows), which are spoilt, as (rows, columns); see `encode`."""
    values *= 0.5
    values -= halves[0]
    with np.errstate(over="ignore"):
        values /= halves[1]
        out[:] = values.T


def _too_far(field: Scaled, role: str) -> DataError:
    return DataError(
        f"{field.name!r} has values too far from those of the training rows to be represented in "
        "32 bits",
        pointer=f"#/{role}",
    )


def encode(values: Doubles, mean: Doubles, scale: Doubles) -> Floats:
    """Return (values - mean) / scale; infinite where 32 bits do not reach."""
    with np.errstate(over="ignore"):
        # Halves, which are exact: the difference of two numbers may be beyond every number.
        return ((values / 2 - mean / 2) / (scale / 2)).astype(np.float32)


def read(data: Data, fields: Sequence[Scaled], rows: Rows | None, role: str) -> Doubles:
    """Return the fields' values as (rows, numbers), in their own units."""
    parts = []
    for field in fields:
        part = np.concatenate(list(blocks(data, Scaled(name=field.name), rows, role)))
        _check_size(field, part, role)
        parts.append(part)
    return np.concatenate(parts, axis=1)


def joined(fields: Sequence[Scaled], what: Literal["mean", "scale"]) -> Doubles:
    """Return the means or the scales of all numbers of a row."""
    parts = [np.asarray(field.mean if what == "mean" else field.scale) for field in fields]
    values = np.concatenate(
        [np.broadcast_to(part, field.size) for part, field in zip(parts, fields, strict=True)]
    ).astype(np.float64)
    return values


def require(data: Data, names: Sequence[str], role: str) -> None:
    """Refuse a data set that lacks columns (arrays) which a model needs."""
    there = set(data.names)
    missing = [repr(name) for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise DataError(
            f"the data set lacks what the model has as {role}: {', '.join(missing[:20])}{more}",
            pointer=f"#/{role}",
        )


def blocks(
    data: Data, field: Scaled, rows: Rows | None, role: str, *, gaps: bool = False
) -> Iterator[Doubles]:
    """Yield a column (array) as float64 blocks of shape (rows, size).

    Missing values are NaN with `gaps`, else they are refused.
    """
    name, pointer = field.name, f"#/{role}"
    count = data.rows if rows is None else len(rows)
    kind, of_times = data.type_of(name), field.type in ("datetime", "date")
    reader = field.reader if data.kind == "table" and kind == "text" else None
    if reader is not None:
        kind = "datetime" if of_times else "number"
    shape = () if data.arrays is None else data.arrays[name].shape[1:]
    if len(shape) > 1:
        raise DataError(
            f"{name!r} has {len(shape) + 1} dimensions; at most 2 are taken", pointer=pointer
        )
    step = max(1, BLOCK // (shape[0] if shape else 1))
    for part, numbers in pieces_of(count, rows, step):
        values = data.column(name, numbers)
        if reader is not None:
            values = read_texts(values, reader, name, numbers, pointer)
        missing = _missing(values)
        if gaps and missing.all():
            yield np.full((len(values), 1), np.nan)
            continue
        if kind == "text" or (kind == "datetime") != of_times:
            needed = "times" if of_times else "numbers"
            raise DataError(f"{name!r} holds {kind}; {needed} are needed", pointer=pointer)
        if not gaps and missing.any():
            at = part.start + int(np.argmax(missing.reshape(len(values), -1).any(axis=1)))
            raise DataError(
                f"{name!r} has missing values (row {at if rows is None else int(rows[at])}); fill "
                "them before you send the data",
                pointer=pointer,
            )
        if values.dtype.kind == "M":
            doubles = np.where(missing, np.nan, values.astype(np.int64) / _PER_SECOND)
        else:
            doubles = values.astype(np.float64)  # None becomes NaN
        yield doubles.reshape(len(values), -1)
        data.release()


def _missing(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if values.dtype == object:
        return np.array([value is None for value in values.tolist()], dtype=np.bool_)
    if values.dtype.kind == "M":
        return np.asarray(np.isnat(values))
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.zeros(values.shape, dtype=np.bool_)


def _check_size(field: Scaled, block: Doubles, role: str) -> None:
    if block.shape[1] != field.size:
        raise DataError(
            f"{field.name!r} has {block.shape[1]} numbers a row; the model takes {field.size}",
            pointer=f"#/{role}",
        )
