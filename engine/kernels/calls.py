"""Calls of a program for few rows and passes, whose arrays take longer to make than to compute."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.kernels.structures import WorkStructure

__all__ = ["Call", "KeptCalls", "address", "with_room"]

Array = npt.NDArray[np.float32]

PANEL = 32  # columns; every buffer and bias has room for a multiple of it
_SIZES = 8
_AT_ONCE = 2  # calls of one size that are kept, for as many threads


class Call:
    """The arrays of one call, and where the kernel finds them; for one thread at a time."""

    def __init__(
        self,
        work: WorkStructure,
        *,
        known: Sequence[Array],
        sites: int,
        outputs: Sequence[int],
    ) -> None:
        """`work` says what there is to do, without where it is; `known` and `outputs` how wide."""
        rows, passes = work.rows, work.passes
        self._rooms = [with_room(values, copy=True) for values in known]
        self._known = [
            room[:, : values.shape[1]] for room, values in zip(self._rooms, known, strict=True)
        ]
        self._keys = np.zeros((sites, rows), dtype=np.uint64)
        self._row_ids = np.zeros(rows, dtype=np.int64)
        self._outs = [np.empty((passes, rows, width), dtype=np.float32) for width in outputs]
        self._at = [pointers(self._rooms), pointers(self._outs)]
        work.known, work.outs = map(ctypes.addressof, self._at)
        work.keys, work.row_ids = address(self._keys), address(self._row_ids)
        self._work = work
        self._reference = ctypes.byref(work)

    def run(
        self,
        kernel: Callable[[Any], int],
        known: Sequence[Array],
        keys: npt.NDArray[np.uint64],
        row_ids: npt.NDArray[np.int64],
        first_pass: int,
    ) -> list[Array] | None:
        """Return each output, (passes, rows, width); None where the kernel finds no memory."""
        for room, values in zip(self._known, known, strict=True):
            room[...] = values
        if len(keys):  # else nothing is drawn, and no row has a position
            self._keys[...] = keys
            self._row_ids[...] = row_ids
        self._work.first_pass = first_pass
        return None if kernel(self._reference) else [out.copy() for out in self._outs]


class KeptCalls:
    """Calls by their size, kept for the next of it; several threads may take some at once."""

    def __init__(self) -> None:
        self._free: dict[Hashable, list[Call]] = {}

    def take(self, size: Hashable) -> Call | None:
        """Return a call that nobody else has from now on, if there is one."""
        free = self._free.get(size)
        try:
            return free.pop() if free else None
        except IndexError:  # another thread has just taken it
            return None

    def give(self, size: Hashable, call: Call) -> None:
        """Give a call back, or a new one."""
        free = self._free.get(size)
        if free is None:
            if len(self._free) >= _SIZES:
                self._free = {}
            free = self._free.setdefault(size, [])
        if len(free) < _AT_ONCE:
            free.append(call)


def with_room(values: Array, *, copy: bool = False) -> Array:
    """Return rows with zeros up to whole panels behind them: as they are, or in a `copy`."""
    rows, width = values.shape
    if width % PANEL == 0 and not copy:
        return np.ascontiguousarray(values, dtype=np.float32)
    padded = np.zeros((rows, rounded(width)), dtype=np.float32)
    padded[:, :width] = values
    return padded


def rounded(width: int) -> int:
    """Return the room that so many columns take: a multiple of a panel's."""
    return -(-width // PANEL) * PANEL


def pointers(arrays: Sequence[npt.NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of arrays as C has them; one, of nothing, where there are none."""
    return (ctypes.c_void_p * max(1, len(arrays)))(*map(address, arrays))


def address(values: npt.NDArray[Any] | None) -> int | None:
    """Return where an array's numbers are."""
    return None if values is None else values.ctypes.data
