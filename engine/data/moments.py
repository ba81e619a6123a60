"""What the training rows say of a column of numbers: mean, deviation, what fills gaps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.data.options import OptionError
from engine.data.scaling import Scaled, blocks, encode
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
        return _fitted(field, _moments(_Source(data, field, rows, role)), options)
    values = _with_gaps(data, field, rows, role)
    missing = np.isnan(values[:, 0])
    if refuses and missing.any():
        raise OptionError(
            f"row {rows[int(np.argmax(missing))]}: {name!r} is missing, and its `missing` is "
            "'refuse'",
            column=name,
            key="missing",
        )
    there = values[~missing, 0]
    _check_unscaled(there, name, options)
    indicator = bool(missing.any()) or not len(there)
    if options.indicator is not None:
        indicator = options.indicator
    learnt: dict[str, Any] = {"indicator": indicator and not refuses}
    if not refuses:
        learnt["fill"] = _fill(there, field, options)
    moments = (
        _moments([there[:, np.newaxis]])
        if len(there)
        else _Moments(mean=np.zeros(1), scale=np.ones(1))
    )
    return _fitted(field.model_copy(update=learnt), moments, options)


def _check_unscaled(values: Doubles, name: str, options: ColumnSpec) -> None:
    """Refuse numbers that are to be read as they are, and do not fit into 32 bits."""
    if options.scale == "none" and (np.abs(values) > np.finfo(np.float32).max).any():
        raise OptionError(
            f"{name!r} has values that 32 bits do not hold; let them be scaled",
            column=name,
            key="scale",
        )


def _with_gaps(data: Data, field: Scaled, rows: Rows, role: str) -> Doubles:
    """Return a column (rows, 1), NaN where it is missing."""
    try:
        return np.concatenate(list(blocks(data, field, rows, role, gaps=True)))
    except DataError as error:
        if field.reader is None:
            raise
        key = "type" if field.format is None else "format"
        raise OptionError(error.detail, column=field.name, key=key) from error


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


def _fill(values: Doubles, field: Scaled, options: ColumnSpec) -> float:
    """Return what is read in place of a missing value."""
    if isinstance(options.fill, str):
        return seconds_in(options.fill, field.format)
    if options.missing == "constant" or not len(values):
        return float(options.fill or 0.0)
    match options.missing:
        case "mean":
            return float(np.clip(math.fsum(values / len(values)), values.min(), values.max()))
        case "mode":
            distinct, counts = np.unique(values, return_counts=True)
            return float(distinct[counts.argmax()])
    return _middle(values, field.type == "boolean")


def _middle(values: Doubles, boolean: bool) -> float:
    """Return the median; of booleans the more frequent one."""
    ordered = np.sort(values)
    low, high = float(ordered[(len(ordered) - 1) // 2]), float(ordered[len(ordered) // 2])
    # Halves, so that no sum overflows.
    return low if boolean or low == high else low / 2 + high / 2


class _Source:
    """The blocks of a column (array), to be read more than once."""

    def __init__(self, data: Data, field: Scaled, rows: Rows, role: str) -> None:
        # Times are learnt with their gaps, and else are no numbers.
        times = field.type == "datetime"
        self._of = (data, Scaled(name=field.name) if times else field, rows, role)

    def __iter__(self) -> Iterator[Doubles]:
        return blocks(*self._of)


def _moments(source: Iterable[Doubles]) -> _Moments:
    """Return means, standard deviations and ranges of blocks, which are read twice."""
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
