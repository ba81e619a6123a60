"""What Python hands to the kernels: the structures of `blocks.c`, field by field."""

from __future__ import annotations

import ctypes

__all__ = ["StepStructure", "WorkStructure", "layout"]


class StepStructure(ctypes.Structure):
    """`Step` of `blocks.c`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "dst", "src", "other", "inner", "width")),
        *((name, ctypes.c_int32) for name in ("column", "what", "thin")),
        ("limit", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class WorkStructure(ctypes.Structure):
    """`Work` of `blocks.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("steps", "widths", "known", "outs", "keys")),
        ("row_ids", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "first_row", "last_row")),
        *((name, ctypes.c_int64) for name in ("first_pass", "passes")),
        *((name, ctypes.c_int32) for name in ("count", "buffers", "shared", "tile", "threads")),
    )


def layout() -> int:
    """Return what `bernoulli_layout` answers in a build that was made for these structures."""
    return ctypes.sizeof(StepStructure) << 16 | ctypes.sizeof(WorkStructure)
