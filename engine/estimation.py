"""Passes drawn until there are enough: how many at a time, when to stop, what is known by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from engine.conformal_sets import chances
from engine.data.inputs import Inputs
from engine.statistics import BLOCK
from engine.summary import Summary, Tree
from engine.tallies import EXACT_PASSES, Kept, Piece, Tally

__all__ = [
    "NOISE",
    "OWN",
    "Drawing",
    "Estimate",
    "Passes",
    "Reading",
    "StoppedBy",
    "kept_passes",
    "never",
]

StoppedBy = Literal["num_samples", "tolerance", "budget_ms"]
Samples = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

OWN, NOISE = "prediction", "noise"
"""Readings by these names are the prediction, and the variance of noise that was learnt."""

_PIECE = 1 << 21
"""Numbers drawn at once: they are reduced while a cache still has them."""
_PIECE_FLOPS = 1e8
"""Operations between two looks at the clock, some milliseconds."""
_KEPT = 1 << 23
"""Samples held at once, where nobody asks for all rows at the same time."""
_PREPARED = 1 << 24
"""Numbers computed ahead of the passes and held, at most; beyond, computed for each piece."""


def never() -> bool:
    """Answer `stop` and `late` for whoever has time."""
    return False


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What some passes come to."""

    num_samples: int
    """How many passes were drawn."""
    stopped_by: StoppedBy | None
    """What ended the drawing; None while it goes on."""
    outputs: Tree


@dataclass(frozen=True, kw_only=True)
class Reading:
    """An output of the network as the answer tells of it."""

    output: str
    kept: Kept
    adapt: Callable[[Samples], npt.NDArray[Any]] | None = None
    """What is made of its samples, (passes, rows, *shape), before they are kept."""

    def of(self, samples: Samples) -> npt.NDArray[Any]:
        return samples if self.adapt is None else self.adapt(samples)


class _Rows(Protocol):
    """Rows of which passes can be drawn."""

    @property
    def deterministic(self) -> Mapping[str, Samples]:
        """What no mask reaches."""

    def draw(self, first: int, count: int) -> Mapping[str, Samples]:
        """Return passes `first` to `first + count - 1`, of ensembles so many of each member."""


class Passes(Protocol):
    """What draws passes: a sampler, or those of an ensemble's members together."""

    @property
    def stochastic(self) -> Sequence[str]:
        """Outputs that differ between passes."""

    @property
    def seed(self) -> int:
        """The seed of all rows that have none of their own."""

    @property
    def members(self) -> int:
        """How many passes are drawn for each that is asked for."""

    @property
    def numbers_per_row(self) -> int:
        """What is held for a row that is prepared."""

    def size_of(self, name: str) -> int:
        """Return how many numbers an output has."""

    def prepare(self, x: Inputs, row_ids: Indices, seeds: Sequence[int] | None = None) -> _Rows:
        """Prepare rows, so that passes of them can be drawn."""


class _Part:
    """Some of the rows, and what is known of them."""

    def __init__(
        self,
        readings: Mapping[str, Reading],
        sampler: Passes,
        x: Inputs,
        ids: Indices,
        seeds: Sequence[int] | None,
    ) -> None:
        self.x = x
        self._readings = readings
        self._sampler = sampler
        self._ids = ids
        self._seeds = seeds
        self._holds = len(x) * sampler.numbers_per_row <= _PREPARED
        self._prepared: _Rows | None = None
        drawn = set(sampler.stochastic)
        self.tallies = {
            name: Tally(reading.kept, constant=reading.output not in drawn, members=sampler.members)
            for name, reading in readings.items()
        }
        for name, tally in self.tallies.items():
            if tally.constant:
                reading = readings[name]
                value = self.prepared().deterministic[reading.output]
                tally.add(tally.reduce(reading.of(value[None])))

    def chances(self, width: int) -> npt.NDArray[np.float64]:
        """Return random numbers between 0 and 1 that are no masks, (rows, width)."""
        return chances(self._sampler.seed if self._seeds is None else self._seeds, self._ids, width)

    def prepared(self) -> _Rows:
        if self._prepared is not None:
            return self._prepared
        prepared = self._sampler.prepare(self.x, self._ids, self._seeds)
        if self._holds:
            self._prepared = prepared
        return prepared

    def reduce(self, first: int, count: int) -> dict[str, Piece]:
        """Draw passes and reduce them; nothing is known of them before they are added."""
        drawn = self.prepared().draw(first, count)
        return {
            name: tally.reduce(self._readings[name].of(drawn[self._readings[name].output]))
            for name, tally in self.tallies.items()
            if not tally.constant
        }

    def add(self, pieces: Mapping[str, Piece]) -> None:
        for name, piece in pieces.items():
            self.tallies[name].add(piece)


