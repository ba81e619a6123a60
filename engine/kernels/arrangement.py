"""Arranging a program's steps: which are needed, which become one, and which buffers share room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.kernels.program import FUNCTIONS, Kind, Step, rounded

__all__ = ["arranged_steps"]

_RELU = FUNCTIONS["relu"]
_ELEMENTWISE = frozenset(range(FUNCTIONS["gelu"] + 1)) | {FUNCTIONS["prelu"], FUNCTIONS["lgrelu"]}
_IN_PLACE = (Kind.ACTIVATE, Kind.DROP, Kind.NOISE, Kind.ADD, Kind.MULTIPLY, Kind.NORM)
_MOST_THINNED = 1 << 23  # weights, of which a thinned product has a copy
_PRODUCTS = (Kind.AFFINE, Kind.DOT, Kind.DROP_DOT, Kind.CONNECT)
_MOST_GROUPED = 64  # inputs, of which a word of as many bits says which are dropped


def arranged_steps(steps: Sequence[Step], widths: Sequence[int]) -> tuple[list[Step], list[int]]:
    """Return the steps that STORE steps need, in few buffers, and these buffers' widths.

    `steps` have a buffer of its own for each value, of which `widths` has the width.
    """
    return _placed(_grouped(_fused(_used(steps))), widths)


def _reads(step: Step) -> list[int]:
    """Return the buffers whose contents a step needs."""
    read = [] if step.src < 0 else [step.src]
    if step.kind in (Kind.ADD, Kind.MULTIPLY):
        read.append(step.other)
    if (step.kind in _PRODUCTS or step.kind is Kind.COPY) and step.column:
        read.append(step.dst)
    return read


def _used(steps: Sequence[Step]) -> list[Step]:
    """Leave out the steps whose result nothing reads."""
    needed: set[int] = set()
    used: list[Step] = []
    for step in reversed(steps):
        if step.kind is Kind.STORE or step.dst in needed:
            used.append(step)
            needed.update(_reads(step))
    return used[::-1]


def _fused(steps: Sequence[Step]) -> list[Step]:
    """Let products rectify what they give, and dropout read known values, if nothing else does."""
    steps = list(steps)
    for i, step in enumerate(steps):
        if step.src < 0 or sum(step.src in _reads(other) for other in steps[:i] + steps[i + 1 :]):
            continue
        makers = [j for j, other in enumerate(steps) if other.dst == step.src]
        maker = steps[makers[-1]]
        if step.kind is Kind.DROP and maker.kind is Kind.LOAD:
            steps[i] = replace(step, src=-1, other=maker.what)
        elif step.kind is Kind.DOT and maker.kind is Kind.DROP and maker.src >= 0:
            steps[i] = replace(
                step,
                kind=Kind.DROP_DOT,
                src=maker.src,
                what=maker.what,
                limit=maker.limit,
                scale=maker.scale,
            )
            steps[makers[-1]] = replace(maker, dst=-1)
        elif step.kind is Kind.ACTIVATE and step.what == _RELU and maker.kind is Kind.AFFINE:
            steps[makers[-1]] = replace(maker, dst=step.dst, what=1)
            steps[i] = replace(step, dst=-1)
    return _used(steps)


def _grouped(steps: Sequence[Step]) -> list[Step]:
    """Let pairs of which the first drop of known values leaves the same be computed as one.

    They stay together through products and functions until another drop, if nothing else reads
    what these give.
    """
    for start, step in enumerate(steps):
        if step.kind is not Kind.DROP or step.src >= 0 or step.width > _MOST_GROUPED:
            continue
        grouped = list(steps)
        grouped[start] = replace(step, kind=Kind.GROUP)
        buffer = step.dst
        while sum(buffer in _reads(other) for other in steps) == 1:
            i = next(i for i, other in enumerate(steps) if buffer in _reads(other))
            reader = steps[i]
            grouped[i] = replace(reader, grouped=1)
            if reader.kind in (Kind.DROP, Kind.DROP_DOT):
                return grouped
            if reader.kind not in (Kind.AFFINE, Kind.ACTIVATE) or reader.column:
                break
            if sum(other.dst == reader.dst for other in steps) > 1:
                break
            buffer = reader.dst
    return list(steps)


def _placed(steps: Sequence[Step], widths: Sequence[int]) -> tuple[list[Step], list[int]]:
    """Let buffers that are not needed at one time share room; return the rooms' widths, too."""
    last = {buffer: i for i, step in enumerate(steps) for buffer in (*_reads(step), step.dst)}
    rooms: list[int] = []
    free: list[int] = []
    of: dict[int, int] = {-1: -1}
    placed: list[Step] = []
    for i, step in enumerate(steps):
        if step.dst not in of:
            width = rounded(widths[step.dst])
            in_place = step.kind in _IN_PLACE and not (step.kind is Kind.DROP and step.grouped)
            if in_place and last.get(step.src) == i and rooms[of[step.src]] >= width:
                of[step.dst] = of[step.src]
            else:
                fitting = [room for room in free if rooms[room] >= width]
                if fitting:
                    room = min(fitting, key=lambda room: rooms[room])
                    free.remove(room)
                else:
                    rooms.append(width)
                    room = len(rooms) - 1
                of[step.dst] = room
        combines = step.kind in (Kind.ADD, Kind.MULTIPLY)
        placed.append(
            replace(
                step,
                dst=of[step.dst],
                src=of[step.src],
                other=of[step.other] if combines else step.other,
                thin=_thinned_by(steps, i),
            )
        )
        still = {of[buffer] for buffer in of if buffer >= 0 and last[buffer] > i}
        gone = {of[buffer] for buffer in (*_reads(step), step.dst) if buffer >= 0} - still
        free.extend(room for room in gone if room not in free)
    return placed, rooms


def _thinned_by(steps: Sequence[Step], start: int) -> int:
    """Return 1 + the step that drops what a product gives, or 0 (see `Step.thin`)."""
    product = steps[start]
    if product.kind is not Kind.AFFINE or product.inner * product.width > _MOST_THINNED:
        return 0
    buffer = steps[start].dst
    for i, step in enumerate(steps[start + 1 :], start + 1):
        if buffer not in _reads(step):
            continue
        if step.kind in _PRODUCTS and step.dst == buffer and step.src != buffer:
            continue
        alone = sum(buffer in _reads(other) for other in steps[i:]) == 1
        if step.kind in (Kind.DROP, Kind.DROP_DOT) and alone:
            return i + 1
        if not (step.kind is Kind.ACTIVATE and step.what in _ELEMENTWISE and alone):
            return 0
        buffer = step.dst
    return 0
