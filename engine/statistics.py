"""Statistics over Monte-Carlo passes, in one pass over blocks of them.

Samples have the passes first. Each element of the rest is worked on alone, in one fixed order of
operations: passes are cut into blocks of 64 by their number, each block is summed by halving, and
blocks are merged in their order. So a row's statistics have the same bits in any company, and
however its passes were cut into pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCK",
    "Blocks",
    "Moments",
    "count_votes",
    "entropy",
    "mean_and_variance",
    "pass_mean",
    "reduce_blocks",
    "variation_ratio",
]

Samples = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]

BLOCK = 64
"""Passes of a block; only the last one of all may have fewer."""
_TILE = 1024
"""Columns worked on at once, each of a block of one number: half a MiB stays in the cache."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Consecutive passes, each block by itself."""

    passes: int
    means: Values
    """(blocks, …)"""
    squares: Values | None
    """Sums of squared deviations from the block's mean, (blocks, …)."""


def reduce_blocks(samples: Samples, *, spread: bool = True) -> Blocks:
    """Reduce passes (T, …), of which the first begins a block; without `spread` to means alone."""
    passes, shape = len(samples), samples.shape[1:]
    flat = samples.reshape(passes, -1)
    count, width = -(-passes // BLOCK), flat.shape[1]
    if count * width <= _TILE:
        means, squares = _reduce_tile(flat, spread)
    else:
        means = np.empty((count, width))
        squares = np.empty((count, width)) if spread else None
        group = max(1, _TILE // max(1, width))
        for first in range(0, count, group):
            for column in range(0, width, _TILE):
                at = np.s_[first : first + group, column : column + _TILE]
                part = flat[first * BLOCK : (first + group) * BLOCK, at[1]]
                means[at], of_tile = _reduce_tile(part, spread)
                if squares is not None:
                    squares[at] = of_tile
    return Blocks(
        passes=passes,
        means=means.reshape(count, *shape),
        squares=None if squares is None else squares.reshape(count, *shape),
    )


def _reduce_tile(part: Samples, spread: bool) -> tuple[Values, Values | None]:
    """Return means and squares, (blocks, width), of passes (T, width)."""
    full, rest = divmod(len(part), BLOCK)
    width = part.shape[1]
    count = full + (rest > 0)
    # The passes of a block first, so that every sum runs along all blocks and columns at once.
    values = np.zeros((BLOCK, count, width)) if rest else np.empty((BLOCK, count, width))
    if full:
        values[:, :full] = part[: full * BLOCK].reshape(full, BLOCK, width).swapaxes(0, 1)
    if rest:
        values[:rest, full] = part[full * BLOCK :]
    means = _halved(values)
    means[:full] *= 1 / BLOCK
    if rest:
        means[full] /= rest
    if not spread:
        return means, None
    values -= means
    if rest:
        values[rest:, full] = 0
    np.square(values, out=values)
    return means, _halved(values)


def _halved(values: Values) -> Values:
    """Sum over the first axis, of length `BLOCK`, by halving.

    `np.sum` would choose its order by the array's shape.
    """
    half = BLOCK // 2
    folded: Values = values[:half] + values[half:]
    while half > 1:
        half //= 2
        folded[:half] += folded[half : 2 * half]
    total: Values = folded[0]
    return total


class Moments:
    """Mean and sample variance of passes that come in pieces, each of whole blocks but the last.

    Blocks are merged by the formula of Chan, Golub & LeVeque (1979), in float64; the running mean
    is kept as its difference from the first block's, so that a large mean costs no digits.
    """

    def __init__(self) -> None:
        self.passes = 0
        self._first: Values = np.zeros(())
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, blocks: Blocks) -> None:
        """Merge the passes that follow."""
        if self.passes % BLOCK:
            raise ValueError("passes follow a block that is not full")
        count = len(blocks.means)
        if self.passes == 0:
            self._first = blocks.means[0]
            self._squares = 0.0 if blocks.squares is None else blocks.squares[0]
            self.passes = min(BLOCK, blocks.passes)
            if count > 1:
                self._merge(blocks, 1)
        else:
            self._merge(blocks, 0)

    def _merge(self, blocks: Blocks, skipped: int) -> None:
        """Merge all blocks but those skipped."""
        means = blocks.means[skipped:]
        sizes = np.full(len(means), float(BLOCK))
        sizes[-1] = (blocks.passes - 1) % BLOCK + 1
        before = self.passes + BLOCK * np.arange(len(means), dtype=np.float64)
        along = (-1,) + (1,) * (means.ndim - 1)
        deviations = means - self._first
        # accumulate adds one after another, so that pieces may begin anywhere.
        sums = _accumulated(self._sum, deviations * sizes.reshape(along))
        if blocks.squares is not None:
            deviations -= sums[:-1] / before.reshape(along)
            np.square(deviations, out=deviations)
            deviations *= (before * sizes / (before + sizes)).reshape(along)
            deviations += blocks.squares[skipped:]
            self._squares = _accumulated(self._squares, deviations)[-1]
        self._sum = sums[-1]
        self.passes += int(sizes.sum())

    @property
    def mean(self) -> Values:
        mean: Values = self._first + self._sum / self.passes
        return mean

    @property
    def variance(self) -> Values | None:
        """With divisor T - 1; None for one pass. Exactly 0 where all passes agree."""
        if self.passes < 2:
            return None
        variance: Values = self._squares / (self.passes - 1)
        return variance

    @property
    def first(self) -> Values:
        """The mean of the first block."""
        return self._first


def _accumulated(start: Any, terms: Values) -> Values:
    """Return the running sums of `terms` along the first axis, from `start` on."""
    sums = np.empty((len(terms) + 1, *terms.shape[1:]))
    sums[0] = start
    sums[1:] = terms
    running: Values = np.add.accumulate(sums, axis=0, out=sums)
    return running


def pass_mean(samples: Samples) -> Values:
    """Return the mean over the passes, (passes, …) -> (…), in float64."""
    moments = Moments()
    moments.add(reduce_blocks(samples, spread=False))
    return moments.mean


def mean_and_variance(samples: Samples) -> tuple[Values, Values | None]:
    """Return the mean and the sample variance (divisor T - 1) over the passes.

    The variance of one pass does not exist: None. It is exactly 0 where all passes agree.
    """
    moments = Moments()
    moments.add(reduce_blocks(samples))
    return moments.mean, moments.variance


def entropy(probabilities: Samples) -> Values:
    """Return the entropy over the last axis, in nats; 0 log 0 is 0, and nothing is clipped."""
    p = np.ascontiguousarray(probabilities, dtype=np.float64)
    # No float32 but 0 is below the smallest normal float64, and p log p is 0 there.
    logs = np.log(np.maximum(p, np.finfo(np.float64).tiny))
    logs *= p
    # Not the negative of the sum: certainty has 0, not -0.
    entropies: Values = np.subtract(0.0, logs.sum(axis=-1))
    return entropies


def count_votes(samples: Samples) -> npt.NDArray[np.int64]:
    """Return how many passes (T, …, classes) find each class the likeliest, (…, classes)."""
    classes = samples.shape[-1]
    chosen = samples.argmax(axis=-1).reshape(len(samples), -1)
    cells = chosen.shape[1] * classes
    chosen += np.arange(0, cells, classes)
    counted: npt.NDArray[np.int64] = np.bincount(chosen.ravel(), minlength=cells)
    return counted.reshape(samples.shape[1:])


def variation_ratio(counted: npt.NDArray[np.int64]) -> Values:
    """Return the share of votes (…, classes) that are not for the most frequent class, (…)."""
    share: Values = 1.0 - counted.max(axis=-1) / counted.sum(axis=-1)
    return share
