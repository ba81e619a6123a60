"""Assessments: a trained model measured on rows whose truths are known, piece after piece.

Passes are those of a prediction for the same rows of the same data set, to the bit. The pieces do
not depend on where the work was interrupted, so neither does what they come to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.assessed_rows import Rows
from engine.class_scores import ClassScores
from engine.data.dataset import Data
from engine.data.inputs import Inputs
from engine.errors import StoppedError
from engine.evaluation import by_target
from engine.figures import figure
from engine.predicted import Predicted, predicted
from engine.prediction import PredictionPlan
from engine.predictive import Predictive
from engine.ranking import Ranking
from engine.regression_scores import RegressionScores
from engine.spec import EvaluateSpec

__all__ = ["Assessment", "Piece"]

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows to measure, in their order."""

    count: int
    measure: Callable[[Callable[[], bool], int], Callable[[], None]]
    """Measure them, with so many threads, and return what adds them to the scores; where its first
    argument says so, StoppedError ends the work."""


class Assessment:
    """An evaluation request, resolved against its model and data sets."""

    def __init__(
        self,
        model: Model,
        spec: EvaluateSpec,
        *,
        seed: int,
        data: Data,
        other: Data | None = None,
    ) -> None:
        """`other` is the data set that `spec.ood` names, where it names one.

        Raises EngineError, with a pointer, for what cannot be evaluated so; see also `check`.
        """
        self._spec = spec
        self._own = Rows(model, spec, spec.rows, data, seed=seed)
        self._other: Rows | None = None
        if spec.ood is not None:
            assert other is not None
            self._other = Rows(
                model, spec, spec.ood.rows, other, seed=seed, base="#/ood", have_truths=False
            )
        self.plan: PredictionPlan = self._own.plan
        encoding = self.plan.model.encoding
        self._scores: RegressionScores | ClassScores
        if encoding.classes is not None:
            self._scores = ClassScores(encoding.classes)
        else:
            self._scores = RegressionScores(
                encoding.target_names,
                encoding.target_scale.reshape(-1),
                levels=spec.levels,
                level=spec.level,
            )
        self._apart: dict[str, Ranking] = {}
        self._means: dict[str, float] = {}

    @property
    def total(self) -> int:
        """How many rows are measured, those of the other data set included."""
        return len(self._own.ids) + (0 if self._other is None else len(self._other.ids))

    @property
    def flops(self) -> float:
        """About how many floating-point operations it takes."""
        return sum(part.flops for part in (self._own, self._other) if part is not None)

    def check(self) -> None:
        """Read all rows as they will be read; raise DataError for those that cannot be."""
        for part in (self._own, self._other):
            if part is not None:
                for _ in part.chunks():
                    pass

    def pieces(self, done: int = 0) -> Iterator[Piece]:
        """Yield what is to be measured after the first `done` rows, which end a piece."""
        start = 0
        for part in (self._own, self._other):
            if part is not None:
                for x, truth, ids in part.pieces(done - start):
                    yield self._piece(part, x, truth, ids)
                start += len(part.ids)

    def run(self, stop: Callable[[], bool], threads: int = 1) -> None:
        """Measure all rows."""
        for piece in self.pieces():
            if stop():
                raise StoppedError("the work was asked to stop")
            piece.measure(stop, threads)()

    def result(self) -> dict[str, Any]:
        """Return the scores by name, as JSON; what does not exist is null, and `warnings` say why.

        All rows have been measured.
        """
        scores, warnings = self._scores.result()
        answer: dict[str, Any] = {
            "form": self.plan.model.graph.form,
            "rows": len(self._own.ids),
            **scores,
            "ood": None,
        }
        for name in ("interval", "set"):
            if answer.get(name) is not None:
                answer[name] = self._promised() | answer[name]
        if self._other is not None:
            assert self._spec.ood is not None
            answer["ood"] = {
                "dataset": self._spec.ood.dataset,
                "rows": len(self._other.ids),
                "auroc": {name: figure(own.auroc()) for name, own in self._apart.items()},
                "mean": {
                    name: figure(total / len(self._other.ids))
                    for name, total in self._means.items()
                },
            }
        return answer | {"warnings": [*self.plan.warnings, *warnings]}

    def _promised(self) -> dict[str, Any]:
        """Say what coverage was asked for, and whether it holds for these passes."""
        calibration = self.plan.model.calibration
        assert calibration is not None
        return {"level": calibration.coverage, "calibrated": self.plan.summary.is_calibrated}

    def state(self) -> dict[str, Array]:
        """Return all that was measured, for `restore`."""
        state: dict[str, Array] = {f"own.{k}": v for k, v in self._scores.state().items()}
        for name, ranking in self._apart.items():
            state |= {f"apart.{name}.{key}": own for key, own in ranking.state().items()}
            state[f"means.{name}"] = np.array([self._means[name]])
        return state

    def restore(self, state: Mapping[str, Array]) -> None:
        """Go on from what another assessment of the same request had measured."""

        def below(prefix: str) -> dict[str, Array]:
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

        self._scores.restore(below("own."))
        self._means = {name: float(own[0]) for name, own in below("means.").items()}
        self._apart = {name: Ranking() for name in self._means}
        for name, ranking in self._apart.items():
            ranking.restore(below(f"apart.{name}."))

    # -- pieces ------------------------------------------------------------------------------------

    def _piece(self, part: Rows, x: Inputs, truth: Array | None, ids: Numbers) -> Piece:
        def measure(stop: Callable[[], bool], threads: int) -> Callable[[], None]:
            def pause() -> None:
                if stop():
                    raise StoppedError("the work was asked to stop")

            found = predicted(part.plan, x, ids, stop=stop, threads=threads)
            add = None if truth is None else self._scored(found, truth, pause)

            def keep() -> None:
                if add is not None:
                    add()
                if self._other is not None:
                    self._set_apart(found.of_rows, is_own=truth is not None)

            return keep

        return Piece(count=len(ids), measure=measure)

    def _scored(
        self, found: Predicted, truth: Array, pause: Callable[[], None]
    ) -> Callable[[], None]:
        """Score rows, and return what adds the scores."""
        scores = self._scores
        if isinstance(scores, ClassScores):
            classes = found.mean.shape[-1]
            return partial(
                scores.add,
                found.mean.reshape(-1, classes),
                truth.reshape(-1),
                {name: own.reshape(-1) for name, own in found.uncertainties.items()},
                None if found.sets is None else found.sets.reshape(-1),
            )
        measured = [
            scores.measure(target, own, pause=pause)
            for target, own in enumerate(self._by_target(found, truth))
        ]

        def add() -> None:
            for own in measured:
                scores.add(own)

        return add

    def _by_target(self, found: Predicted, truth: Array) -> Iterator[Predictive]:
        encoding = self.plan.model.encoding

        def cut(values: Array | None) -> list[Any]:
            """Return for each target (passes, numbers)."""
            if values is None:
                return [None] * len(encoding.target_names)
            return by_target(encoding, values)

        def single(values: Array | None) -> list[Any]:
            """Return for each target (numbers,)."""
            if values is None:
                return cut(None)
            return [own[0] for own in cut(values[None])]

        low, high = (None, None) if found.interval is None else found.interval
        for samples, mean, std, total, precision, true, *ends in zip(
            cut(found.samples),
            single(found.mean),
            single(found.uncertainties.get("std")),
            single(found.uncertainties.get("total")),
            cut(found.precision),
            single(truth),
            single(low),
            single(high),
            strict=True,
        ):
            yield Predictive(
                samples=samples,
                mean=mean,
                std=std,
                total=total,
                precision=precision,
                truth=true,
                interval=None if low is None else (ends[0], ends[1]),
            )

    def _set_apart(self, of_rows: Mapping[str, Array], *, is_own: bool) -> None:
        """Rank how unsure the model is of rows, its own and others."""
        for name, values in of_rows.items():
            self._apart.setdefault(name, Ranking()).add(values, 0.0 if is_own else 1.0)
            total = 0.0 if is_own else float(values.sum())
            self._means[name] = self._means.get(name, 0.0) + total
