"""Calibrating: a model's passes over rows of their own, and what these come to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.calibration import fit_noise_precision
from engine.calibration_checks import (
    OF_CLASSES,
    calibrated_passes,
    check_noise,
    check_rows,
    score_of,
    temperature_rows,
)
from engine.conformal import (
    Calibration,
    conformal_quantile,
    promised_coverage,
    scores_of,
)
from engine.conformal import by_target as told_by
from engine.conformal_sets import chances, class_scores, fit_temperature
from engine.cuts import rows_at_once, rows_of_piece
from engine.data.dataset import Data
from engine.data.division import validation_rows
from engine.data.inputs import Inputs
from engine.data.lengths import stored_steps
from engine.data.splits import random_order
from engine.ensembles import plan_model
from engine.errors import DataError
from engine.evaluation import by_target
from engine.prediction import PredictionPlan
from engine.spec import ScoreSpec, Statistic
from engine.streams import stream_key

__all__ = ["Calibrating", "told"]

Rows = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

PENALTY, FREE_RANKS = 0.01, 5
"""Of RAPS, where the caller gives none."""

_LEAST_FITTED = 100
_MOST_FITTED = 8_000_000
"""Numbers by which a temperature or noise is fitted, at most; of more rows so many are drawn."""


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
        fits_noise: bool = False,
    ) -> None:
        """`rows` are row numbers, of windows their last ones; all of the data set by default.

        `seed` is that of the passes where `asked` gives none. With `fits_noise` the precision of
        the noise is fitted by the same rows, of which no interval depends. Raises EngineError for
        what cannot be calibrated so.
        """
        if fits_noise:
            check_noise(model.graph, "#/noise_precision")
        self._model = model.of_steps(stored_steps(model.encoding, data)).softened(1.0)
        self._asked = asked
        self._score = score_of(model.graph, asked)
        self._data = data
        rows = validation_rows(model.encoding, data) if rows is None else rows
        check_rows(model.graph, asked, len(rows), "#/rows")
        self._seed = seed if asked.seed is None else asked.seed
        # Streams of their own: not those of predictions that are asked for by the same seed.
        self._streams = stream_key(self._seed, "calibration") % 2**53
        order = random_order(len(rows), self._streams)
        count = temperature_rows(model.graph, asked, len(rows))
        self._all = rows
        # In the order of the draw, so that the first of them are any.
        self._for_temperature = order[:count]
        self._fitted_rows = 0
        self._for_scores = rows[np.sort(order[count:])]
        self._threads = threads
        self._fits_noise = fits_noise
        each = asked.num_samples * max(1, len(model.members)) * math.prod(model.graph.last.shape)
        most = max(_LEAST_FITTED, _MOST_FITTED // each)
        self._for_noise = rows[order[count:][:most]]
        self._drawn: list[tuple[Doubles, Doubles]] = []
        """Passes and truths that the noise is fitted by."""
        self._temperature: float | None = None
        self._scores: list[Doubles] = []
        self.total = len(rows)
        """How many rows there are."""
        self.done = 0
        """How many of them have been predicted."""

    def check(self) -> None:
        """Read the rows as they will be read; raise DataError for those that cannot be."""
        encoding = self._model.encoding
        encoding.check_inputs(self._data, self._all)
        encoding.encode_inputs(self._data, self._all[:1], unseen="zeros")
        encoding.encode_truth(self._data, self._all)

    def pieces(self) -> Iterator[Callable[[Callable[[], bool]], None]]:
        """Yield pieces of about half a second each, to be done in their order.

        Where its argument says so, StoppedError ends the work of one.
        """
        if len(self._for_temperature):
            yield from self._temperature_pieces()
            assert self._temperature is not None
            self._model = self._model.softened(self._temperature)
        plan = self._plan(*(("mean", "samples") if self._fits_noise else ()))
        for x, truth, ids in self._rows(plan, self._for_scores):
            yield partial(self._rank, plan, x, truth, ids)

    def _temperature_pieces(self) -> Iterator[Callable[[Callable[[], bool]], None]]:
        """Draw all passes of some rows, and fit the temperature by them."""
        width = math.prod(self._model.graph.last.shape)
        passes = min(self._asked.num_samples, max(1, _MOST_FITTED // (_LEAST_FITTED * width)))
        plan = self._plan("samples", passes=passes)
        most = max(_LEAST_FITTED, _MOST_FITTED // (passes * width))
        ids = self._all[np.sort(self._for_temperature[:most])]
        self._fitted_rows = len(ids)
        drawn: list[tuple[Any, Any]] = []

        def draw(x: Inputs, truth: Any, own: Rows, stop: Callable[[], bool]) -> None:
            outputs = plan.run(x, own, stop=stop, threads=self._threads)
            drawn.append((outputs["samples"], np.asarray(truth[:], dtype=np.int64)))
            self.done += len(own)

        def fit(_stop: Callable[[], bool]) -> None:
            samples = np.concatenate([one for one, _ in drawn], axis=1)
            self._temperature = fit_temperature(samples, np.concatenate([own for _, own in drawn]))

        for x, truth, own in self._rows(plan, ids):
            yield partial(draw, x, truth, own)
        self.done = len(self._for_temperature)
        yield fit

    def _plan(self, *needed: Statistic, passes: int | None = None) -> PredictionPlan:
        asked = calibrated_passes(self._asked, self._score, *needed)
        if passes is not None:
            asked = asked.model_copy(update={"num_samples": passes})
        return plan_model(self._model, asked, seed=self._streams, alone=False)

    def _rows(self, plan: PredictionPlan, rows: Rows) -> Iterator[tuple[Inputs, Any, Rows]]:
        """Read rows, cut into pieces."""
        encoding = self._model.encoding
        size = rows_of_piece(flops=plan.cost(1)[0], numbers=plan.answer_size(1))
        chunk = rows_at_once(encoding.input_shapes.values())
        for first in range(0, len(rows), chunk):
            ids = rows[first : first + chunk]
            x = encoding.encode_inputs(self._data, ids, unseen="zeros")
            truth = encoding.encode_truth(self._data, ids)
            for start in range(0, len(ids), size):
                part = slice(start, start + size)
                yield x[part], truth[part], ids[part]

    def _rank(
        self, plan: PredictionPlan, x: Inputs, truth: Any, ids: Rows, stop: Callable[[], bool]
    ) -> None:
        """Score some rows."""
        outputs = plan.run(x, ids, stop=stop, threads=self._threads)
        if self._score in OF_CLASSES:
            self._scores.append(self._of_classes(outputs["probabilities"], truth, ids))
        else:
            scale = self._model.encoding.target_scale
            mean, std = outputs["mean"], outputs.get("std")
            self._scores.append(scores_of(truth, mean, std, score=self._score, scale=scale))
            if self._fits_noise:
                chosen = np.isin(ids, self._for_noise)
                true = np.asarray(truth[:], dtype=np.float64)
                self._drawn.append((outputs["samples"][:, chosen], true[chosen]))
        self.done += len(ids)

    def noise_precision(self) -> list[dict[str, float]]:
        """Return the precision of each member's noise by target, in target units^-2.

        The most likely one under the mixture of the member's own passes; a network alone is its
        only member. Do the pieces first.
        """
        encoding, members = self._model.encoding, max(1, len(self._model.members))
        samples = np.concatenate([own for own, _ in self._drawn], axis=1)
        truths = by_target(encoding, np.concatenate([own for _, own in self._drawn])[None])
        return [
            {
                name: fit_noise_precision(own, true)
                for name, own, (true,) in zip(
                    encoding.target_names,
                    by_target(encoding, samples[member::members]),
                    truths,
                    strict=True,
                )
            }
            for member in range(members)
        ]

    def _of_classes(self, probabilities: Any, truth: Any, ids: Rows) -> Doubles:
        steps = math.prod(probabilities.shape[1:-1])
        scores = class_scores(
            probabilities,
            chances(self._streams, ids, steps).reshape(probabilities.shape[:-1]),
            score=self._score,
            penalty=self._penalty,
            free_ranks=self._free_ranks,
        )
        numbers = np.asarray(truth, dtype=np.int64)[..., None]
        own: Doubles = np.take_along_axis(scores, numbers, axis=-1)[..., 0]
        return own

    @property
    def _penalty(self) -> float:
        if self._score != "raps":
            return 0.0
        return PENALTY if self._asked.penalty is None else self._asked.penalty

    @property
    def _free_ranks(self) -> int:
        if self._score != "raps":
            return 0
        return FREE_RANKS if self._asked.free_ranks is None else self._asked.free_ranks

    def calibration(self) -> Calibration:
        """Return what all rows come to; do the pieces first."""
        quantile = conformal_quantile(np.concatenate(self._scores), self._asked.coverage)
        if not np.isfinite(quantile).all():
            raise DataError("predictions for the calibration rows are not finite")
        names = self._model.encoding.target_names
        is_of_sets = self._score in OF_CLASSES
        return Calibration(
            coverage=self._asked.coverage,
            score=self._score,
            rows=len(self._for_scores),
            quantiles={names[0]: quantile.tolist()} if is_of_sets else told_by(quantile, names),
            penalty=self._penalty,
            free_ranks=self._free_ranks,
            temperature=self._temperature,
            temperature_rows=self._fitted_rows,
            way=self._plan().way(),
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
        **({} if calibration.temperature is None else {"temperature": calibration.temperature}),
    }
