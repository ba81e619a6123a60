"""Feedback: what was observed of rows, and how good the model's own predictions of them were.

Own ones are those that it is kept to make: by the way that it was calibrated with or, without a
calibration, by what dropped and added noise in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engine.artifact import Model, trained_perturbations
from engine.calibration import mixture_log_likelihood
from engine.conformal import Way
from engine.cuts import rows_of_piece
from engine.data.dataset import Data
from engine.data.division import validation_rows
from engine.data.lengths import given_steps, stored_steps
from engine.data.truths import read_truths
from engine.ensembles import plan_model
from engine.errors import DataError, SpecError, StoppedError
from engine.losses import PROBABILITY_FLOOR
from engine.predicted import Predicted, passes_of, predicted, spec_of
from engine.prediction import PredictionPlan
from engine.regularizers import is_stochastic
from engine.spec import FeedbackSpec, PassesSpec
from engine.track_record import Promise, TrackRecord

__all__ = ["NUM_SAMPLES", "Feedback", "new_record"]

Array = npt.NDArray[Any]
Numbers = npt.NDArray[np.int64]
Scores = dict[str, npt.NDArray[np.float64]]
T = TypeVar("T")

NUM_SAMPLES = 100
"""Of a model that is not calibrated, where nobody says how many."""
MOST_TARGETS = 1000


def new_record(model: Model) -> TrackRecord:
    """Return the record of a model of which nothing is known yet."""
    encoding, calibration = model.encoding, model.calibration
    shape = encoding.output_shape
    is_of_classes = encoding.classes is not None
    promise = None
    if calibration is not None:
        promise = Promise(
            level=calibration.coverage, rows=calibration.rows, is_of_rows=len(shape) == 1
        )
    return TrackRecord(targets=encoding.target_names, is_of_classes=is_of_classes, promise=promise)


class Feedback:
    """Rows with what was observed of them, resolved against their model."""

    def __init__(
        self,
        model: Model,
        spec: FeedbackSpec,
        *,
        inputs: Any,
        data: Data | None = None,
        rows: Numbers | None = None,
        seed: int,
    ) -> None:
        """`inputs` are a request's; where they name a data set, it is `data`, and `rows` are of it.

        By default these are all that have targets. `seed` is that of the passes. Raises
        EngineError, with a pointer, for what cannot be compared.
        """
        _check_model(model)
        encoding = model.encoding
        steps = given_steps(encoding, inputs) if data is None else stored_steps(encoding, data)
        own = model.of_steps(steps)
        self.plan = _plan(own, spec, seed)
        self._numbers = passes_of(self.plan) * own.graph.size_of(own.graph.last.out)
        if data is None:
            self._x = own.encoding.encode_records(inputs)
            ids: Numbers = np.arange(len(self._x), dtype=np.int64)
        else:
            have_truths = spec.targets is None
            ids = _all_rows(own, data, have_truths) if rows is None else rows
            self._x = _located(lambda: own.encoding.encode_inputs(data, ids))
        self._ids = ids
        if spec.targets is not None:
            self._truth: Any = read_truths(own.encoding, spec.targets, rows=len(self._x))
        elif data is None:
            raise SpecError(
                "say what was observed of these rows: `targets`, as the model predicts them",
                pointer="#/targets",
            )
        else:
            self._truth = _located(lambda: own.encoding.encode_truth(data, ids)[:])

    @property
    def rows(self) -> int:
        return len(self._ids)

    @property
    def held(self) -> int:
        """Bytes of the rows."""
        return sum(getattr(values, "nbytes", 0) for values in self._x.values.values())

    @property
    def flops(self) -> float:
        """About how many floating-point operations it takes."""
        return self.plan.cost(self.rows)[0] + 100.0 * self._numbers * self.rows

    def scores(self, stop: Callable[[], bool], threads: int = 1) -> Scores:
        """Predict the rows, and return by name what a track record adds up, (rows, targets)."""
        size = rows_of_piece(flops=self.plan.cost(1)[0], numbers=self._numbers)
        found: list[Scores] = []
        for start in range(0, self.rows, size):
            if stop():
                raise StoppedError("the work was asked to stop")
            part = slice(start, start + size)
            own = predicted(self.plan, self._x[part], self._ids[part], stop=stop, threads=threads)
            found.append(self._scored(own, self._truth[part]))
        return {name: np.concatenate([own[name] for own in found]) for name in found[0]}

    @np.errstate(all="ignore")  # rows whose scores are not finite do not count
    def _scored(self, found: Predicted, truth: Array) -> Scores:
        if self.plan.model.encoding.classes is not None:
            return self._of_classes(found, truth)
        assert found.samples is not None
        errors = found.mean - truth
        scores = {"squares": errors**2, "absolute": np.abs(errors)}
        if found.precision is not None:
            scores["logs"] = mixture_log_likelihood(found.samples, truth, found.precision)
        if found.interval is not None:
            low, high = found.interval
            covered = (low <= truth) & (truth <= high)
            scores["covered"] = np.where(np.isnan(high - low), np.nan, covered)
            scores["size"] = high - low
        return {name: _by_target(values) for name, values in scores.items()}

    def _of_classes(self, found: Predicted, truth: Array) -> Scores:
        probabilities = found.mean
        own = np.take_along_axis(probabilities, truth[..., None], axis=-1)[..., 0]
        scores = {
            "right": (probabilities.argmax(axis=-1) == truth).astype(np.float64),
            "logs": np.log(np.maximum(own, PROBABILITY_FLOOR)),
            "brier": (probabilities**2).sum(axis=-1) - 2 * own + 1,
        }
        if found.sets is not None:
            labels = self.plan.model.encoding.classes or ()
            covered = [
                labels[number] in one
                for number, one in zip(truth.ravel(), found.sets.ravel(), strict=True)
            ]
            scores["covered"] = np.array(covered, dtype=np.float64).reshape(truth.shape)
            sizes = [len(one) for one in found.sets.ravel()]
            scores["size"] = np.array(sizes, dtype=np.float64).reshape(truth.shape)
        return {
            name: values.reshape(len(values), -1).mean(axis=1, keepdims=True)
            for name, values in scores.items()
        }


def _by_target(values: Array) -> npt.NDArray[np.float64]:
    """Return the means over steps or pixels, (rows, *shape) -> (rows, targets)."""
    apart = np.moveaxis(values, 1, -1) if values.ndim == 4 else values
    return np.asarray(apart.reshape(len(values), -1, apart.shape[-1]).mean(axis=1))


# -- what is compared ------------------------------------------------------------------------------


def _check_model(model: Model) -> None:
    if model.graph.form == "autoencoder":
        raise SpecError(
            "an autoencoder has no targets: what it predicts is what it reads; POST /evaluate "
            "measures it on other rows"
        )
    if len(model.encoding.target_names) > MOST_TARGETS:
        raise SpecError(
            f"the model has {len(model.encoding.target_names)} targets, and records are kept of at "
            f"most {MOST_TARGETS}; POST /evaluations measures it on other rows"
        )


def _plan(model: Model, spec: FeedbackSpec, seed: int) -> PredictionPlan:
    """Return the plan of the passes that the model is kept to predict by."""
    calibration = model.calibration
    if calibration is None:
        return _planned(model, _trained_passes(model, spec), seed)
    way = calibration.way
    if spec.num_samples not in (None, way.num_samples):
        raise SpecError(
            f"the model is calibrated for {way.num_samples} passes, and feedback is of these; "
            "leave `num_samples` out",
            pointer="#/num_samples",
        )
    # In most cases the rates are those of training, which of an ensemble are each member's own.
    plain = PassesSpec(num_samples=way.num_samples, masks=way.masks)
    if _is_random(model):
        plan = _planned(model, plain, seed)
        if plan.summary.is_calibrated:
            return plan
    plan = _planned(model, _asked_again(way), seed)
    if not plan.summary.is_calibrated:
        raise SpecError(
            "the model was calibrated for a way of predicting that no request can ask for; "
            "calibrate it anew"
        )
    return plan


def _planned(model: Model, passes: PassesSpec, seed: int) -> PredictionPlan:
    graph = model.graph
    is_calibrated = model.calibration is not None
    spec = spec_of(passes, form=graph.form, noise=graph.noise_output, is_calibrated=is_calibrated)
    try:
        return plan_model(model, spec, seed=seed)
    except SpecError as error:
        if error.pointer.startswith("#/statistics"):  # sequences of another length
            error.pointer = "#/inputs"
        raise


def _trained_passes(model: Model, spec: FeedbackSpec) -> PassesSpec:
    """Return the passes of training; of a network without dropout and noise there is one."""
    if spec.num_samples is not None:
        return PassesSpec(num_samples=spec.num_samples)
    return PassesSpec(num_samples=NUM_SAMPLES if _is_random(model) else None)


def _is_random(model: Model) -> bool:
    members = model.members or (model,)
    return any(is_stochastic(trained_perturbations(own)) for own in members)


def _asked_again(way: Way) -> PassesSpec:
    """Return the request for a way of predicting, by the patterns that it was asked for."""
    acting = way.acting[0]
    given: list[dict[str, Any]] = []
    for mask in acting.dropout:
        more = {"weight": mask.rate, "steps": mask.steps, "spatial": mask.spatial}
        given += _each("bernoulli_dropout", mask.pattern, mask.matched, more)
    for mask in acting.drop_connect:
        given += _each("drop_connect", mask.pattern, mask.matched, {"weight": mask.rate})
    for noise in acting.noise:
        given += _each("gaussian_noise", noise.pattern, noise.matched, {"weight": noise.std})
    asked: dict[str, Any] = {"regularizers": given} if given else {"input_dropout": 0.0}
    return PassesSpec.model_validate({"num_samples": way.num_samples, "masks": way.masks, **asked})


def _each(
    form: str, pattern: str | None, matched: Sequence[str], more: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return a regularizer of that pattern or, where there is no such, one of each output."""
    patterns = matched if pattern is None else (pattern,)
    return [{"form": form, "pattern": own, **more} for own in patterns]


def _all_rows(model: Model, data: Data, have_truths: bool) -> Numbers:
    """Return all rows that can be predicted, or those of them that have truths in the data set."""
    encoding = model.encoding
    if have_truths:
        return _located(lambda: validation_rows(encoding, data))
    return _located(lambda: encoding.stored_rows(data))


def _located(read: Callable[[], T]) -> T:
    """Have errors in a data set point at it, or at the row that is asked for."""
    try:
        return read()
    except DataError as error:
        if not error.pointer.startswith("#/inputs/rows/"):
            error.pointer = "#/inputs/dataset"
        raise
