"""Abstention: rows that a model had better not decide, by thresholds for what is said of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.errors import SpecError
from engine.spec import PredictSpec
from engine.tolerances import by_target

__all__ = ["Abstention", "abstention_of", "check_reach"]

Array = npt.NDArray[Any]

_OF_FORM = {
    "classifier": (
        "entropy",
        "expected_entropy",
        "mutual_information",
        "variation_ratio",
        "probability",
    ),
    "regressor": ("std", "predictive_std"),
    "autoencoder": ("std", "predictive_std", "reconstruction_error"),
}
_OF_ONE_PASS = ("entropy", "probability", "reconstruction_error")
_OF_TARGETS = ("std", "predictive_std")
_MADE_OF = {"probability": "probabilities", "predictive_std": "variance"}


@dataclass(frozen=True)
class Abstention:
    """Thresholds in original units, by statistic: one number, or one for each target."""

    thresholds: tuple[tuple[str, tuple[float, ...]], ...]

    @property
    def needs(self) -> tuple[str, ...]:
        """The statistics that the marks are made of."""
        return tuple(_MADE_OF.get(name, name) for name, _ in self.thresholds)

    def marks(self, found: Mapping[str, Any], model: Model) -> npt.NDArray[np.bool_]:
        """Say which rows lie beyond a threshold, (rows,); of sequences which steps, (rows, steps).

        `found` are the statistics that it `needs`, of all passes or of one.
        """
        shape = model.graph.last.shape
        lead = 2 if len(shape) == 2 else 1
        marked: Any = False
        for name, values in self.thresholds:
            statistic = _statistic(name, found)
            limit: Any = values[0]
            if name in _OF_TARGETS:
                limit = model.encoding.along_targets(values) if len(values) > 1 else values[0]
            beyond = statistic < limit if name == "probability" else statistic > limit
            # What overflows is not known to be within any threshold.
            beyond |= np.isnan(statistic) & np.isfinite(limit)
            beyond = beyond.reshape(*beyond.shape, *(1,) * (lead - beyond.ndim))
            marked = marked | beyond.any(axis=tuple(range(lead, beyond.ndim)))
        if lead == 2:
            marked = np.broadcast_to(marked, (len(marked), shape[0]))
        return np.asarray(marked)


def _statistic(name: str, found: Mapping[str, Any]) -> Array:
    if name == "probability":
        likeliest: Array = found["probabilities"].max(axis=-1)
        return likeliest
    if name == "predictive_std":
        return np.asarray(np.sqrt(found["variance"]["total"]))
    value: Array = found[name]
    return value


def abstention_of(model: Model, spec: PredictSpec) -> Abstention | None:
    """Resolve the thresholds of a request; None without any.

    Raises SpecError for a statistic that the model has not, or has not for what is asked.
    """
    if spec.abstain is None:
        return None
    form = model.graph.form
    thresholds = []
    for name, given in spec.abstain.thresholds().items():
        pointer = f"#/abstain/{name}"
        if name not in _OF_FORM[form]:
            raise SpecError(
                f"a {form} has no {name!r} to abstain by; it has {', '.join(_OF_FORM[form])}",
                pointer=pointer,
            )
        if spec.num_samples is None and name not in _OF_ONE_PASS:
            known = [other for other in _OF_FORM[form] if other in _OF_ONE_PASS]
            also = f", or abstain by {' or '.join(known)}" if known else ""
            raise SpecError(
                f"`{name}` is of several passes; give `num_samples`{also}", pointer=pointer
            )
        _check_there(name, model, spec, pointer)
        thresholds.append((name, by_target(model.encoding, given, pointer)))
    return Abstention(tuple(thresholds))


def _check_there(name: str, model: Model, spec: PredictSpec, pointer: str) -> None:
    no_noise = model.noise_variance is None and model.graph.noise_output is None
    if name == "predictive_std" and no_noise:
        raise SpecError(
            "the model has no noise precision (it was trained without validation rows, or "
            "imported), so that its passes' `std` is all that is known; abstain by `std`",
            pointer=pointer,
        )
    if name == "reconstruction_error" and spec.start is not None:
        raise SpecError(
            "a prediction that starts behind the inputs has none to reconstruct; abstain by `std`",
            pointer=pointer,
        )


def check_reach(model: Model, spec: PredictSpec) -> None:
    """Refuse thresholds that no row can ever be beyond, and say which could be."""
    if spec.abstain is None:
        return
    passes = (spec.num_samples or 1) * max(1, len(model.members))
    classes = len(model.encoding.classes or ())
    for name, given in spec.abstain.thresholds().items():
        pointer = f"#/abstain/{name}"
        if name in _OF_TARGETS and passes == 1:
            raise SpecError(
                f"one pass has no `{name}`; give `num_samples` of 2 or more", pointer=pointer
            )
        if name == "probability":
            if isinstance(given, float) and given <= 1 / classes:
                raise SpecError(
                    f"the most probable of {classes} classes has a probability of {1 / classes:.6g}"
                    f" at the least, so that none is below {given:g}; give more than that",
                    pointer=pointer,
                )
            continue
        most = _most(name, classes, passes) if classes else math.inf
        if isinstance(given, float) and given >= most:
            raise SpecError(
                f"of {classes} classes and {passes} pass{'' if passes == 1 else 'es'} `{name}` is "
                f"{most:.6g} at the most, so that none is above {given:g}; give less than that",
                pointer=pointer,
            )


def _most(name: str, classes: int, passes: int) -> float:
    """Return the largest value of a statistic of class probabilities."""
    if name == "mutual_information":
        return math.log(min(classes, passes))
    if name == "variation_ratio":
        return 1 - -(-passes // classes) / passes
    return math.log(classes)
