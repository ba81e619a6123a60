"""Columns of numbers and times, standardised by what the training rows say of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data.dataset import Data
from engine.errors import DataError
from engine.spec import ColumnSpec, Spec

__all__ = [
    "Scaled",
    "encode",
    "fit",
    "joined",
    "number_in",
    "read",
    "require",
    "standardise",
    "standardise_into",
]

# Numbers held at a time in double precision, while an array is read.
_BLOCK = 2**22
# Sums are taken of numbers this much smaller, so that they cannot overflow; exact, as a power of 2.
_SHRINK = 2.0**-30
_PER_SECOND = 1e6  # a table's times are counted in microseconds

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Scaled(Spec):
    """A column (array) of numbers that is read as (value - mean) / scale."""

    name: str
    type: Literal["number", "integer", "boolean", "datetime", "numeral"] = "number"
    """Booleans are read as 0 and 1, times as seconds since 1970-01-01T00:00:00Z; numerals are texts
    that spell numbers."""
    size: Annotated[int, Field(ge=1)] = 1
    """How many numbers a row of it has; 1 for a column."""
    mean: float | tuple[float, ...] = 0.0
    """Mean of the values of the training rows, without missing ones; for an array one for each of
    its `size` numbers."""
    scale: float | tuple[float, ...] = 1.0
    """Standard deviation of the same values (divisor n); 1 where all are the same."""
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


def fit(
    data: Data,
    name: str,
    rows: Rows,
    role: str,
    *,
    gaps: bool = False,
    options: ColumnSpec | None = None,
) -> Scaled:
    """Learn a column's (array's) means and standard deviations on the given rows.

    With `gaps` a column may have missing values and times; what fills gaps is learnt as well.
    """
    options = options or ColumnSpec()
    kind = data.type_of(name)
    spells = kind == "text" and options.type == "number"
    scaled = Scaled(name=name, type="numeral" if spells else "number" if kind == "text" else kind)
    gaps = gaps and options.missing != "refuse"
    fill: float | None = None
    indicator = False
    if gaps:
        values = np.concatenate(list(_blocks(data, name, rows, role, scaled.type, gaps=True)))
        there = values[~np.isnan(values)]
        indicator = len(there) < len(values)
        if options.indicator is not None:
            indicator = options.indicator
        if len(there) == 0:
            fill = float(options.fill or 0.0)
            indicator = options.indicator is not False
            return scaled.model_copy(update={"fill": fill, "indicator": indicator})
        fill = _fill(there, kind == "boolean", options)
        mean, scale = _moments([there[:, np.newaxis]])
    else:
        mean, scale = _moments(_Source(data, name, rows, role, scaled.type))
    if options.scale == "none":
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    return Scaled(
        name=name,
        type=scaled.type,
        size=len(mean),
        mean=float(mean[0]) if len(mean) == 1 else tuple(mean.tolist()),
        scale=float(scale[0]) if len(mean) == 1 else tuple(scale.tolist()),
        fill=fill,
        indicator=indicator,
    )


def _fill(values: Doubles, boolean: bool, options: ColumnSpec) -> float:
    """Return what is read in place of a missing value."""
    match options.missing:
        case "constant":
            return float(options.fill or 0.0)
        case "mean" if not boolean:
            return float(np.clip(math.fsum(values / len(values)), values.min(), values.max()))
        case "mode":
            distinct, counts = np.unique(values, return_counts=True)
            return float(distinct[counts.argmax()])
    return _middle(values, boolean)


def _middle(values: Doubles, boolean: bool) -> float:
    """Return the median; of booleans the more frequent one."""
    ordered = np.sort(values)
    low, high = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    # Halves, so that no sum overflows.
    return low if boolean or low == high else low / 2 + high / 2


class _Source:
    """The blocks of a column (array), to be read more than once."""

    def __init__(self, data: Data, name: str, rows: Rows, role: str, kind: str) -> None:
        # Times are learnt with their gaps, and else are no numbers.
        self._of = (data, name, rows, role, kind if kind == "numeral" else "number")

    def __iter__(self) -> Iterator[Doubles]:
        return _blocks(*self._of)


def _moments(source: Iterable[Doubles]) -> tuple[Doubles, Doubles]:
    """Return means and standard deviations of blocks, which are read twice."""
    low, high, mean, count = _bounds_and_mean(source)
    # Half of the largest deviation; halves, so that no difference overflows.
    reach = np.maximum(mean / 2 - low / 2, high / 2 - mean / 2)
    unit = np.where(reach > 0, reach, 1.0)
    squares = np.zeros_like(mean)
    for block in source:
        squares += np.square((block / 2 - mean / 2) / unit).sum(axis=0)
    deviation = np.sqrt(squares / count) * unit * 2
    # Compared, since a rounded mean of equal values would leave a deviation of 1e-17. A deviation
    # below the normal numbers has too few digits to divide by.
    constant = (low == high) | (deviation < np.finfo(np.float64).tiny * 2)
    return np.where(constant, low, mean), np.where(constant, 1.0, deviation)


def _bounds_and_mean(source: Iterable[Doubles]) -> tuple[Doubles, Doubles, Doubles, int]:
    low: Doubles = np.array(np.inf)
    high: Doubles = np.array(-np.inf)
    total: Doubles = np.array(0.0)
    count = 0
    for block in source:
        low = np.minimum(low, block.min(axis=0))
        high = np.maximum(high, block.max(axis=0))
        total = total + (block * _SHRINK).sum(axis=0)
        count += len(block)
    return low, high, np.clip(total / count / _SHRINK, low, high), count


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
    for block in _blocks(data, field.name, rows, role, field.type, gaps=gaps):
        _check_size(field, block, role)
        part = out[start : start + len(block)]
        field.write(block, part)
        if not np.isfinite(part).all():
            raise DataError(
                f"{field.name!r} has values too far from those of the training rows to be "
                "represented in 32 bits",
                pointer=f"#/{role}",
            )
        start += len(block)


def encode(values: Doubles, mean: Doubles, scale: Doubles) -> Floats:
    """Return (values - mean) / scale; infinite where 32 bits do not reach."""
    with np.errstate(over="ignore"):
        # Halves, which are exact: the difference of two numbers may be beyond every number.
        return ((values / 2 - mean / 2) / (scale / 2)).astype(np.float32)


def read(data: Data, fields: Sequence[Scaled], rows: Rows | None, role: str) -> Doubles:
    """Return the fields' values as (rows, numbers), in their own units."""
    parts = []
    for field in fields:
        part = np.concatenate(list(_blocks(data, field.name, rows, role)))
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


