"""Recurrence: LSTM layers of a batch and the gradients through time, in the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from engine.kernels.builds import Kernels, kernels
from engine.kernels.structures import PEEPHOLES, RecurrenceStructure, recurrence_layout

__all__ = ["compiled_scans", "lstm_scan", "scan_threads", "scans_lstm"]

_THREAD_COST = 4e6  # multiplications that pay for a thread, forward and back
_THREAD_ROWS = 4  # of a batch, at least
_MOST_THREADS = 64
_LINE = 64
_WEIGHTS = ("xh", "hh", "b", *PEEPHOLES)

_scans: ContextVar[tuple[Kernels, int] | None] = ContextVar("_scans", default=None)


@contextmanager
def compiled_scans(threads: int | None, build: Kernels | None = None) -> Iterator[None]:
    """Let layers that are trained within be scanned by the kernels, by so many threads at most.

    With None by PyTorch, as elsewhere. Gradients can then be derived once and not twice. `build` is
    for another than the fastest kernels.
    """
    found = build or kernels()
    lets = threads is not None and found is not None and _scans_recurrence(found)
    token = _scans.set((found, threads) if lets and found and threads else None)
    try:
        yield
    finally:
        _scans.reset(token)


def _scans_recurrence(found: Kernels) -> bool:
    """Say whether a build has these kernels: one of an older source has not."""
    try:
        layout: int = found.library.bernoulli_recurrence_layout()
    except AttributeError:
        return False
    found.library.bernoulli_lstm_bytes.restype = ctypes.c_int64
    found.library.bernoulli_lstm_saved.restype = ctypes.c_int64
    return layout == recurrence_layout()


def scan_threads(*, rows: int, steps: int, inputs: int, size: int, most: int) -> int:
    """Return how many threads, of so many at most, are worth sharing a batch."""
    cost = 4 * rows * steps * size * (size + inputs)
    return max(1, min(most, _MOST_THREADS, rows // _THREAD_ROWS, int(cost / _THREAD_COST)))


def scans_lstm(x: Tensor, weights: Mapping[str, Tensor], starts: Mapping[str, Tensor]) -> bool:
    """Say whether `lstm_scan` takes these: where it was let to, and a gradient is wanted."""
    tensors = [x, *(weights[name] for name in _WEIGHTS), *starts.values()]
    return (
        _scans.get() is not None
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and all(tensor.is_cpu and tensor.dtype == torch.float32 for tensor in tensors)
        and x.numel() > 0
        and [weights[name].dim() for name in _WEIGHTS] == [2, 2, 1, 1, 1, 1]
        and weights["xh"].shape[1] == 4 * weights["ci"].shape[0]  # there is no padding
    )


def lstm_scan(
    x: Tensor, weights: Mapping[str, Tensor], starts: Mapping[str, Tensor], *, limit: int | None
) -> tuple[Tensor, Tensor]:
    """Return outputs and cells of an LSTM with peepholes, (rows, steps, size) each.

    x (rows, steps, inputs) is read from its first step on. `weights` are those of
    `engine.layers.gated.Lstm`, `starts` its `h_0` and `c_0`, (rows, size), zeros where not given.
    No gradient passes a step that is a multiple of `limit`. Exponentials and hyperbolic tangents
    are wrong by less than 3 units in the last place.
    """
    given = (weights[name] for name in _WEIGHTS)
    out, cell = _LstmScan.apply(x, starts.get("h_0"), starts.get("c_0"), limit, *given)  # type: ignore[no-untyped-call]
    return out, cell


class _LstmScan(torch.autograd.Function):
    """One call of the kernels each way."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        limit: int | None,
        *given: Tensor,
    ) -> tuple[Tensor, Tensor]:
        found = _scans.get()
        assert found is not None
        x, h_0, c_0 = x.contiguous(), _contiguous(h_0), _contiguous(c_0)
        weights = tuple(weight.contiguous() for weight in given)
        ctx.kernels, threads = found
        structure = _structure((x, h_0, c_0, *weights), limit, threads)
        out, cell = x.new_empty((2, *x.shape[:2], structure.size)).unbind()
        count = ctx.kernels.library.bernoulli_lstm_saved(ctypes.byref(structure))
        saved = x.new_empty(count)
        structure.out, structure.cell = out.data_ptr(), cell.data_ptr()
        structure.saved = saved.data_ptr()
        _run(ctx.kernels, structure, "forward")
        ctx.limit, ctx.threads = limit, structure.threads
        ctx.save_for_backward(x, h_0, c_0, *weights, out, saved)
        ctx.set_materialize_grads(False)
        return out, cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, out, saved = ctx.saved_tensors
        structure = _structure(inputs, ctx.limit, ctx.threads)
        structure.out, structure.saved = out.data_ptr(), saved.data_ptr()
        given = [_contiguous(slope) for slope in slopes]
        structure.out_slope, structure.cell_slope = map(_address, given)
        wanted = (*ctx.needs_input_grad[:3], *(True for _ in _WEIGHTS))
        found = [
            torch.empty_like(value) if value is not None and wants else None
            for value, wants in zip(inputs, wanted, strict=True)
        ]
        x, h_0, c_0, xh, hh, b, *peepholes = map(_address, found)
        structure.x_slope, structure.h_0_slope, structure.c_0_slope = x, h_0, c_0
        structure.xh_slope, structure.hh_slope, structure.bias_slope = xh, hh, b
        structure.peephole_slope = (ctypes.c_void_p * len(peepholes))(*peepholes)
        _run(ctx.kernels, structure, "back")
        return (*found[:3], None, *found[3:])


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _structure(inputs: Any, limit: int | None, threads: int) -> RecurrenceStructure:
    """Return what both ways take: inputs, initial states and weights."""
    x, h_0, c_0, xh, hh, b, *peepholes = map(_address, inputs)
    rows, steps, width = inputs[0].shape
    size = inputs[4].shape[0]
    return RecurrenceStructure(
        x=x,
        xh=xh,
        hh=hh,
        bias=b,
        peephole=(ctypes.c_void_p * len(peepholes))(*peepholes),
        h_0=h_0,
        c_0=c_0,
        rows=rows,
        steps=steps,
        inputs=width,
        size=size,
        limit=limit or 0,
        threads=scan_threads(rows=rows, steps=steps, inputs=width, size=size, most=threads),
    )


def _run(found: Kernels, structure: RecurrenceStructure, way: str) -> None:
    count = found.library.bernoulli_lstm_bytes(ctypes.byref(structure), int(way == "back"))
    room = torch.empty(count + _LINE, dtype=torch.uint8)
    structure.room = -(-room.data_ptr() // _LINE) * _LINE
    getattr(found.library, f"bernoulli_lstm_{way}")(ctypes.byref(structure))
