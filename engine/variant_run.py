"""One variant's run within a search: trained up to a rung or to its end, and measured there."""

from __future__ import annotations

from collections.abc import Iterator

from engine.epochs import EpochEnd
from engine.errors import DivergedError
from engine.optimizers import passes_per_step
from engine.run import Outcome, TrainingRun

__all__ = ["VariantRun"]

_SLICE_FLOPS = 2e9  # at most about a fifth of a second
_STEP_FLOPS = 5e6  # what the overhead of one step is worth


class VariantRun:
    """A run that moves on by slices of work."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.ended = False
        """It has been measured at its rung or at its end, or has failed."""
        self.outcome: Outcome | None = None
        self.failure: str | None = None
        """Why it failed."""
        self._steps: Iterator[None] = iter(())
        spec = run.plan.spec
        passes = passes_per_step(spec.optimizer)
        self._row_flops = passes * run.plan.graph.flops_per_row + _STEP_FLOPS / spec.batch_size

    @property
    def threads(self) -> int:
        """How many threads it takes."""
        return self.run.staged.threads

    @property
    def epochs(self) -> int:
        """Epochs of the whole network that are done."""
        return self.run.staged.epochs

    @property
    def is_finished(self) -> bool:
        return self.run.is_finished

    def go_on(self, until: int | None) -> None:
        """Prepare to go on to the end of this epoch; None for the end."""
        self.ended = False
        self._steps = self._trained_and_measured(until)

    def advance(self) -> None:
        """Do a slice of the work."""
        spent = 0.0
        staged = self.run.staged
        while spent < _SLICE_FLOPS:
            before = staged.rows_done
            try:
                next(self._steps)
            except StopIteration:
                self.ended = True
                return
            except DivergedError as error:
                self.failure = error.detail
                self.ended = True
                return
            # A part of the measuring counts as a whole slice.
            spent += (staged.rows_done - before) * self._row_flops or _SLICE_FLOPS

    def _trained_and_measured(self, until: int | None) -> Iterator[None]:
        if until is None or self.epochs < until:
            for event in self.run.staged:
                yield
                if isinstance(event, EpochEnd) and event.epoch == until:
                    break
        for _ in self.run.evaluate():
            yield
        self.outcome = self.run.outcome()
