"""Statistics over Monte-Carlo passes, in one pass over blocks of them.

Samples have the passes first. Each element of the rest is worked on alone, in one fixed order of
operations: passes are cut into blocks of 64 by their number, each block is summed pass by pass, and
blocks are merged in their order. So a row's statistics have the same bits in any company, and
however its passes were cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.kernels.moments import moment_kernels

__all__ = [
    "BLOCK",
    "Blocks",
    "Moments",
    "count_votes",
    "entropy",
    "mean_and_variance",
    "pass_mean",
    "portions",
    "reduce_blocks",
    "variation_ratio",
]

Samples = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]

BLOCK = 64
"""Passes of a block; only the last one of all may have fewer."""
_PORTION = 1 << 14
_TINY = np.finfo(np.float64).tiny
_TILE = 512
"""Columns worked on at once, each a block of one number: 256 KiB stay in the cache."""


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
    compiled = moment_kernels()
    if compiled is not None and samples.dtype == np.float32 and width:
        means = np.empty((count, *shape))
        squares = np.empty((count, *shape)) if spread else None
        compiled.reduce(np.ascontiguousarray(flat), means, squares)
        return Blocks(passes=passes, means=means, squares=squares)
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
    cells = count * width
    # The passes of a block first, so that every sum runs along all blocks and columns at once.
    shape = (BLOCK, cells if cells > 1 else 2)
    values = np.zeros(shape) if rest or cells == 1 else np.empty(shape)
    if full:
        given = part[: full * BLOCK].reshape(full, BLOCK, width).swapaxes(0, 1)
        values[:, : full * width].reshape(BLOCK, full, width)[...] = given
    if rest:
        values[:rest, full * width : cells] = part[full * BLOCK :]
    means = _summed(values)
    means /= _sizes(len(part), width)
    if spread:
        values -= means
        if rest:
            values[rest:, full * width :] = 0
        np.multiply(values, values, out=values)
    squares = _summed(values)[:cells].reshape(count, width) if spread else None
    return means[:cells].reshape(count, width), squares


@lru_cache(maxsize=256)
def _sizes(passes: int, width: int) -> Values:
    """Return how many passes the block of each column of a tile has."""
    full, rest = divmod(passes, BLOCK)
    sizes = np.full(max(2, (full + (rest > 0)) * width), float(BLOCK))
    if rest:
        sizes[full * width :] = rest
    return sizes


def _summed(values: Values) -> Values:
    """Sum over the first axis, one row after another.

    NumPy adds whole rows where there are two columns or more; a single one it would sum in another
    order.
    """
    total: Values = np.add.reduce(values, axis=0)
    return total


class Moments:
    """Mean and sample variance of passes that come in pieces, each of whole blocks but the last.

    Blocks are merged by the formula of Chan, Golub & LeVeque (1979), in float64; the running mean
    is kept as its difference from the first block's, so that a large mean costs no digits.
    """

    def __init__(self) -> None:
        self.passes = 0
        self._state: Values = np.zeros((3,))
        """The first block's mean, the sum of differences from it, the sum of squares."""

    def add(self, blocks: Blocks) -> None:
        """Merge the passes that follow."""
        if self.passes % BLOCK:
            raise ValueError("passes follow a block that is not full")
        means, squares = blocks.means, blocks.squares
        if self.passes == 0:
            self._state = np.zeros((3, *means.shape[1:]))
        if self.passes == 0 and len(means) == 1:
            self._state[0] = means[0]
            if squares is not None:
                self._state[2] = squares[0]
        else:
            compiled = moment_kernels()
            merge = _merge if compiled is None else compiled.merge
            merge(means, squares, self._state, passes=blocks.passes, done=self.passes)
        self.passes += blocks.passes

    @property
    def mean(self) -> Values:
        mean: Values = self._state[0] + self._state[1] / self.passes
        return mean

    @property
    def variance(self) -> Values | None:
        """With divisor T - 1; None for one pass. Exactly 0 where all passes agree."""
        if self.passes < 2:
            return None
        variance: Values = self._state[2] / (self.passes - 1)
        return variance

    @property
    def first(self) -> Values:
        """The mean of the first block."""
        first: Values = self._state[0]
        return first


def _merge(
    means: Values, squares: Values | None, moments: Values, *, passes: int, done: int
) -> None:
    """Add blocks of so many passes to first, sum and squares, (3, …)."""
    first, total, spread = moments
    sizes, before, weights = _weights(done, passes, means.ndim)
    if done == 0:
        first[...] = means[0]
    deviations = means - first
    # accumulate adds one after another, so that pieces may begin anywhere.
    sums = np.empty((len(means) + 1, *first.shape))
    sums[0] = total
    np.multiply(deviations, sizes, out=sums[1:])
    np.add.accumulate(sums, axis=0, out=sums)
    total[...] = sums[-1]
    if squares is None:
        return
    added = np.empty(sums.shape)
    added[0] = spread
    of_blocks = added[1:]
    np.divide(sums[:-1], before, out=of_blocks)
    np.subtract(deviations, of_blocks, out=of_blocks)
    np.multiply(of_blocks, of_blocks, out=of_blocks)
    np.multiply(of_blocks, weights, out=of_blocks)
    np.add(of_blocks, squares, out=of_blocks)
    spread[...] = np.add.accumulate(added, axis=0, out=added)[-1]


@lru_cache(maxsize=256)
def _weights(done: int, passes: int, ndim: int) -> tuple[Values, Values, Values]:
    """Return, for blocks that follow `done` passes, what they are merged with.

    Their sizes, the passes before each (1 where there are none), and what the square of a mean's
    distance from that before it counts; all of `ndim` dimensions, blocks first.
    """
    count = -(-passes // BLOCK)
    sizes = np.full((count,) + (1,) * (ndim - 1), float(BLOCK))
    sizes[-1] = passes - BLOCK * (count - 1)
    before = done + BLOCK * np.arange(count, dtype=np.float64).reshape(sizes.shape)
    weights = before * sizes / (before + sizes)
    return sizes, np.maximum(before, 1.0), weights


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
    p = np.asarray(probabilities)
    flat = p.reshape(-1, p.shape[-1])
    entropies = np.empty(len(flat))
    for part in portions(flat):
        shares = flat[part].astype(np.float64)
        # No float32 but 0 is below the smallest normal float64, and p log p is 0 there.
        logs = np.maximum(shares, _TINY)
        np.log(logs, out=logs)
        np.multiply(logs, shares, out=logs)
        # Not the negative of the sum: certainty has 0, not -0.
        np.subtract(0.0, logs.sum(axis=-1), out=entropies[part])
    return entropies.reshape(p.shape[:-1])


def portions(values: npt.NDArray[Any]) -> Iterator[slice]:
    """Cut rows (rows, numbers) into portions that stay in the cache in float64."""
    size = max(1, _PORTION // max(1, values.shape[1]))
    for first in range(0, len(values), size):
        yield slice(first, first + size)


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
