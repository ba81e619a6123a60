"""Moments of passes by the compiled kernels; the bits are those of `engine.statistics`."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.kernels.builds import Kernels, kernels

__all__ = ["MomentKernels", "moment_kernels"]

Samples = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

_BYTE = ctypes.c_char


class MomentKernels(NamedTuple):
    """The kernels of one build; arrays are C-contiguous."""

    reduce_passes: Any
    merge_blocks: Any

    def reduce(self, samples: Samples, means: Values, squares: Values | None) -> None:
        """Write the blocks' means and sums of squares, (blocks, width), of passes (T, width)."""
        passes, width = samples.shape
        at = None if squares is None else _address(squares)
        self.reduce_passes(_address(samples), passes, width, _address(means), at)

    def merge(
        self, means: Values, squares: Values | None, moments: Values, *, passes: int, done: int
    ) -> None:
        """Add blocks (blocks, …) of so many passes to first, sum and squares, (3, …)."""
        at = None if squares is None else _address(squares)
        width = moments.size // 3
        self.merge_blocks(_address(means), at, passes, width, done, _address(moments))


def _address(values: npt.NDArray[Any]) -> int:
    if not values.flags.writeable:
        return values.ctypes.data
    return ctypes.addressof(_BYTE.from_buffer(values.data))  # a quarter of the time


@cache
def moment_kernels(build: Kernels | None = None) -> MomentKernels | None:
    """Return the kernels of the fastest build, or of `build`; None where there are none."""
    found = build or kernels()
    if found is None or not hasattr(found.library, "bernoulli_merge"):
        return None
    reduce, merge = found.library.bernoulli_reduce, found.library.bernoulli_merge
    at, number = ctypes.c_void_p, ctypes.c_int64
    reduce.argtypes = [at, number, number, at, at]
    merge.argtypes = [at, at, number, number, number, at]
    reduce.restype = merge.restype = None
    return MomentKernels(reduce, merge)
