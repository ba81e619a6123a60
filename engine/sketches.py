"""Sketches of many passes: quantiles to a known relative error, in memory that does not grow.

A sketch counts values in buckets whose width is a fixed share of the value, as DDSketch does
(Masson, Rim & Lee 2019) with linearly interpolated logarithms: a float32's leading bits are its
bucket. Counts do not depend on the order of what is added, and those of two sketches add up.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.quantiles import between, ranks

__all__ = ["RELATIVE_ERROR", "Sketch"]

Samples = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

RELATIVE_ERROR = 0.001
"""Of a quantile's distance from the sketch's reference; 2^-10 is what the buckets give."""

_SHIFT = 14
"""Of a float32's 23 bits behind the point 9 tell buckets apart: 512 in each octave."""
_INFINITY = 0x7F800000 >> _SHIFT
_OCTAVE = 1 << (23 - _SHIFT)
_AT_ONCE = 1 << 17  # values: a MiB of numbers of buckets stays in the second-level cache


class Sketch:
    """Counts of how far the passes of some numbers lie from a reference, each by itself."""

    def __init__(self, reference: npt.NDArray[np.floating]) -> None:
        """`reference` has a value for each number; errors are relative to the distance from it."""
        self.passes = 0
        self._reference: Samples = reference.astype(np.float32)
        # Buckets of one number: those below the reference from afar, the reference, those above.
        self._lowest, self._highest = 1, 0
        self._counts = np.zeros((len(reference), 1), dtype=np.int64)

    def add(self, samples: Samples) -> None:
        """Count passes (T, numbers)."""
        size = max(1, _AT_ONCE // max(1, samples.shape[1]))
        for first in range(0, len(samples), size):
            self._add(samples[first : first + size])

    def _add(self, samples: Samples) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            bits = np.subtract(samples, self._reference).view(np.int32)
        buckets = (bits & 0x7FFFFFFF) >> _SHIFT
        nonzero = buckets > 0
        lowest = int(buckets.min(initial=_INFINITY, where=nonzero))
        self._reach(lowest, int(buckets.max(initial=0)))
        buckets -= self._lowest - 1
        buckets *= nonzero
        sign = bits >> 31
        buckets ^= sign
        buckets -= sign
        width = self._counts.shape[1]
        cells = buckets.astype(np.int64)
        cells += np.arange(len(self._reference)) * width + width // 2
        flat = self._counts.reshape(-1)  # of int64, to which `add.at` is quick
        np.add.at(flat, cells.reshape(-1), 1)
        self.passes += len(samples)

    def _reach(self, lowest: int, highest: int) -> None:
        """Make room for buckets, by whole octaves."""
        if highest == 0:
            return
        lowest = lowest // _OCTAVE * _OCTAVE + (lowest < _OCTAVE)
        highest = highest // _OCTAVE * _OCTAVE + _OCTAVE - 1
        if self._highest:
            lowest, highest = min(lowest, self._lowest), max(highest, self._highest)
        if (lowest, highest) == (self._lowest, self._highest):
            return
        above = highest - lowest + 1
        counts = np.zeros((len(self._reference), 2 * above + 1), dtype=np.int64)
        had = self._counts.shape[1] // 2
        counts[:, above] = self._counts[:, had]
        if had:
            inner = self._lowest - lowest
            start = above + 1 + inner
            counts[:, start : start + had] = self._counts[:, had + 1 :]
            end = above - inner
            counts[:, end - had : end] = self._counts[:, :had]
        self._lowest, self._highest, self._counts = lowest, highest, counts

    def merge(self, other: Sketch) -> None:
        """Add what another sketch with the same reference has counted."""
        if not np.array_equal(self._reference, other._reference):
            raise ValueError("sketches add up only where their references are the same")
        if other._highest:
            self._reach(other._lowest, other._highest)
        middle, had = self._counts.shape[1] // 2, other._counts.shape[1] // 2
        self._counts[:, middle] += other._counts[:, had]
        if had:
            inner = other._lowest - self._lowest
            start = middle + 1 + inner
            self._counts[:, start : start + had] += other._counts[:, had + 1 :]
            end = middle - inner
            self._counts[:, end - had : end] += other._counts[:, :had]
        self.passes += other.passes

    def quantiles(self, quantiles: tuple[float, ...]) -> Values:
        """Return quantiles, linear between order statistics, (quantiles, numbers)."""
        running = self._counts.cumsum(axis=1)
        values = self._values()
        below, above, share = ranks(self.passes, quantiles)
        low, high = (
            np.stack([values[(running <= rank).sum(axis=1)] for rank in numbers], axis=-1)
            for numbers in (below, above)
        )
        return between(low, high, share).T + self._reference

    def _values(self) -> Values:
        """Return what stands for the values of each bucket: its middle."""
        if not self._highest:
            return np.zeros(1)
        buckets = np.arange(self._lowest, self._highest + 1, dtype=np.int32)
        middles = (buckets << _SHIFT) | (1 << (_SHIFT - 1))
        middles[buckets == _INFINITY] = _INFINITY << _SHIFT
        with np.errstate(invalid="ignore"):  # beyond the infinite ones there are none but NaN
            positive = middles.view(np.float32).astype(np.float64)
        return np.concatenate([-positive[::-1], [0.0], positive])