class Drawing:
    """The passes of one run: rows cut into parts, passes into pieces; no bit depends on the cut."""

    def __init__(
        self,
        *,
        summary: Summary,
        readings: Mapping[str, Reading],
        sampler: Passes,
        x: Inputs,
        row_ids: Indices,
        seeds: Sequence[int] | None = None,
    ) -> None:
        """`row_ids` are the rows' positions in the random streams; `seeds` has one for each row.

        Without it they are the sampler's.
        """
        self._summary = summary
        self._readings = readings
        self._sampler = sampler
        self._x = x
        self._ids = row_ids
        self._seeds = seeds
        self._passes = summary.spec.num_samples or 1
        own = sum(sampler.size_of(name) for name in sampler.stochastic)
        self._width = own * sampler.members or 1
        self._kept = kept_passes(readings, self._passes * sampler.members)
        self._is_joint = any(reading.kept.covariance for reading in readings.values())

    def whole(self) -> Tree:
        """Return the outputs of all passes, drawn for one part of the rows after the other."""
        size = self._rows_of_part
        if self._kept and not self._is_joint:
            size = max(1, min(size, _KEPT // (self._kept * self._width)))
        return _joined([self._whole_part(part) for part in self._parts(size)])

    def _whole_part(self, part: _Part) -> Tree:
        if self._sampler.stochastic:
            step = self._step(len(part.x))
            for first in range(0, self._passes, step):
                part.add(part.reduce(first, min(step, self._passes - first)))
        return self._outputs([part], self._passes)

    def estimates(
        self, late: Callable[[], bool], *, running: bool, flops_per_draw: float
    ) -> Iterator[Estimate]:
        """Return an estimate after 64, 128, 256, … passes of all rows, and the last one.

        Only the last one has outputs, unless `running` ones are asked for.
        """
        parts = list(self._parts(self._rows_of_part))
        step = self._step(min(len(self._x), self._rows_of_part))
        if late is not never:
            pieces = _PIECE_FLOPS / (BLOCK * flops_per_draw * len(self._x))
            step = BLOCK * max(1, min(step // BLOCK, int(pieces)))
        done, stopped_by = 0, None
        while stopped_by is None:
            goal = min(self._passes, max(BLOCK, 2 * done))
            done, is_late = self._draw(parts, done, goal, step, late)
            stopped_by = self._reason(parts, done, is_late)
            outputs = self._outputs(parts, done) if running or stopped_by else {}
            yield Estimate(num_samples=done, stopped_by=stopped_by, outputs=outputs)

    def _draw(
        self, parts: Sequence[_Part], done: int, goal: int, step: int, late: Callable[[], bool]
    ) -> tuple[int, bool]:
        """Draw passes until there are as many as the goal, or time is up, and say which."""
        if not self._sampler.stochastic:
            return goal, late()
        while done < goal:
            count = min(step, goal - done)
            drawn = []
            for part in parts:
                # Of a piece that comes late, no row is counted; the first one is drawn in any case.
                if done and late():
                    return done, True
                drawn.append(part.reduce(done, count))
            for part, pieces in zip(parts, drawn, strict=True):
                part.add(pieces)
            done += count
        return done, late()

    def _reason(self, parts: Sequence[_Part], done: int, is_late: bool) -> StoppedBy | None:
        drawn = done * self._sampler.members
        if all(self._summary.meets_tolerance(part.tallies[OWN], drawn) for part in parts):
            return "tolerance"
        if done == self._passes:
            return "num_samples"
        return "budget_ms" if is_late else None

    @property
    def _rows_of_part(self) -> int:
        if self._is_joint:
            return max(1, len(self._x))
        return max(1, _PIECE // (BLOCK * self._width))

    def _step(self, rows: int) -> int:
        """Return how many passes of so many rows to draw at once."""
        return BLOCK * max(1, _PIECE // (BLOCK * self._width * max(1, rows)))

    def _parts(self, size: int) -> Iterator[_Part]:
        if len(self._x) <= size:
            yield _Part(self._readings, self._sampler, self._x, self._ids, self._seeds)
            return
        for first in range(0, len(self._x), size):
            rows = slice(first, first + size)
            seeds = None if self._seeds is None else self._seeds[rows]
            yield _Part(self._readings, self._sampler, self._x[rows], self._ids[rows], seeds)

    def _outputs(self, parts: Sequence[_Part], passes: int) -> Tree:
        return _joined([self._outputs_of(part, passes) for part in parts])

    def _outputs_of(self, part: _Part, passes: int) -> Tree:
        tallies, summary = part.tallies, self._summary
        passes *= self._sampler.members
        answer = summary.of_passes(tallies[OWN], tallies.get(NOISE), part.x, passes, part.chances)
        for name, tally in tallies.items():
            if name not in (OWN, NOISE):
                answer[name] = summary.of_other(tally, passes)
        return answer


def kept_passes(readings: Mapping[str, Reading], passes: int) -> int:
    """Return how many passes are held at once, of what is held at all."""
    kept = [reading.kept for reading in readings.values()]
    if any(each.samples for each in kept):
        return passes
    return min(passes, EXACT_PASSES) if any(each.quantiles for each in kept) else 0


def _joined(pieces: Sequence[Tree]) -> Tree:
    """Concatenate the rows of pieces; `samples` have theirs on the second axis."""
    if len(pieces) == 1:
        return pieces[0]

    def join(key: str, values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: join(name, [value[name] for value in values]) for name in values[0]}
        if not isinstance(values[0], np.ndarray):
            return values[0]
        return np.concatenate(values, axis=1 if key == "samples" else 0)

    return {key: join(key, [piece[key] for piece in pieces]) for key in pieces[0]}
