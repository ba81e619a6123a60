"""Columns of numbers, standardised by what the training rows say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data.dataset import Data
from engine.errors import DataError
from engine.spec import Spec

__all__ = ["Scaled", "encode", "fit", "joined", "read", "require", "standardise"]

# Numbers held at a time in double precision, while an array is read.
_BLOCK = 2**22
# Sums are taken of numbers this much smaller, so that they cannot overflow; exact, as a power of 2.
_SHRINK = 2.0**-30

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Scaled(Spec):
    """A column (array) of numbers that is read as (value - mean) / scale."""

    name: str
    type: Literal["number", "integer", "boolean"] = "number"
    """Booleans are read as 0 and 1."""
    size: Annotated[int, Field(ge=1)] = 1
    """How many numbers a row of it has; 1 for a column."""
    mean: float | tuple[float, ...] = 0.0
    """Mean over the training rows; for an array one for each of its `size` numbers."""
    scale: float | tuple[float, ...] = 1.0
    """Standard deviation over the training rows (divisor n); 1 where all values are the same."""

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each number of a row: the column's, or `x[0]`, `x[1]`, …"""
        if self.size == 1:
            return (self.name,)
        return tuple(f"{self.name}[{index}]" for index in range(self.size))


def fit(data: Data, name: str, rows: Rows, role: str) -> Scaled:
    """Learn a column's (array's) means and standard deviations on the given rows."""
    low, high, mean = _bounds_and_mean(data, name, rows, role)
    # Half of the largest deviation; halves, so that no difference overflows.
    reach = np.maximum(mean / 2 - low / 2, high / 2 - mean / 2)
    unit = np.where(reach > 0, reach, 1.0)
    squares = np.zeros_like(mean)
    for block in _blocks(data, name, rows, role):
        squares += np.square((block / 2 - mean / 2) / unit).sum(axis=0)
    deviation = np.sqrt(squares / len(rows)) * unit * 2
    # Compared, since a rounded mean of equal values would leave a deviation of 1e-17. A deviation
    # below the normal numbers has too few digits to divide by.
    constant = (low == high) | (deviation < np.finfo(np.float64).tiny * 2)
    mean, scale = np.where(constant, low, mean), np.where(constant, 1.0, deviation)
    kind = data.type_of(name)
    return Scaled(
        name=name,
        type=kind if kind == "integer" or kind == "boolean" else "number",
        size=len(mean),
        mean=float(mean[0]) if len(mean) == 1 else tuple(mean.tolist()),
        scale=float(scale[0]) if len(mean) == 1 else tuple(scale.tolist()),
    )


def _bounds_and_mean(
    data: Data, name: str, rows: Rows, role: str
) -> tuple[Doubles, Doubles, Doubles]:
    low: Doubles = np.array(np.inf)
    high: Doubles = np.array(-np.inf)
    total: Doubles = np.array(0.0)
    for block in _blocks(data, name, rows, role):
        low = np.minimum(low, block.min(axis=0))
        high = np.maximum(high, block.max(axis=0))
        total = total + (block * _SHRINK).sum(axis=0)
    return low, high, np.clip(total / len(rows) / _SHRINK, low, high)


def standardise(data: Data, fields: Sequence[Scaled], rows: Rows | None, role: str) -> Floats:
    """Return the fields' values as (rows, numbers), as a network reads them."""
    count = data.rows if rows is None else len(rows)
    encoded = np.empty((count, sum(field.size for field in fields)), dtype=np.float32)
    at = 0
    for field in fields:
        mean, scale = np.asarray(field.mean), np.asarray(field.scale)
        start = 0
        for block in _blocks(data, field.name, rows, role):
            _check_size(field, block, role)
            values = encode(block, mean, scale)
            if not np.isfinite(values).all():
                raise DataError(
                    f"{field.name!r} has values too far from those of the training rows to be "
                    "represented in 32 bits",
                    pointer=f"#/{role}",
                )
            encoded[start : start + len(block), at : at + field.size] = values
            start += len(block)
        at += field.size
    return encoded


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


def _blocks(data: Data, name: str, rows: Rows | None, role: str) -> Iterator[Doubles]:
    """Yield a column (array) as float64 blocks of shape (rows, size)."""
    pointer = f"#/{role}"
    kind = data.type_of(name)
    if kind in ("text", "datetime"):
        raise DataError(f"{name!r} holds {kind}; numbers are needed", pointer=pointer)
    count = data.rows if rows is None else len(rows)
    # A table's column is narrow: read whole. An array may be wide, and mapped from a file.
    whole = data.column(name, rows) if data.kind == "table" else None
    source = data.column(name) if whole is None else whole
    if source.ndim > 2:
        raise DataError(
            f"{name!r} has {source.ndim} dimensions; at most 2 are taken", pointer=pointer
        )
    step = max(1, _BLOCK // (source.shape[1] if source.ndim == 2 else 1))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        values = source[part] if whole is not None or rows is None else source[rows[part]]
        if values.dtype == object or (values.dtype.kind == "f" and np.isnan(values).any()):
            raise DataError(
                f"{name!r} has missing values; fill them before you send the data", pointer=pointer
            )
        yield values.astype(np.float64).reshape(len(values), -1)


def _check_size(field: Scaled, block: Doubles, role: str) -> None:
    if block.shape[1] != field.size:
        raise DataError(
            f"{field.name!r} has {block.shape[1]} numbers a row; the model takes {field.size}",
            pointer=f"#/{role}",
        )
