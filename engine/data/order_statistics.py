"""Order statistics of columns that are read block by block, and never held or sorted as a whole."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["middle"]

_BINS_LOG2 = 16
_SAMPLE = 2**12
_SAMPLED = 2**16
"""Fewer values are partitioned as they are."""

Doubles = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

_SIGN = np.uint64(1 << 63)


def middle(source: Iterable[Doubles], count: int, *, held: int) -> tuple[float, float]:
    """Return the values of ranks (count - 1) // 2 and count // 2, exactly.

    `source` are blocks (values,) of `count` finite numbers in all, read a few times; at most about
    `held` of them are kept at once. Selection by radix: doubles have an order-preserving integer
    key of 64 bits, of which each reading of the blocks fixes 16 more.
    """
    ranks = (count - 1) // 2, count // 2
    if count <= held:
        blocks = list(source)
        return _middle_of(blocks[0] if len(blocks) == 1 else np.concatenate(blocks), ranks)
    low, shift, before = 0, 64, 0  # the keys from `low` on that agree in all but `shift` bits
    while True:
        shift -= _BINS_LOG2
        counts = np.zeros(1 << _BINS_LOG2, dtype=np.int64)
        for block in source:
            counts += _histogram(_keys(block), low, shift)
        ends = before + np.cumsum(counts)
        first, last = (int(np.searchsorted(ends, rank, side="right")) for rank in ranks)
        lows = low + (first << shift), low + (last << shift)
        if first != last:  # the ranks follow each other, so these are the bins' last and first
            greatest = max(_within(block, lows[0], shift).max(initial=0) for block in source)
            least = min(_within(block, lows[1], shift).min(initial=_LARGEST) for block in source)
            return _value(int(greatest)), _value(int(least))
        before = int(ends[first] - counts[first])
        low = lows[0]
        if counts[first] <= held:
            found = np.sort(np.concatenate([_within(block, low, shift) for block in source]))
            return _value(int(found[ranks[0] - before])), _value(int(found[ranks[1] - before]))
        if shift == 0:
            return _value(low), _value(low)


def _middle_of(values: Doubles, ranks: tuple[int, int]) -> tuple[float, float]:
    """Return the values of two ranks, one after the other or the same, of values in memory.

    A sample tells between which two values they very likely are; only what lies there is
    partitioned (Floyd & Rivest 1975, with one round). Where the sample has misled, all is.
    """
    count = len(values)
    if count >= _SAMPLED:
        sample = np.sort(values[:: count // _SAMPLE])
        place = ranks[0] * len(sample) // count
        margin = int(2 * len(sample) ** 0.5)  # four standard deviations of a median's place
        low = sample[max(0, place - margin)]
        high = sample[min(len(sample) - 1, place + margin)]
        below = int(np.count_nonzero(values < low))
        within = values[(values >= low) & (values <= high)]
        if below <= ranks[0] and ranks[1] < below + len(within):
            values, ranks = within, (ranks[0] - below, ranks[1] - below)
    values = np.partition(values, ranks)
    return float(values[ranks[0]]) + 0.0, float(values[ranks[1]]) + 0.0


_LARGEST = np.uint64(2**64 - 1)


def _keys(values: Doubles) -> Keys:
    """Return integers in the order of the numbers; both zeros have one."""
    keys: Keys = (np.ascontiguousarray(values) + 0.0).view(np.uint64)
    turned = (keys.view(np.int64) >> 63).view(np.uint64)  # all bits of what is negative
    turned |= _SIGN
    keys ^= turned
    return keys


def _value(key: int) -> float:
    bits = key ^ (1 << 63) if key >> 63 else key ^ (2**64 - 1)
    return float(np.array(bits, dtype=np.uint64).view(np.float64))


def _histogram(keys: Keys, low: int, shift: int) -> npt.NDArray[np.int64]:
    """Count the keys from `low` on, by the 16 bits above the last `shift` ones."""
    width = shift + _BINS_LOG2
    if width < 64:
        keys = keys[keys >> np.uint64(width) == np.uint64(low >> width)]
    bins = (keys >> np.uint64(shift)) & np.uint64((1 << _BINS_LOG2) - 1)
    return np.bincount(bins.astype(np.int64), minlength=1 << _BINS_LOG2)


def _within(values: Doubles, low: int, shift: int) -> Keys:
    keys = _keys(values)
    found: Keys = keys[keys >> np.uint64(shift) == np.uint64(low >> shift)]
    return found
