"""Programs: the steps that the block kernels take for one way through a network."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from engine.kernels.builds import Kernels, kernels
from engine.kernels.calls import PANEL, Call, KeptCalls, address, pointers, rounded, with_room
from engine.kernels.structures import StepStructure, WorkStructure

__all__ = ["FUNCTIONS", "Kind", "Program", "Step", "panels", "rounded"]

Array = npt.NDArray[np.float32]

_TILE_BYTES = 384 << 10  # of all buffers of a tile: they stay in the second-level cache
_SHARED_TILE_BYTES = 4 << 20
_CALL_COST = 1.5e9  # multiplications in one call: some tens of milliseconds
_SMALL_COST = 5e5  # multiplications, of calls whose arrays are kept
_SMALL_PAIRS = 4096
_THREAD_COST = 2e7  # multiplications that pay for a thread
_DRAW_COST = 16  # multiplications that take as long as a draw of dropout
_NOISE_COST = 400
_FUNCTION_COST = 16
_NO_MEMORY = "no memory for the tiles of a prediction"


class Kind(IntEnum):
    """What a step does; the order is that of `blocks.c`."""

    LOAD = 0
    CONSTANT = 1
    AFFINE = 2
    DOT = 3
    CONNECT = 4
    ACTIVATE = 5
    DROP = 6
    NOISE = 7
    ADD = 8
    MULTIPLY = 9
    COPY = 10
    NORM = 11
    STORE = 12
    GROUP = 13
    """DROP of known values of which pairs that lose the same are computed together."""
    DROP_DOT = 14
    """DOT of what a DROP keeps."""


_NAMES = (
    "linear relu tanh sigmoid softplus elu silu rect:min rect:minmax gelu softmax "
    "norm:mean norm:max norm:std norm:z prelu lgrelu maxout"
)
FUNCTIONS = {name: number for number, name in enumerate(_NAMES.split())} | {"rect:max": 1}
"""The number of each activation in `blocks.c`."""


@dataclass(kw_only=True)
class Step:
    """One step over a tile of rows: `dst` of `src`, which are numbers of buffers."""

    kind: Kind
    dst: int = -1
    src: int = -1
    other: int = -1
    """The second input of ADD and MULTIPLY; of ACTIVATE how many pieces a unit has; of DROP and
    GROUP which known values it reads, where `src` is none."""
    inner: int = 0
    """Inputs of a product."""
    width: int = 0
    """Numbers of a row of the result."""
    column: int = 0
    """Of `dst` where COPY begins; for products 1 where they add to `dst`."""
    what: int = 0
    """Which known values are loaded, which site draws, which function, which output; for AFFINE
    whether to rectify the result."""
    thin: int = 0
    """1 + the number of the step that drops what a product gives, alike for rows that share masks;
    0 where none does, or others read it before."""
    grouped: int = 0
    """1 where `src` has a row for each group that a GROUP step made; products and activations keep
    the groups, another drop ends them."""
    limit: int = 0
    """Threshold of 32 bits below which an element is dropped."""
    scale: float = 1.0
    weight: Array | None = None
    bias: Array | None = None


_NUMBERS = tuple(field[0] for field in StepStructure._fields_[:-2])


class Program:
    """Steps over buffers; immutable, and safe to run from several threads at once."""

    def __init__(
        self,
        steps: Sequence[Step],
        widths: Sequence[int],
        outputs: Sequence[int],
        build: Kernels | None = None,
    ) -> None:
        """`widths` are those of the buffers, `outputs` those of what STORE steps write.

        `build` is for another than the fastest kernels.
        """
        found = build or kernels()
        assert found is not None
        self._run = found.library.bernoulli_run
        self.kinds = tuple(step.kind for step in steps)
        """What the steps do, in their order."""
        self._kept = [step.weight for step in steps] + [step.bias for step in steps]
        self._steps = (StepStructure * len(steps))(*map(_told, steps))
        self._widths = (ctypes.c_int32 * len(widths))(*widths)
        self._steps_at = ctypes.addressof(self._steps)
        self._widths_at = ctypes.addressof(self._widths)
        self._outputs = tuple(outputs)
        self._calls = KeptCalls()
        self._buffers = len(widths)
        self.cost = sum(map(_cost, steps))
        """Of one pass of one row, in multiplications."""
        pair = 4 * sum(rounded(width) for width in widths)
        self._tile = _tile_of(_TILE_BYTES // max(1, pair))
        # A thinned product takes its columns out of the weights once a tile.
        thins = any(step.thin for step in steps)
        self._shared_tile = _tile_of(_SHARED_TILE_BYTES // max(1, pair)) if thins else self._tile

    def run(
        self,
        known: Sequence[Array],
        keys: npt.NDArray[np.uint64],
        row_ids: npt.NDArray[np.int64],
        *,
        first_pass: int,
        passes: int,
        shared: bool = False,
        threads: int = 1,
        pause: Callable[[], None] = lambda: None,
    ) -> list[Array]:
        """Return each output, (passes, rows, width).

        `known` are (rows, width) each, in the order of the LOAD steps' numbers; `keys` are of each
        site's stream, (sites, rows); `row_ids` the rows' positions in the streams. `pause` is
        called every few hundredths of a second, between calls of the kernel. Raises MemoryError
        where the tiles' memory cannot be had.
        """
        rows = len(row_ids)
        pairs = passes * rows
        if pairs <= _SMALL_PAIRS and pairs * self.cost <= _SMALL_COST:
            pause()
            return self._run_small(known, keys, row_ids, first_pass, passes, shared)
        outs = [np.empty((passes, rows, width), dtype=np.float32) for width in self._outputs]
        given = [with_room(values) for values in known]
        keys = np.ascontiguousarray(keys, dtype=np.uint64)
        row_ids = np.ascontiguousarray(row_ids, dtype=np.int64)
        known_at, outs_at = pointers(given), pointers(outs)
        work = self._work(rows, passes, shared)
        work.known, work.outs = ctypes.addressof(known_at), ctypes.addressof(outs_at)
        work.keys, work.row_ids = address(keys), address(row_ids)
        work.first_pass = first_pass
        work.threads = max(1, min(threads, int(self.cost * pairs / _THREAD_COST)))
        at_once = max(1, int(_CALL_COST / max(1, self.cost)))
        if pairs <= at_once:
            pause()
            self._call(work)
            return outs
        # Passes of a row share the zeros that it had before them, rows of a pass a shared mask.
        if shared:
            many_rows = min(rows, at_once)
            many_passes = at_once // many_rows
        else:
            many_passes = min(passes, at_once)
            many_rows = at_once // many_passes
        for start in range(0, passes, many_passes):
            work.first_pass = first_pass + start
            work.passes = min(many_passes, passes - start)
            outs_at[:] = [address(values[start:]) for values in outs] or [None]
            for row in range(0, rows, many_rows):
                pause()
                work.first_row, work.last_row = row, min(row + many_rows, rows)
                self._call(work)
        return outs

    def _run_small(
        self,
        known: Sequence[Array],
        keys: npt.NDArray[np.uint64],
        row_ids: npt.NDArray[np.int64],
        first_pass: int,
        passes: int,
        shared: bool,
    ) -> list[Array]:
        size = (len(row_ids), passes, shared)
        call = self._calls.take(size)
        if call is None:
            work = self._work(*size)
            call = Call(work, known=known, sites=len(keys), outputs=self._outputs)
        outs = call.run(self._run, known, keys, row_ids, first_pass)
        self._calls.give(size, call)
        if outs is None:
            raise MemoryError(_NO_MEMORY)
        return outs

    def _work(self, rows: int, passes: int, shared: bool) -> WorkStructure:
        """Return what there is to do, without where it is, from pass 0 on and by one thread."""
        return WorkStructure(
            steps=self._steps_at,
            widths=self._widths_at,
            rows=rows,
            last_row=rows,
            passes=passes,
            count=len(self._steps),
            buffers=self._buffers,
            shared=shared,
            tile=self._shared_tile if shared else self._tile,
            threads=1,
        )

    def _call(self, work: WorkStructure) -> None:
        if self._run(ctypes.byref(work)):
            raise MemoryError(_NO_MEMORY)


def _tile_of(pairs: int) -> int:
    """Return at most so many rows; where it can, a multiple of those a product takes at once."""
    return max(1, min(1008, pairs) // 24 * 24 or pairs)


def panels(weight: Array) -> Array:
    """Arrange a matrix (inputs, columns) in panels of 32 columns, zeros behind the last."""
    inputs, columns = weight.shape
    padded = np.zeros((inputs, rounded(columns)), dtype=np.float32)
    padded[:, :columns] = weight
    arranged = padded.reshape(inputs, -1, PANEL).transpose(1, 0, 2)
    return np.ascontiguousarray(arranged)


def _told(step: Step) -> StepStructure:
    numbers = {name: getattr(step, name) for name in _NUMBERS}
    return StepStructure(**numbers, weight=address(step.weight), bias=address(step.bias))


def _cost(step: Step) -> float:
    match step.kind:
        case Kind.AFFINE | Kind.DOT:
            return step.inner * max(step.width, 4)
        case Kind.CONNECT:
            return step.inner * rounded(step.width) * _DRAW_COST
        case Kind.DROP | Kind.GROUP:
            return rounded(step.width) * _DRAW_COST
        case Kind.DROP_DOT:
            return rounded(step.inner) * _DRAW_COST + step.inner * max(step.width, 4)
        case Kind.NOISE:
            return step.width * _NOISE_COST
        case Kind.ACTIVATE:
            return step.width * _FUNCTION_COST * max(1, step.other)
    return step.width
