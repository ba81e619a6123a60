"""What the training rows say of a column of numbers: mean, deviation, what fills gaps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.data.options import OptionError
from engine.data.order_statistics import middle
from engine.data.scaling import BLOCK, Scaled, blocks, encode
from engine.data.spelling import seconds_in
from engine.errors import DataError
from engine.spec import ColumnSpec

__all__ = ["fit"]

# Sums are taken of numbers this much smaller, so that they cannot overflow; exact, as a power of 2.
_SHRINK = 2.0**-30

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


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
    field = _unfitted(data, name, options)
    refuses = options.missing == "refuse"
    if not gaps:
        # Times are learnt with their gaps, and else are no numbers.
        read = Scaled(name=name) if field.type == "datetime" else field
        moments = _moments(_Repeated(lambda: blocks(data, read, rows, role)))
        return _fitted(field, moments, options)
    column = _Column(data, field, rows, role)
    if refuses and column.first_missing is not None:
        raise OptionError(
            f"row {rows[column.first_missing]}: {name!r} is missing, and its `missing` is 'refuse'",
            column=name,
            key="missing",
        )
    if options.scale == "none" and max(-column.low, column.high) > np.finfo(np.float32).max:
        raise OptionError(
            f"{name!r} has values that 32 bits do not hold; let them be scaled",
            column=name,
            key="scale",
        )
    indicator = column.first_missing is not None or not column.count
    if options.indicator is not None:
        indicator = options.indicator
    learnt: dict[str, Any] = {"indicator": indicator and not refuses}
    if not refuses:
        learnt["fill"] = _fill(column, field, options)
    moments = (
        _moments(column.present) if column.count else _Moments(mean=np.zeros(1), scale=np.ones(1))
    )
    return _fitted(field.model_copy(update=learnt), moments, options)


class _Column:
    """A column with gaps, read as often as need be, block by block; held where it is one block."""

    def __init__(self, data: Data, field: Scaled, rows: Rows, role: str) -> None:
        self._of = (data, field, rows, role)
        self._held = list(self._read()) if len(rows) <= BLOCK else None
        self.count = 0
        """Of its values."""
        self.first_missing: int | None = None
        """Which of `rows` is the first without a value."""
        self.low, self.high = np.inf, -np.inf
        at = 0
        for block in self._blocks():
            missing = np.isnan(block[:, 0])
            if self.first_missing is None and missing.any():
                self.first_missing = at + int(np.argmax(missing))
            there = block[~missing] if missing.any() else block
            self.low = float(there.min(initial=self.low))
            self.high = float(there.max(initial=self.high))
            self.count += len(there)
            at += len(block)

    def _read(self) -> Iterator[Doubles]:
        try:
            yield from blocks(*self._of, gaps=True)
        except DataError as error:
            field = self._of[1]
            if field.reader is None:
                raise
            key = "type" if field.format is None else "format"
            raise OptionError(error.detail, column=field.name, key=key) from error

    def _blocks(self) -> Iterable[Doubles]:
        return self._read() if self._held is None else self._held

    @property
    def present(self) -> Iterable[Doubles]:
        """Its values (rows, 1), without the missing ones, to be read more than once."""
        return _Repeated(self._present)

    def _present(self) -> Iterator[Doubles]:
        if self.first_missing is None:
            yield from self._blocks()
            return
        for block in self._blocks():
            there = block[~np.isnan(block[:, 0])]
            if len(there):
                yield there


class _Repeated:
    """Blocks that can be read more than once."""

    def __init__(self, read: Callable[[], Iterator[Doubles]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Doubles]:
        return self._read()


def _unfitted(data: Data, name: str, options: ColumnSpec) -> Scaled:
    """Return how a column (array) is read, with nothing learnt yet."""
    kind = data.type_of(name)
    if kind != "text":
        return Scaled(name=name, type=kind)
    if options.type == "datetime":
        return Scaled(name=name, type="date", format=options.format)
    return Scaled(name=name, type="numeral" if options.type == "number" else "number")


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """What is learnt of each number of a row."""

    mean: Doubles
    scale: Doubles
    low: Doubles | None = None
    high: Doubles | None = None


def _fitted(field: Scaled, moments: _Moments, options: ColumnSpec) -> Scaled:
    """Return the field with its moments; refuse options that leave numbers beyond 32 bits."""
    mean, scale = moments.mean, moments.scale
    if options.scale == "none":
        mean, scale = np.zeros_like(mean), np.ones_like(scale)
    fitted = field.model_copy(
        update={
            "size": len(mean),
            "mean": _told(mean),
            "scale": _told(scale),
            "low": _told(moments.low),
            "high": _told(moments.high),
        }
    )
    if options.fill is not None and not np.isfinite(encode(np.array(fitted.fill), mean, scale)):
        raise OptionError(
            f"{options.fill!r} is too far from the values of {field.name!r} in the training rows "
            "to be represented in 32 bits",
            column=field.name,
            key="fill",
        )
    return fitted


def _told(values: Doubles | None) -> float | tuple[float, ...] | None:
    if values is None:
        return None
    return float(values[0]) if len(values) == 1 else tuple(values.tolist())


def _fill(column: _Column, field: Scaled, options: ColumnSpec) -> float:
    """Return what is read in place of a missing value."""
    if isinstance(options.fill, str):
        return seconds_in(options.fill, field.format)
    if options.missing == "constant" or not column.count:
        return float(options.fill or 0.0)
    match options.missing:
        case "mean":
            shares = (share for block in column.present for share in block[:, 0] / column.count)
            return float(np.clip(math.fsum(shares), column.low, column.high))
        case "mode":
            return _most_frequent(column.present)
    flat = _Repeated(lambda: (block[:, 0] for block in column.present))
    low, high = middle(flat, column.count, held=BLOCK)
    # Halves, so that no sum overflows. Of booleans the median is the more frequent one.
    return low if field.type == "boolean" or low == high else low / 2 + high / 2


def _most_frequent(source: Iterable[Doubles]) -> float:
    """Return the most frequent value, of equally frequent ones the least."""
    distinct, counts = np.empty(0), np.empty(0, dtype=np.int64)
    for block in source:
        values, more = np.unique(block, return_counts=True)
        distinct, where = np.unique(np.concatenate([distinct, values]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([counts, more])).astype(np.int64)
    return float(distinct[counts.argmax()])


def _moments(source: Iterable[Doubles]) -> _Moments:
    """Return means, standard deviations and ranges of blocks, which are read twice."""
    low, high, mean, count = _bounds_and_mean(source)
    # Half of the largest deviation; halves, so that no difference overflows.
    reach = np.maximum(mean / 2 - low / 2, high / 2 - mean / 2)
    unit = np.where(reach > 0, reach, 1.0)
    squares = np.zeros_like(mean)
    for block in source:
        deviations = block / 2
        deviations -= mean / 2
        deviations /= unit
        squares += np.square(deviations, out=deviations).sum(axis=0)
    deviation = np.sqrt(squares / count) * unit * 2
    # Compared, since a rounded mean of equal values would leave a deviation of 1e-17. A deviation
    # below the normal numbers has too few digits to divide by.
    constant = (low == high) | (deviation < np.finfo(np.float64).tiny * 2)
    mean, scale = np.where(constant, low, mean), np.where(constant, 1.0, deviation)
    return _Moments(mean=mean, scale=scale, low=low, high=high)


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
