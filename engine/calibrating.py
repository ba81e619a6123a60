"""Calibrating: a model's passes over rows of their own, and what these come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.conformal import (
    Calibration,
    by_target,
    check_rows,
    conformal_quantile,
    promised_coverage,
    scores_of,
)
from engine.data.dataset import Data
from engine.data.division import validation_rows
from engine.data.inputs import Inputs
from engine.data.lengths import stored_steps
from engine.ensembles import plan_model
from engine.errors import DataError, EngineError, SpecError
from engine.graph import Graph
from engine.prediction_checks import acting_regularizers
from engine.regularizers import Regularizer, is_stochastic
from engine.spec import PredictSpec, RegularizationSpec, ScoreSpec, Statistic
from engine.streams import stream_key

__all__ = ["Calibrating", "check_scores", "told"]

Rows = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_PIECE_FLOPS = 1e10
_PIECE_NUMBERS = 2**20
_CHUNK_ROWS = 2**16
_CHUNK_NUMBERS = 2**22


def check_scores(
    graph: Graph, trained: tuple[Regularizer, ...], asked: ScoreSpec, pointer: str
) -> None:
    """Refuse a way of predicting, or a score, that the network has not.

    `trained` is what drops and adds noise in training; `pointer` where `asked` stands.
    """
    if graph.form == "classifier":
        raise SpecError(
            "intervals are of regressors and autoencoders; a classifier has none to calibrate",
            pointer=pointer,
        )
    try:
        acting = acting_regularizers(graph, trained, _passes(asked), alone=False)
    except EngineError as error:
        error.pointer = pointer + error.pointer.removeprefix("#")
        raise
    if asked.score != "normalised":
        return
    if asked.num_samples == 1 or not is_stochastic(acting):
        what = "one pass has" if asked.num_samples == 1 else "passes that are all the same have"
        raise SpecError(
            f"`normalised` scores divide by the `std` over the passes, and {what} none; take "
            "'absolute', or give rates and `num_samples`",
            pointer=f"{pointer}/score",
        )


def _passes(asked: ScoreSpec) -> PredictSpec:
    """Return the passes that are to be calibrated, as a prediction asks for them."""
    acting = {name: getattr(asked, name) for name in RegularizationSpec.model_fields}
    needed: tuple[Statistic, ...] = ("mean", "std") if asked.score == "normalised" else ("mean",)
    return PredictSpec.model_construct(
        **acting, num_samples=asked.num_samples, masks=asked.masks, statistics=needed
    )


class Calibrating:
    """One calibration of one model, a piece after the other; `calibration` at the end."""

    def __init__(
        self,
        model: Model,
        asked: ScoreSpec,
        data: Data,
        rows: Rows | None,
        *,
        seed: int,
        threads: int = 1,
    ) -> None:
        """`rows` are row numbers, of windows their last ones; all of the data set by default.

        `seed` is that of the passes where `asked` gives none. Raises EngineError for what cannot
        be calibrated so.
        """
        self._model = model.of_steps(stored_steps(model.encoding, data))
        self._asked = asked
        self._data = data
        self._rows = validation_rows(model.encoding, data) if rows is None else rows
        check_rows(len(self._rows), asked.coverage, "#/rows")
        self._seed = seed if asked.seed is None else asked.seed
        # Streams of their own: not those of predictions that are asked for by the same seed.
        streams = stream_key(self._seed, "calibration") % 2**53
        self._plan = plan_model(self._model, _passes(asked), seed=streams, alone=False)
        self._threads = threads
        self._scores: list[Doubles] = []
        self._done = 0

    @property
    def total(self) -> int:
        """How many rows there are."""
        return len(self._rows)

    @property
    def done(self) -> int:
        """How many of them are scored."""
        return self._done

    def pieces(self) -> Iterator[Callable[[Callable[[], bool]], None]]:
        """Yield pieces of about half a second each, to be done in their order.

        Where its argument says so, StoppedError ends the work of one.
        """
        size = self._piece_rows()
        width = sum(math.prod(shape) for shape in self._model.encoding.input_shapes.values())
        chunk = max(1, min(_CHUNK_ROWS, _CHUNK_NUMBERS // max(1, width)))
        for first in range(0, self.total, chunk):
            ids = self._rows[first : first + chunk]
            encoding = self._model.encoding
            x = encoding.encode_inputs(self._data, ids, unseen="zeros")
            truth = encoding.encode_truth(self._data, ids)
            for start in range(0, len(ids), size):
                part = slice(start, start + size)
                yield partial(self._score, x[part], truth[part], ids[part])

    def _score(self, x: Inputs, truth: Any, ids: Rows, stop: Callable[[], bool]) -> None:
        outputs = self._plan.run(x, ids, stop=stop, threads=self._threads)
        scores = scores_of(
            truth,
            outputs["mean"],
            outputs.get("std"),
            score=self._asked.score,
            scale=self._model.encoding.target_scale,
        )
        self._scores.append(scores)
        self._done += len(ids)

    def _piece_rows(self) -> int:
        flops, _ = self._plan.cost(1)
        fitting = min(
            _PIECE_FLOPS / max(1.0, flops), _PIECE_NUMBERS / max(1, self._plan.answer_size(1))
        )
        return int(max(1, min(_CHUNK_ROWS, fitting)))

    def calibration(self) -> Calibration:
        """Return what all rows come to; do the pieces first."""
        quantile = conformal_quantile(np.concatenate(self._scores), self._asked.coverage)
        if not np.isfinite(quantile).all():
            raise DataError("predictions for the calibration rows are not finite")
        return Calibration(
            coverage=self._asked.coverage,
            score=self._asked.score,
            rows=self.total,
            quantiles=by_target(quantile, self._model.encoding.target_names),
            way=self._plan.way(),
            seed=self._seed,
        )


def told(calibration: Calibration) -> dict[str, Any]:
    """Return what a job's metrics say of its calibration."""
    return {
        "rows": calibration.rows,
        "coverage": calibration.coverage,
        "promised": promised_coverage(calibration.rows, calibration.coverage),
        "score": calibration.score,
        "quantiles": calibration.quantiles,
    }
