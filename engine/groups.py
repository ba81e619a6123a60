"""Groups: variants whose steps are taken side by side, on all threads, by one call at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

from engine.kernels.descent import Descent, Descents
from engine.variant_run import SLICE_FLOPS, VariantRun

__all__ = ["Group", "grouped"]

_MOST_RUNS = 64
_MOST_BYTES = 256 << 20


class Group:
    """Runs of small dense networks, of which new ones take the places of those that have ended.

    Two threads that each train a small network spend their time waiting for the interpreter's
    lock; one that prepares the blocks of many, and has them computed together, does not wait.
    """

    def __init__(self, first: VariantRun, others: Iterator[VariantRun], *, threads: int) -> None:
        """Of `others` as many are taken as fit, up to one that is not dense: `refused`."""
        self.threads = threads
        self.ended = False
        self.refused: VariantRun | None = None
        self._going = [first]
        self._others = others

    def advance(self) -> None:
        """Do a slice of the work, or until some have ended; all are then at rest.

        While the steps of one half are taken, those of the other are prepared.
        """
        self._take_in()
        until = self._done() + SLICE_FLOPS
        halves = cycle((self._going[::2], self._going[1::2]))
        begun: list[VariantRun] = []
        steps = Descents((), self.threads)
        try:
            while (goes_on := self._goes_on(until)) or begun:
                following = _prepared(next(halves)) if goes_on else {}
                steps.wait()
                steps = Descents(list(following.values()), self.threads)
                for run in begun:
                    run.go()
                begun = list(following)
        finally:
            steps.wait()
        self._going = [run for run in self._going if not run.ended]
        self._take_in()
        self.ended = not self._going

    def _goes_on(self, until: float) -> bool:
        return self._done() < until and not any(run.ended for run in self._going)

    def _done(self) -> float:
        return sum(run.done for run in self._going)

    def _take_in(self) -> None:
        while (
            self.refused is None
            and len(self._going) < _MOST_RUNS
            and sum(run.bytes for run in self._going) < _MOST_BYTES
        ):
            run = next(self._others, None)
            if run is None:
                return
            if run.is_dense:
                self._going.append(run)
            else:
                self.refused = run


def _prepared(runs: Sequence[VariantRun]) -> dict[VariantRun, Descent]:
    return {run: steps for run in runs if (steps := run.go()) is not None}


def grouped(runs: Iterator[VariantRun], *, threads: int) -> Iterator[VariantRun | Group]:
    """Put runs of small dense networks that follow each other into groups."""
    for run in runs:
        if not run.is_dense:
            yield run
            continue
        group = Group(run, runs, threads=threads)
        yield group
        if group.refused is not None:
            yield group.refused
