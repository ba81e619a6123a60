"""Rows of a stored data set that a model is measured on, read and encoded in bounded pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.cuts import rows_at_once, rows_of_piece
from engine.data.dataset import Data
from engine.data.division import validation_rows
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.data.lengths import stored_steps
from engine.ensembles import plan_model
from engine.errors import DataError, SpecError
from engine.predicted import passes_of, spec_of
from engine.prediction import PredictionPlan
from engine.spec import PassesSpec
from engine.tallies import exact_passes

__all__ = ["Rows"]

Numbers = npt.NDArray[np.int64]

_SCORING_FLOPS = 3e4
"""What the scores of one pass of one number take: some 6 microseconds on one core."""
_CLASS_FLOPS = 100.0


class Rows:
    """Rows of one data set, and the plan that predicts for them."""

    def __init__(
        self,
        model: Model,
        passes: PassesSpec,
        rows: Sequence[int] | None,
        data: Data,
        *,
        seed: int,
        base: str = "#",
        have_truths: bool = True,
    ) -> None:
        """`rows` are all that can be measured where they are None; errors point below `base`.

        Raises EngineError for what cannot be predicted, and what cannot be read so far.
        """
        self._data = data
        self._base = base
        self._have_truths = have_truths
        encoding = model.encoding
        with _Located(base):
            own = model.of_steps(stored_steps(encoding, data))
        # Sequences of another length than those of the calibration have no interval.
        is_calibrated = (
            have_truths
            and model.calibration is not None
            and own.graph.last.shape == model.graph.last.shape
        )
        spec = spec_of(
            passes,
            form=model.graph.form,
            noise=model.graph.noise_output,
            is_calibrated=is_calibrated,
        )
        self.plan: PredictionPlan = plan_model(own, spec, seed=seed)
        self._encoding: Encoding = own.encoding
        self._check_passes()
        if rows is None:
            with _Located(base):
                named = (
                    validation_rows(encoding, data) if have_truths else encoding.stored_rows(data)
                )
            self.ids: Numbers = named
        else:
            self.ids = _checked(rows, data.rows, f"{base}/rows")

    @property
    def flops(self) -> float:
        """About how many floating-point operations predicting and scoring take."""
        flops, _ = self.plan.cost(len(self.ids))
        each = _CLASS_FLOPS if self._encoding.classes is not None else _SCORING_FLOPS
        return flops + each * self._numbers * len(self.ids)

    @property
    def _numbers(self) -> int:
        """How many numbers the passes of a row are."""
        return passes_of(self.plan) * math.prod(self._encoding.output_shape)

    def pieces(self, done: int = 0) -> Iterator[tuple[Inputs, Any, Numbers]]:
        """Yield inputs, truths and numbers of the rows after the first `done`, piece by piece.

        Pieces begin where they would with none done.
        """
        flops, _ = self.plan.cost(1)
        size = rows_of_piece(flops=flops, numbers=self._numbers)
        for first, x, truth in self.chunks(done):
            for start in range(0, len(x), size):
                if first + start >= done:
                    some = slice(start, min(start + size, len(x)))
                    own = None if truth is None else truth[some]
                    yield x[some], own, self.ids[first + some.start : first + some.stop]

    def chunks(self, done: int = 0) -> Iterator[tuple[int, Inputs, Any]]:
        """Yield rows that are read at once: the first one's place, inputs, truths.

        Chunks all of whose rows are done are passed over.
        """
        shapes = (*self._encoding.input_shapes.values(), self._encoding.output_shape)
        size = rows_at_once(shapes)
        for first in range(0, len(self.ids), size):
            if first + size > done:
                ids = self.ids[first : first + size]
                truth = None
                with _Located(self._base, first):
                    x = self._encoding.encode_inputs(self._data, ids)
                    if self._have_truths:
                        truth = self._encoding.encode_truth(self._data, ids)
                yield first, x, truth

    def _check_passes(self) -> None:
        """Refuse more passes than are held at once, where all of a row's are scored together."""
        if self._encoding.classes is not None:
            return
        members = max(1, len(self.plan.model.members))
        most = exact_passes(members * math.prod(self._encoding.output_shape))
        if self.plan.passes > most:
            raise SpecError(
                f"scores are of all passes of a row at once, and this model's are at most {most} "
                f"(its outputs have {math.prod(self._encoding.output_shape)} numbers a row); got "
                f"{self.plan.passes}",
                pointer="#/num_samples",
            )


class _Located:
    """Has errors in the data point into the request, and say what an evaluation needs."""

    def __init__(self, base: str, first: int = 0) -> None:
        self._base = base
        self._first = first

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, DataError):
            return
        head, _, row = error.pointer.partition("#/inputs/rows/")
        pointer = f"{self._base}/dataset"
        if not head and row.isdecimal():
            pointer = f"{self._base}/rows/{self._first + int(row)}"
        detail = error.detail
        if error.pointer == "#/targets":
            detail += (
                "; an evaluation compares with the targets of all its rows: give a data set that "
                "has them, or those of its `rows` that do"
            )
        raise DataError(detail, pointer=pointer) from error


def _checked(rows: Sequence[int], count: int, pointer: str) -> Numbers:
    numbers = np.asarray(rows, dtype=np.int64)
    beyond = numbers >= count
    if beyond.any():
        at = int(np.argmax(beyond))
        raise DataError(
            f"a row number is an integer from 0 to {count - 1}, got {int(numbers[at])}",
            pointer=f"{pointer}/{at}",
        )
    return numbers
