"""The calibration of the model that a training job leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from engine.artifact import load_model
from engine.calibrating import Calibrating, told
from engine.data.dataset import Data
from engine.plan import TrainingPlan
from engine.prediction import never
from engine.run import calibrating
from service.steps import NewModel, Step, attend

__all__ = ["ModelCalibration", "progress"]


class ModelCalibration:
    """What calibrates a job's model, once for the same parameters."""

    def __init__(self, data: Data, other: Data | None, *, threads: int) -> None:
        """`other` is the data set of the calibration rows, if that is not the job's."""
        self._data = data
        self._other = other
        self._threads = threads
        self._kept: dict[str, dict[str, Any]] = {}

    def steps(
        self, made: NewModel, plan: TrainingPlan, step: Callable[[int, int], Step]
    ) -> Iterator[Step]:
        """Calibrate a model by a thread, yielding what `step` says of the rows done and all."""
        run = self._run(made, plan)
        with ThreadPoolExecutor(max_workers=1) as thread:
            for piece in run.pieces():
                yield from attend(thread, piece, partial(step, run.done, run.total))
                yield step(run.done, run.total)
        self._keep(made, run)

    def of(self, made: NewModel, plan: TrainingPlan) -> NewModel:
        """Return a model with its calibration, which is made now if it has not been."""
        if plan.spec.calibrate is None:
            return made
        if _key(made) not in self._kept:
            run = self._run(made, plan)
            for piece in run.pieces():
                piece(never)
            self._keep(made, run)
        found = self._kept[_key(made)]
        metrics = {**made.document["metrics"], "calibration": found["metrics"]}
        calibrated = {"metrics": metrics, "calibration": found["document"]}
        return replace(made, document={**made.document, **calibrated})

    def _run(self, made: NewModel, plan: TrainingPlan) -> Calibrating:
        model = load_model(made.document, made.weights)
        return calibrating(plan, model, self._data, self._other, threads=self._threads)

    def _keep(self, made: NewModel, run: Calibrating) -> None:
        calibration = run.calibration()
        self._kept[_key(made)] = {
            "document": calibration.model_dump(mode="json"),
            "metrics": told(calibration),
        }


def _key(made: NewModel) -> str:
    return str(made.document["weights"]["sha256"])


def progress(done: int, total: int) -> dict[str, Any]:
    """Return the progress of a job that is calibrating."""
    return {
        "phase": "calibrating",
        "completed": done,
        "total": total,
        "unit": "rows",
        "rows_per_second": None,
        "eta_seconds": None,
    }