def _blocks(
    data: Data,
    name: str,
    rows: Rows | None,
    role: str,
    wanted: str = "number",
    *,
    gaps: bool = False,
) -> Iterator[Doubles]:
    """Yield a column (array) as float64 blocks of shape (rows, size).

    Missing values are NaN with `gaps`, else they are refused.
    """
    pointer = f"#/{role}"
    count = data.rows if rows is None else len(rows)
    # A table's column is narrow: read whole. An array may be wide, and mapped from a file.
    whole = data.column(name, rows) if data.kind == "table" else None
    if wanted == "numeral" and whole is not None and data.type_of(name) == "text":
        whole = _spelled_numbers(whole, name, rows, pointer)
    source = data.column(name) if whole is None else whole
    if source.ndim > 2:
        raise DataError(
            f"{name!r} has {source.ndim} dimensions; at most 2 are taken", pointer=pointer
        )
    if gaps and count and _missing(source).all():
        yield np.full((count, 1), np.nan)
        return
    kind = data.type_of(name)
    if kind == "text" and wanted == "numeral" and source.dtype.kind == "f":
        kind = "number"
    if kind == "text" or (kind == "datetime") != (wanted == "datetime"):
        needed = "times" if wanted == "datetime" else "numbers"
        raise DataError(f"{name!r} holds {kind}; {needed} are needed", pointer=pointer)
    step = max(1, _BLOCK // (source.shape[1] if source.ndim == 2 else 1))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        values = source[part] if whole is not None or rows is None else source[rows[part]]
        missing = _missing(values)
        if not gaps and missing.any():
            raise DataError(
                f"{name!r} has missing values; fill them before you send the data", pointer=pointer
            )
        if values.dtype.kind == "M":
            numbers = np.where(missing, np.nan, values.astype(np.int64) / _PER_SECOND)
        else:
            numbers = values.astype(np.float64)  # None becomes NaN
        yield numbers.reshape(len(values), -1)


def _spelled_numbers(
    texts: npt.NDArray[Any], name: str, rows: Rows | None, pointer: str
) -> Doubles:
    """Return the numbers that texts spell, NaN where there is none."""
    numbers = np.full(len(texts), np.nan)
    for index, text in enumerate(texts.tolist()):
        if text is None or not text.strip():
            continue
        try:
            numbers[index] = number_in(text)
        except DataError as error:
            row = index if rows is None else int(rows[index])
            raise DataError(f"row {row} of {name!r}: {error.detail}", pointer=pointer) from None
    return numbers


def number_in(text: str) -> float:
    """Return the number that a text spells; the error has no pointer."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"expected a number, or a text that spells one, got {text[:60]!r}")
    return number


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
