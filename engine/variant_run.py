"""One variant's run within a search: trained up to a rung or to its end, and measured there."""

from __future__ import annotations

import json
from collections.abc import Iterator

from engine.epochs import EpochEnd
from engine.errors import DivergedError
from engine.kernels.descent import Descent, descend
from engine.optimizers import passes_per_step
from engine.run import Outcome, TrainingRun

__all__ = ["SLICE_FLOPS", "VariantRun"]

SLICE_FLOPS = 2e9
"""At most about a fifth of a second."""
_COPIES = 6 * 4  # parameters, gradient, the optimizer's two, the best, and those of a checkpoint
_STEP_FLOPS = 5e6  # what the overhead of one step is worth
_DENSE_STEP_FLOPS = 1e5  # that of the compiled kernels
_EPOCH_FLOPS = 3e6  # what the end of an epoch is worth, without its measuring


class VariantRun:
    """A run that moves on by slices of work."""

    def __init__(self, run: TrainingRun, *, keeps_epochs: bool = True) -> None:
        """`keeps_epochs` says whether the ends of its epochs are kept, in `history`."""
        self.run = run
        self._keeps_epochs = keeps_epochs
        self.ended = False
        """It has been measured at its rung or at its end, or has failed."""
        self.outcome: Outcome | None = None
        self.failure: str | None = None
        """Why it failed."""
        self.history = bytearray()
        """The ends of its epochs, each a line of JSON; there may be many, and of many runs."""
        self._pieces: Iterator[Descent | None] = iter(())
        self._measured = 0
        self._row_flops = self._flops_of_a_row()

    @property
    def threads(self) -> int:
        """How many threads it takes: all where rows are read by blocks, so that few are held."""
        return self.run.threads if self._reads_blocks else self.run.staged.threads

    @property
    def _reads_blocks(self) -> bool:
        return self.run.plan.loading.blocking is not None

    @property
    def is_dense(self) -> bool:
        """Whether its steps are left to others who may take them beside those of other runs."""
        return self.threads == 1 and self.run.staged.is_compiled and not self._reads_blocks

    @property
    def bytes(self) -> int:
        """About what it holds."""
        return _COPIES * self.run.plan.graph.parameter_count

    @property
    def epochs(self) -> int:
        """Epochs of the whole network that are done."""
        return self.run.staged.epochs

    @property
    def is_finished(self) -> bool:
        return self.run.is_finished

    def _flops_of_a_row(self) -> float:
        """Return what training on a row is worth, with its share of its step and of its epoch."""
        spec, flops_per_row = self.run.plan.spec, self.run.plan.graph.flops_per_row
        rows = self.run.rows.train.rows
        measured = 0 if self.run.rows.valid is None else self.run.rows.valid.rows
        step = _DENSE_STEP_FLOPS if self.is_dense else _STEP_FLOPS
        epoch = _EPOCH_FLOPS + measured * flops_per_row
        passes = passes_per_step(spec.optimizer)
        return passes * flops_per_row + step / min(spec.batch_size, rows) + epoch / rows

    def go_on(self, until: int | None) -> None:
        """Prepare to go on to the end of this epoch; None for the end."""
        self.ended = False
        self._pieces = self._trained_and_measured(until)

    def advance(self) -> None:
        """Do a slice of the work."""
        spent = 0.0
        while spent < SLICE_FLOPS and not self.ended:
            before = self.done
            steps = self.go()
            if steps is not None:
                descend(steps)
                self.go()
            spent += self.done - before

    def go(self) -> Descent | None:
        """Do a piece of the work; return steps that others have to take before this goes on."""
        try:
            return next(self._pieces)
        except StopIteration:
            self.ended = True
            return None
        except DivergedError as error:
            self.failure = error.detail
            self.ended = True
            return None

    @property
    def done(self) -> float:
        """What has been done, in floating-point operations; a part of measuring is a slice."""
        return self.run.staged.rows_done * self._row_flops + self._measured * SLICE_FLOPS

    def _trained_and_measured(self, until: int | None) -> Iterator[Descent | None]:
        if until is None or self.epochs < until:
            for piece in self.run.staged.pieces():
                if isinstance(piece, Descent):
                    yield piece
                    continue
                if isinstance(piece, EpochEnd) and self._keeps_epochs:
                    self.history += json.dumps(vars(piece)).encode() + b"\n"
                yield None
                if isinstance(piece, EpochEnd) and piece.epoch == until:
                    break
        for _ in self.run.evaluate():
            self._measured += 1
            yield None
        self.outcome = self.run.outcome()
