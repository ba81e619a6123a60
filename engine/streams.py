"""Random streams: every number drawn is a pure function of its address.

A stream is addressed by names and numbers (seed, purpose, output, pattern, …) hashed to a 64-bit
key; an element of a dropout mask by its stream's key, its pass, its row and its column. Nothing is
kept between draws, so a pass is the same alone or among others, and there is no state to save.

Elements come from SplitMix64 (Steele, Lea & Flood 2014): one 64-bit word gives the leading 16 bits
of four elements; where those equal the threshold's, 16 more decide, so that a rate is exact to
2^-32. `STREAM_VERSION` names this scheme: the same version and seed give the same masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = [
    "STREAM_VERSION",
    "Permutations",
    "Words",
    "drop_mask",
    "generator",
    "key_of",
    "normal_noise",
    "row_states",
    "stream_key",
    "threshold",
    "told",
    "uniform_logits",
    "uniforms",
]

STREAM_VERSION = 1

Words = npt.NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, SplitMix64's increment
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ROW = np.uint64(0xD1B54A32D192ED03)  # another odd constant, so that passes and rows do not add up
_TIE = np.uint64(0x5851F42D4C957F2D)
_CHUNK_WORDS = 1 << 14  # 128 KiB of words: the mixing stays in the second-level cache


def stream_key(*address: int | str) -> int:
    """Hash an address to the 64-bit key of its stream; each part's type and length count."""
    return key_of(told(*address))


def key_of(told: bytes) -> int:
    """Hash what is told of an address; of two addresses, one after the other, it is both's."""
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")


def told(*address: int | str) -> bytes:
    """Return what is hashed of an address."""
    return b"".join([_told(part) for part in address])


@lru_cache(maxsize=4096, typed=True)
def _told(part: int | str) -> bytes:
    text = str(part).encode()
    return f"{type(part).__name__}:{len(text)}:".encode() + text


def generator(*address: int | str) -> np.random.Generator:
    """Return a NumPy generator of its own for an address: initial weights, permutations, splits."""
    return np.random.Generator(np.random.Philox(key=stream_key(*address)))


class Permutations:
    """Permutations of so many rows, one for each epoch; not for two threads at once."""

    def __init__(self, rows: int, *, seed: int) -> None:
        self._rows = rows
        self._seed = seed
        self._philox = np.random.Philox(key=0)
        self._begin = self._philox.state
        self._generator = np.random.Generator(self._philox)

    def of(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return what `generator(seed, "shuffle", epoch)` permutes the rows to, in less time."""
        self._begin["state"]["key"][0] = stream_key(self._seed, "shuffle", epoch)
        self._philox.state = self._begin
        return self._generator.permutation(self._rows)


def row_states(
    key: int | Words, passes: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> Words:
    """Return where the stream of each (pass, row) pair starts.

    `passes`, `rows` and keys, where there are many, have shapes that broadcast; so has the result.
    """
    with np.errstate(over="ignore"):
        by_pass = _mix(
            (passes.astype(np.uint64) + np.uint64(1)) * _GAMMA + np.asarray(key, np.uint64)
        )
        by_row = _mix((rows.astype(np.uint64) + np.uint64(1)) * _ROW)
        return _mix(by_pass + by_row)


def threshold(rate: float) -> int:
    """Return the 32-bit number below which a draw means "drop", for a `rate` in [0, 1)."""
    return min(round(rate * 2**32), 2**32 - 1)


def drop_mask(states: Words, width: int, rate: float) -> npt.NDArray[np.bool_]:
    """Return which elements are dropped, (len(states), width), each with probability `rate`."""
    drop = np.empty((len(states), width), dtype=np.bool_)
    limit = threshold(rate)
    high, low = np.uint16(limit >> 16), np.uint16(limit & 0xFFFF)
    words = -(-width // 4)
    with np.errstate(over="ignore"):
        steps = np.arange(1, words + 1, dtype=np.uint64) * _GAMMA
        chunk = max(1, _CHUNK_WORDS // words)
        for first in range(0, len(states), chunk):
            some = states[first : first + chunk]
            drawn = _mix(some[:, None] + steps).astype("<u8", copy=False)
            bits = drawn.view("<u2")[:, :width]
            part = drop[first : first + chunk]
            np.less(bits, high, out=part)
            tied_rows, tied_columns = np.nonzero(bits == high)
            if len(tied_rows) and low:
                more = (some[tied_rows] ^ _TIE) + (tied_columns.astype(np.uint64) + 1) * _GAMMA
                part[tied_rows, tied_columns] = (_mix(more) >> np.uint64(48)) < low
    return drop


def normal_noise(states: Words, width: int) -> npt.NDArray[np.float32]:
    """Return standard normal numbers, (len(states), width), by inversion of a word each.

    The word's leading 53 bits, centred, are the probability; the tails reach 8.1 deviations.
    """
    return _inverted(states, width, special.ndtri)


def uniform_logits(states: Words, width: int) -> npt.NDArray[np.float32]:
    """Return logits of uniform numbers, log u - log(1 - u), (len(states), width), a word each."""
    return _inverted(states, width, special.logit)


def uniforms(states: Words, width: int) -> npt.NDArray[np.float64]:
    """Return numbers between 0 and 1, (len(states), width): the leading 53 bits of a word each."""
    with np.errstate(over="ignore"):
        words = _mix(states[:, None] + np.arange(1, width + 1, dtype=np.uint64) * _GAMMA)
    drawn: npt.NDArray[np.float64] = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return drawn


def _inverted(
    states: Words, width: int, inverse: Callable[[npt.NDArray[np.float64]], Any]
) -> npt.NDArray[np.float32]:
    """Draw by inversion of a distribution's function, from the leading 53 bits of a word each."""
    drawn = np.empty((len(states), width), dtype=np.float32)
    with np.errstate(over="ignore"):
        steps = np.arange(1, width + 1, dtype=np.uint64) * _GAMMA
        chunk = max(1, _CHUNK_WORDS // width)
        for first in range(0, len(states), chunk):
            words = _mix(states[first : first + chunk, None] + steps)
            probability = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
            drawn[first : first + chunk] = inverse(probability)
    return drawn


def _mix(words: Words) -> Words:
    """SplitMix64's finaliser; a bijection in which every input bit moves every output bit."""
    z = np.array(words, dtype=np.uint64)
    shifted = np.empty_like(z)
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        np.right_shift(z, np.uint64(shift), out=shifted)
        np.bitwise_xor(z, shifted, out=z)
        np.multiply(z, factor, out=z)
    np.right_shift(z, np.uint64(31), out=shifted)
    np.bitwise_xor(z, shifted, out=z)
    return z
