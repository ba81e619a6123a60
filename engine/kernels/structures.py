"""What Python hands to the kernels: the structures of their sources, field by field."""

from __future__ import annotations

import ctypes

__all__ = [
    "PEEPHOLES",
    "DenseLayerStructure",
    "DescentStructure",
    "DrawingSiteStructure",
    "PenaltyTermStructure",
    "RecurrenceStructure",
    "StepStructure",
    "WorkStructure",
    "descent_layout",
    "layout",
    "recurrence_layout",
]

PEEPHOLES = ("ci", "cf", "co")
"""Of an LSTM's cell, in the order of `recurrence.c`."""

_LAYOUT = 2  # raised where fields or kinds of steps come to mean something else


class StepStructure(ctypes.Structure):
    """`Step` of `blocks.c`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("kind", "dst", "src", "other", "inner", "width")),
        *((name, ctypes.c_int32) for name in ("column", "what", "thin", "grouped")),
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
    sizes = ctypes.sizeof(StepStructure) << 12 | ctypes.sizeof(WorkStructure)
    return _LAYOUT << 24 | sizes


class DenseLayerStructure(ctypes.Structure):
    """`DenseLayer` of `descent.c`."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "activation", "first_site", "sites")),
        *((name, ctypes.c_int32) for name in ("source", "adds")),
        ("weight", ctypes.c_int64),
        ("bias", ctypes.c_int64),
    )


class DrawingSiteStructure(ctypes.Structure):
    """`DrawingSite` of `descent.c`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("limit", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("unused", ctypes.c_int32),
        ("key", ctypes.c_uint64),
        ("dropped", ctypes.c_int64),
    )


class PenaltyTermStructure(ctypes.Structure):
    """`PenaltyTerm` of `descent.c`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("layer", ctypes.c_int32),
        ("weight", ctypes.c_double),
        ("total", ctypes.c_double),
    )


class DescentStructure(ctypes.Structure):
    """`Descent` of `descent.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layers", "sites", "penalties", "parameters")),
        ("memory", ctypes.c_void_p * 3),
        *((name, ctypes.c_void_p) for name in ("x", "y", "weights", "order", "rates")),
        *((name, ctypes.c_void_p) for name in ("sgemm", "set_threads", "room")),
        *((name, ctypes.c_int64) for name in ("rows", "batch", "epoch", "position")),
        ("steps_before", ctypes.c_int64),
        ("options", ctypes.c_double * 4),
        *((name, ctypes.c_double) for name in ("clip", "loss_weight", "added_variance")),
        *((name, ctypes.c_double) for name in ("loss", "bad_loss")),
        *((name, ctypes.c_int32) for name in ("layer_count", "site_count", "penalty_count")),
        *((name, ctypes.c_int32) for name in ("loss_kind", "optimizer", "threads")),
        *((name, ctypes.c_int32) for name in ("variances", "unused")),
    )


def descent_layout() -> int:
    """Return what `bernoulli_descent_layout` answers, likewise."""
    parts = (DenseLayerStructure, DrawingSiteStructure, PenaltyTermStructure, DescentStructure)
    return int(sum(ctypes.sizeof(part) << 16 * (3 - i) for i, part in enumerate(parts)))


class RecurrenceStructure(ctypes.Structure):
    """`Recurrence` of `recurrence.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "xh", "hh", "bias")),
        ("peephole", ctypes.c_void_p * len(PEEPHOLES)),
        *((name, ctypes.c_void_p) for name in ("h_0", "c_0", "out", "cell", "saved")),
        *((name, ctypes.c_void_p) for name in ("out_slope", "cell_slope")),
        *((name, ctypes.c_void_p) for name in ("x_slope", "h_0_slope", "c_0_slope")),
        *((name, ctypes.c_void_p) for name in ("xh_slope", "hh_slope", "bias_slope")),
        ("peephole_slope", ctypes.c_void_p * len(PEEPHOLES)),
        ("room", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "steps", "inputs", "size", "limit")),
        *((name, ctypes.c_int32) for name in ("threads", "unused")),
    )


def recurrence_layout() -> int:
    """Return what `bernoulli_recurrence_layout` answers, likewise."""
    return ctypes.sizeof(RecurrenceStructure)
