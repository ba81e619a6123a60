"""Draws by themselves, for networks that take the general path and for training."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from engine.kernels.builds import Kernels

__all__ = ["drop_factors", "normal_numbers"]

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float32]


def drop_factors(
    kernels: Kernels, states: Words, width: int, *, limit: int, scale: float
) -> Floats:
    """Return 0 where an element is dropped, else `scale`, (len(states), width).

    An element is dropped where its draw of 32 bits is below `limit`.
    """
    states = np.ascontiguousarray(states, dtype=np.uint64)
    drawn = np.empty((len(states), width), dtype=np.float32)
    kernels.library.bernoulli_masks(
        states.ctypes.data_as(_POINTER),
        _INT(len(states)),
        _INT(width),
        ctypes.c_uint32(limit),
        ctypes.c_float(scale),
        drawn.ctypes.data_as(_POINTER),
    )
    return drawn


def normal_numbers(kernels: Kernels, states: Words, width: int, *, scale: float) -> Floats:
    """Return normal numbers of mean 0 and standard deviation `scale`, (len(states), width)."""
    states = np.ascontiguousarray(states, dtype=np.uint64)
    drawn = np.empty((len(states), width), dtype=np.float32)
    kernels.library.bernoulli_normals(
        states.ctypes.data_as(_POINTER),
        _INT(len(states)),
        _INT(width),
        ctypes.c_float(scale),
        drawn.ctypes.data_as(_POINTER),
    )
    return drawn
