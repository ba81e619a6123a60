"""Ranges: where the values of the training rows lay, and which rows of a request lie outside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.data.arrays import ScaledArray
from engine.data.inputs import Inputs
from engine.data.scaling import Scaled, encode
from engine.data.shapes import Field

__all__ = ["MAX_LISTED", "Outside", "Ranges"]

MAX_LISTED = 100
"""Rows whose inputs are named, at most."""
_NAMED = 20
_PIECE = 1 << 20
"""Numbers looked at together."""

Floats = npt.NDArray[np.float32]
Marks = npt.NDArray[np.bool_]


@dataclass(kw_only=True)
class Outside:
    """Rows with inputs below or above all those of the training rows."""

    rows: int = 0
    """How many there are."""
    inputs: Counter[str] = field(default_factory=Counter)
    """In how many of them each input is one."""
    listed: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    """The first of them, by their position, and their inputs."""

    def told(self) -> str:
        """Say how many rows there are, and the inputs that most of them lie outside by."""
        most = [f"{name!r} ({count})" for name, count in self.inputs.most_common(_NAMED)]
        more = len(self.inputs) - len(most)
        return (
            f"{self.rows} rows have inputs outside the range of the training rows: "
            f"{', '.join(most)}{f' and {more} more' if more else ''}"
        )

    def add(self, marks: Marks, names: Sequence[str], start: int) -> None:
        """Count the rows from position `start` on, of which `marks` (rows, inputs) says where."""
        by_name: dict[str, Marks] = {}
        for index in np.flatnonzero(marks.any(axis=0)).tolist():
            known = by_name.get(names[index])
            by_name[names[index]] = marks[:, index] if known is None else known | marks[:, index]
        self.inputs.update({name: int(own.sum()) for name, own in by_name.items()})
        rows = np.flatnonzero(marks.any(axis=1))
        self.rows += len(rows)
        for row in rows[: MAX_LISTED - len(self.listed)].tolist():
            inputs = tuple(name for name, own in by_name.items() if own[row])
            self.listed.append((start + row, inputs))


class _Bounds:
    """The range of each number that one input layer reads, in the network's units."""

    def __init__(self, fields: Sequence[Field], trailing: int) -> None:
        """The numbers stand along an axis that `trailing` others follow."""
        self.names: list[str] = []
        lows: list[float] = []
        highs: list[float] = []
        fills: list[float] = []
        for each in fields:
            low, high, fill = _encoded(each)
            self.names += _names(each)
            lows += low
            highs += high
            fills += fill
        self.is_known = bool(np.isfinite(lows).any())
        self._trailing = trailing
        self.low, self.high = self._along(lows), self._along(highs)
        self._fills = self._along(fills)

    def _along(self, values: Sequence[float]) -> Floats:
        return np.array(values, dtype=np.float32).reshape(-1, *(1,) * self._trailing)

    def marks(self, values: Floats) -> Marks:
        """Say which inputs of which rows lie outside, (rows, inputs), of (rows, …, inputs, …)."""
        beyond = (values < self.low) | (values > self.high)
        beyond &= values != self._fills  # read in place of what is missing
        axis = beyond.ndim - 1 - self._trailing
        others = tuple(i for i in range(1, beyond.ndim) if i != axis)
        return np.asarray(beyond.any(axis=others))


class Ranges:
    """The ranges of all inputs of a model."""

    def __init__(self, groups: Sequence[tuple[str, Sequence[Field]]]) -> None:
        """`groups` are the fields that stand side by side in each output that is given."""
        found = {}
        for output, fields in groups:
            is_image = any(isinstance(f, ScaledArray) and f.axis == 0 for f in fields)
            found[output] = _Bounds(fields, 2 if is_image else 0)
        self._bounds = {output: bounds for output, bounds in found.items() if bounds.is_known}

    def outside(self, x: Inputs) -> Outside | None:
        """Return the rows of which inputs lie outside; None where there are none.

        A sequence or image lies outside where any of its steps or pixels does.
        """
        for output, bounds in self._bounds.items():
            values = x.values.get(output)
            if values is None:
                continue
            # Of few numbers at once, since most rows lie inside; `any` would take twice as long.
            if type(values) is not np.ndarray or values.size > _PIECE:
                return self._looked_up(x)
            if 1 in np.less(values, bounds.low).tobytes():
                return self._looked_up(x)
            if 1 in np.greater(values, bounds.high).tobytes():
                return self._looked_up(x)
        return None

    def _looked_up(self, x: Inputs) -> Outside | None:
        there = [(output, own) for output, own in self._bounds.items() if output in x.values]
        names = [name for _, own in there for name in own.names]
        width = sum(math.prod(x.values[output].shape[1:]) for output, _ in there)
        size = max(1, _PIECE // max(1, width))
        outside = Outside()
        for start in range(0, len(x), size):
            some = x[start : start + size].values
            marks = np.concatenate([own.marks(some[output]) for output, own in there], axis=1)
            outside.add(marks, names, start)
        return outside if outside.rows else None


def _names(each: Field) -> tuple[str, ...]:
    return each.names if isinstance(each, Scaled | ScaledArray) else (each.name,) * each.width


def _encoded(each: Field) -> tuple[list[float], list[float], list[float]]:
    """Return the least and largest value of each number read, and what stands for a gap."""
    low, high, fill = [-math.inf] * each.width, [math.inf] * each.width, [math.nan] * each.width
    if isinstance(each, Scaled | ScaledArray) and each.low is not None and each.high is not None:
        low[: each.size] = _as_read(each, each.low)
        high[: each.size] = _as_read(each, each.high)
        if isinstance(each, Scaled) and each.fill is not None:
            fill[: each.size] = _as_read(each, each.fill)
    return low, high, fill


def _as_read(each: Scaled | ScaledArray, values: float | tuple[float, ...]) -> list[float]:
    """Return a value of each number (feature, channel) as the network reads it."""
    given = np.broadcast_to(np.asarray(values, dtype=np.float64), each.size)
    if isinstance(each, ScaledArray):
        encoded = each.encode(each.along(given)).reshape(-1)
    else:
        encoded = encode(given, np.asarray(each.mean), np.asarray(each.scale))
    numbers: list[float] = encoded.tolist()
    return numbers
