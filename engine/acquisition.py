"""Acquisition: what rows are ranked by where only few can be labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.batch_acquisition import MOST_PASSES
from engine.errors import SpecError
from engine.spec import PassesSpec, PredictSpec, RankSpec
from engine.statistics import entropy

__all__ = ["predict_spec", "scores"]

Doubles = npt.NDArray[np.float64]

_OF_FORM = {
    "classifier": (
        "entropy",
        "expected_entropy",
        "mutual_information",
        "variation_ratio",
        "batch_bald",
    ),
    "regressor": ("std", "predictive_std"),
    "autoencoder": ("std", "predictive_std", "reconstruction_error"),
}
_MADE_OF = {"batch_bald": "mutual_information", "predictive_std": "variance"}
_OF_SEVERAL = (
    "mutual_information",
    "variation_ratio",
    "batch_bald",
    "std",
    "predictive_std",
)
"""Scores that are null, or always 0, of one pass."""


def predict_spec(model: Model, spec: RankSpec) -> PredictSpec:
    """Return what is predicted for each row; raise SpecError for a score that the model has not."""
    form = model.graph.form
    if spec.by not in _OF_FORM[form]:
        raise SpecError(
            f"the rows of a {form} are not ranked by {spec.by!r}, but by one of "
            f"{', '.join(_OF_FORM[form])}",
            pointer="#/by",
        )
    _check_passes(model, spec)
    no_noise = model.noise_variance is None and model.graph.noise_output is None
    if spec.by == "predictive_std" and no_noise:
        raise SpecError(
            "the model has no noise precision (it was trained without validation rows, or "
            "imported); rank by `std`, that of its passes",
            pointer="#/by",
        )
    if spec.by == "batch_bald":
        _check_joint(model, spec)
    given = {name: getattr(spec, name) for name in PassesSpec.model_fields}
    given["masks"] = "shared" if spec.by == "batch_bald" else spec.masks or "independent"
    if spec.num_samples is not None:
        given["statistics"] = (_MADE_OF.get(spec.by, spec.by),)
    return PredictSpec.model_construct(**given)


def _check_passes(model: Model, spec: RankSpec) -> None:
    passes = (spec.num_samples or 1) * max(1, len(model.members))
    if spec.num_samples is None and spec.by != "entropy":
        advice = ", or rank by `entropy`" if model.graph.form == "classifier" else ""
        raise SpecError(
            f"`{spec.by}` is of several passes; give `num_samples`{advice}", pointer="#/num_samples"
        )
    if spec.by in _OF_SEVERAL and passes < 2:
        raise SpecError(
            f"one pass ranks no rows by `{spec.by}`; give `num_samples` of 2 or more",
            pointer="#/num_samples",
        )


def _check_joint(model: Model, spec: RankSpec) -> None:
    members = max(1, len(model.members))
    if (spec.num_samples or 1) * members > MOST_PASSES:
        raise SpecError(
            f"`batch_bald` tells at most {MOST_PASSES // members} passes apart"
            f"{f' of each of {members} members' if members > 1 else ''}, got {spec.num_samples}",
            pointer="#/num_samples",
        )
    if spec.masks == "independent":
        raise SpecError(
            "`batch_bald` is of labels that each pass gives to all rows together, and rows whose "
            "masks are independent have none; leave `masks` out, or ask for 'shared'",
            pointer="#/masks",
        )
    if len(model.graph.last.shape) > 1:
        raise SpecError(
            "the model names a class for every step of a sequence, and `batch_bald` is of one "
            "label a row; rank by `mutual_information`",
            pointer="#/by",
        )


def scores(spec: RankSpec, outputs: Mapping[str, Any], model: Model) -> Doubles:
    """Return one score for each row, the larger the less sure, of an answer's `outputs`.

    Of several targets the root mean square of their deviations, each divided by the target's scale
    in training; of sequences the mean (root mean square) over their steps.
    """
    if spec.by in ("std", "predictive_std"):
        total = spec.by == "predictive_std"
        variance = outputs["variance"]["total"] if total else np.square(outputs["std"])
        if len(model.encoding.target_names) > 1:
            variance = variance / np.square(model.encoding.target_scale)
        return np.asarray(np.sqrt(_over_rows(variance)))
    name = _MADE_OF.get(spec.by, spec.by)
    if name in outputs:
        return _over_rows(outputs[name])
    return _over_rows(entropy(outputs["probabilities"]))


def _over_rows(values: Doubles) -> Doubles:
    mean: Doubles = values.reshape(len(values), -1).mean(axis=1)
    return mean
