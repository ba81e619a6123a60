"""What passes come to: the statistics of an answer, in original units and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.abstention import Abstention
from engine.artifact import Model
from engine.conformal import Calibration, half_width
from engine.conformal_sets import class_scores, softened
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.graph import Graph
from engine.quantiles import mixture_quantiles, quantile_key
from engine.spec import PredictSpec
from engine.statistics import entropy, portions, variation_ratio
from engine.tallies import Kept, Tally

__all__ = [
    "Summary",
    "Tree",
    "default_statistics",
    "noise_variance",
    "probabilities_of",
    "renormalised",
    "statistics_of",
]

Array = npt.NDArray[Any]
Chance = Callable[[int], npt.NDArray[np.float64]]
Samples = npt.NDArray[np.float32]
Tree = dict[str, Any]
"""Arrays by name, possibly nested; rows first, but for `samples`, where they come second. What is
the same for all rows is no array."""

_REGRESSION = ("mean", "std", "quantiles", "standard_error", "variance")
_CLASSIFICATION = (
    "label",
    "probabilities",
    "std",
    "entropy",
    "expected_entropy",
    "mutual_information",
    "variation_ratio",
)
_HIDDEN = ("mean", "std", "quantiles", "standard_error")
_OF_SPREAD = frozenset({"std", "standard_error", "variance", "covariance"})
_OF_LABELS = frozenset(
    {"label", "entropy", "expected_entropy", "mutual_information", "variation_ratio"}
)
_OF_ROWS = frozenset({"reconstruction_error"})
_ON_REQUEST = {
    "regressor": ("predictive_quantiles", "interval", "samples", "covariance"),
    "autoencoder": ("predictive_quantiles", "interval", "samples", "covariance"),
    "classifier": ("set", "samples", "covariance"),
}


def default_statistics(form: str) -> tuple[str, ...]:
    """Return what is reported when the caller does not say."""
    if form == "classifier":
        return _CLASSIFICATION
    return (*_REGRESSION, "reconstruction_error") if form == "autoencoder" else _REGRESSION


def statistics_of(form: str) -> tuple[str, ...]:
    """Return every statistic that a model of this form can have."""
    return (*default_statistics(form), *_ON_REQUEST[form])


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The statistics that one request asks for, of any rows."""

    model: Model
    spec: PredictSpec
    asked: tuple[str, ...]
    tolerance: Array | None = None
    """Largest standard errors that end the drawing of passes; broadcasts against outputs."""
    is_calibrated: bool = False
    """Whether the model was calibrated for this way of predicting."""
    abstention: Abstention | None = None
    """What marks rows."""

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """What is computed: the statistics asked for, and those that rows are marked by."""
        more = () if self.abstention is None else self.abstention.needs
        return tuple(dict.fromkeys((*self.asked, *more)))

    # -- what to keep of the passes ----------------------------------------------------------------

    @cached_property
    def kept(self) -> Kept:
        """What is kept of the prediction's passes."""
        asked = set(self.needed)
        return Kept(
            spread=self.tolerance is not None
            or bool(asked & _OF_SPREAD)
            or ("interval" in asked and self._calibration.score == "normalised"),
            quantiles="quantiles" in asked,
            samples=bool(asked & {"samples", "predictive_quantiles"}),
            entropies=bool(asked & {"expected_entropy", "mutual_information"}),
            votes="variation_ratio" in asked,
            covariance="covariance" in asked,
        )

    @cached_property
    def kept_of_noise(self) -> Kept:
        """What is kept of the variance of the noise that a network learnt."""
        return Kept(samples="predictive_quantiles" in self.asked)

    @cached_property
    def kept_of_other(self) -> Kept:
        """What is kept of other named outputs."""
        asked = set(self.asked_of_other)
        return Kept(
            spread=bool(asked & _OF_SPREAD),
            quantiles="quantiles" in asked,
            samples="samples" in asked,
            covariance="covariance" in asked,
        )

    def numbers_per_row(self, others: int) -> int:
        """Return about how many numbers, labels and marks are told of a row.

        `others` counts the numbers that other named outputs have together.
        """
        graph = self.model.graph
        own = graph.size_of(graph.last.out)
        labels = own // graph.last.shape[-1] if graph.form == "classifier" else own
        marks = int(self.abstention is not None)
        if self.spec.num_samples is None:
            return own + others + (own + labels if graph.form == "classifier" else 0) + marks
        told = sum(
            self._figures(name) * (labels if name in _OF_LABELS else 1 if name in _OF_ROWS else own)
            for name in self.asked
        )
        return told + others * sum(map(self._figures, self.asked_of_other)) + marks

    def _figures(self, statistic: str) -> int:
        """Return how many numbers a statistic has for each output, label or row that it is of."""
        match statistic:
            case "samples":
                return (self.spec.num_samples or 1) * max(1, len(self.model.members))
            case "quantiles" | "predictive_quantiles":
                return len(self.spec.quantiles)
            case "variance":
                return 3
            case "interval":
                return 2
            case "covariance":
                return 0  # of pairs of rows, which are counted apart
        return 1

    @cached_property
    def asked_of_other(self) -> tuple[str, ...]:
        """The statistics of other named outputs."""
        if self.spec.statistics is None:
            return _HIDDEN
        asked = tuple(name for name in (*_HIDDEN, "samples", "covariance") if name in self.asked)
        return asked or ("mean", "std")

    # -- answers -----------------------------------------------------------------------------------

    def of_one(self, value: Samples, x: Inputs) -> Tree:
        """Return a single pass: `prediction`, and a classifier's `label` and `probabilities`.

        `x` are the encoded inputs.
        """
        if self.model.graph.form == "classifier":
            answer: Tree = {
                "prediction": value,
                "label": self._labels(value.argmax(axis=-1)),
                "probabilities": value,
            }
            if "entropy" in self._marked_by:
                return self._marked(answer, answer | {"entropy": entropy(value)})
            return self._marked(answer, answer)
        answer = {"prediction": self.model.encoding.decode(value)}
        if "reconstruction_error" not in self._marked_by:
            return answer
        error = self._reconstruction_error(answer["prediction"], x)
        return self._marked(answer, {"reconstruction_error": error})

    def of_passes(
        self, own: Tally, noise: Tally | None, x: Inputs, passes: int, chance: Chance
    ) -> Tree:
        """Summarise the passes of the prediction; `x` are the encoded inputs.

        `noise` has the variances in original units^2 that the network learnt, where it did.
        `chance` draws so many numbers between 0 and 1 for each row, by which sets are made.
        """
        if self.model.graph.form == "classifier":
            return self._of_classes(own, passes, chance)
        return self._of_numbers(own, noise, x, passes)

    def of_other(self, tally: Tally, passes: int) -> Tree:
        """Statistics of another named output, in the network's own units."""
        asked = self.asked_of_other
        answer = self._spread(tally, asked, passes, 1.0)
        if "mean" in asked:
            answer["mean"] = tally.mean
        if "quantiles" in asked:
            values = tally.quantiles(self.spec.quantiles)
            answer["quantiles"] = self._by_quantile(values)
        if "samples" in asked:
            answer["samples"] = _all_passes(tally, passes)
        return {name: answer[name] for name in asked}

    def meets_tolerance(self, own: Tally, passes: int) -> bool:
        """Say whether no standard error of the prediction is above the tolerance."""
        variance = own.error_variance(passes)
        if self.tolerance is None or variance is None:
            return False
        errors = np.sqrt(variance) * self.model.encoding.target_scale
        return bool((errors <= self.tolerance).all())

    def _of_numbers(self, own: Tally, noise: Tally | None, x: Inputs, passes: int) -> Tree:
        """Summarise a regressor's passes in original units."""
        encoding, asked = self.model.encoding, self.needed
        answer = self._spread(own, asked, passes, encoding.target_scale)
        answer["mean"] = encoding.decode(own.mean)
        if "quantiles" in asked:
            values = own.quantiles(self.spec.quantiles)
            answer["quantiles"] = self._by_quantile(encoding.decode(values))
        if "variance" in asked:
            answer["variance"] = self._variances(answer["std"], noise)
        if "predictive_quantiles" in asked:
            answer["predictive_quantiles"] = self._predictive_quantiles(own, noise)
        if "interval" in asked:
            answer["interval"] = self._interval(answer["mean"], own, passes)
        if "reconstruction_error" in asked:
            answer["reconstruction_error"] = self._reconstruction_error(answer["mean"], x)
        if "samples" in asked:
            answer["samples"] = encoding.decode(_all_passes(own, passes))
        return self._marked({name: answer[name] for name in self.asked}, answer)

    def _reconstruction_error(self, mean: Array, x: Inputs) -> Array:
        (given,) = x[:].values.values()
        errors = (self.model.encoding.decode(given) - mean) ** 2
        error: Array = errors.reshape(len(errors), -1).mean(axis=1)
        return error

    def _of_classes(self, own: Tally, passes: int, chance: Chance) -> Tree:
        """Summarise a classifier's passes, whose probabilities add up to one."""
        asked, mean = self.needed, own.mean
        answer = self._spread(own, asked, passes, 1.0)
        answer |= {"label": self._labels(mean.argmax(axis=-1)), "probabilities": mean}
        if "entropy" in asked or "mutual_information" in asked:
            answer["entropy"] = entropy(mean)
        if self.kept.entropies:
            answer["expected_entropy"] = own.expected_entropy
        if "mutual_information" in asked:
            # The mean's entropy is no less than the mean entropy (Jensen); rounding may say so.
            excess = answer["entropy"] - answer["expected_entropy"]
            answer["mutual_information"] = np.maximum(excess, 0.0)
        if "variation_ratio" in asked:
            answer["variation_ratio"] = variation_ratio(own.votes)
        if "set" in asked:
            answer["set"] = self._set(mean, own, passes, chance)
        if "samples" in asked:
            answer["samples"] = _all_passes(own, passes)
        return self._marked({name: answer[name] for name in self.asked}, answer)

    @property
    def _marked_by(self) -> tuple[str, ...]:
        return () if self.abstention is None else self.abstention.needs

    def _marked(self, answer: Tree, found: Tree) -> Tree:
        """Return the answer with the marks of its rows, where they are asked for."""
        if self.abstention is None:
            return answer
        return answer | {"abstain": self.abstention.marks(found, self.model)}

    def _set(self, mean: Array, own: Tally, passes: int, chance: Chance) -> Tree:
        calibration = self._calibration
        steps = mean.shape[1:-1]
        scores = class_scores(
            mean,
            chance(math.prod(steps)).reshape(mean.shape[:-1]),
            score=calibration.score,
            penalty=calibration.penalty,
            free_ranks=calibration.free_ranks,
        )
        inside = scores <= calibration.of_classes()[..., None]
        known = np.array(self.model.encoding.classes, dtype=object)
        labels = np.empty(inside.shape[:-1], dtype=object)
        for place in np.ndindex(labels.shape):
            labels[place] = known[inside[place]].tolist()
        return {"labels": labels, **self._promise(own, passes)}

    def _promise(self, own: Tally, passes: int) -> Tree:
        asked = (self.spec.num_samples or 1) * max(1, len(self.model.members))
        return {
            "coverage": self._calibration.coverage,
            "calibrated": self.is_calibrated and (own.constant or passes == asked),
        }

    def _labels(self, classes: npt.NDArray[np.intp]) -> Array:
        labels = np.array(self.model.encoding.classes, dtype=object)
        return labels[classes]

    def _spread(
        self, tally: Tally, asked: Collection[str], passes: int, scale: Array | float
    ) -> Tree:
        """Return what does not exist for one pass: `std`, `standard_error` and `covariance`."""
        if _OF_SPREAD.isdisjoint(asked):
            return {}
        joint = {"covariance": tally.covariance(passes) * scale**2} if "covariance" in asked else {}
        variance = tally.variance(passes)
        if variance is None:
            missing = np.full(tally.mean.shape, np.nan)
            return joint | {"std": missing, "standard_error": missing}
        std = np.sqrt(variance) * scale
        answer = joint | {"std": std}
        if "standard_error" in asked:
            answer["standard_error"] = self._error(tally, std, passes, scale)
        return answer

    def _error(self, tally: Tally, std: Array, passes: int, scale: Array | float) -> Array:
        if not self.model.members:
            return std / math.sqrt(passes)
        variance = tally.error_variance(passes)
        return np.full(std.shape, np.nan) if variance is None else np.sqrt(variance) * scale

    def _variances(self, std: Array, noise: Tally | None) -> Tree:
        epistemic = std**2
        variance = self.model.noise_variance
        if noise is not None:
            aleatoric = noise.mean
        elif variance is not None:
            aleatoric = np.broadcast_to(variance, std.shape)
        else:
            aleatoric = np.full(std.shape, np.nan)
        return {"epistemic": epistemic, "aleatoric": aleatoric, "total": epistemic + aleatoric}

    def _predictive_quantiles(self, own: Tally, noise: Tally | None) -> Tree:
        samples = own.samples
        precision = self.model.precision_of_passes(len(samples))
        if noise is not None:
            precision = 1 / noise.samples
        if precision is None:
            missing = np.full(samples.shape[1:], np.nan)
            return self._by_quantile([missing for _ in self.spec.quantiles])
        decoded = self.model.encoding.decode(samples)
        if noise is not None:
            decoded, precision = np.broadcast_arrays(decoded, precision)
        return self._by_quantile(mixture_quantiles(decoded, precision, self.spec.quantiles))

    def _interval(self, mean: Array, own: Tally, passes: int) -> Tree:
        calibration, encoding = self._calibration, self.model.encoding
        std = None
        if calibration.score == "normalised":
            variance = own.variance(passes)
            missing = np.full(mean.shape, np.nan)
            std = missing if variance is None else np.sqrt(variance) * encoding.target_scale
        width = half_width(
            self._conformal, std, score=calibration.score, scale=encoding.target_scale
        )
        return {"lower": mean - width, "upper": mean + width, **self._promise(own, passes)}

    @property
    def _calibration(self) -> Calibration:
        assert self.model.calibration is not None
        return self.model.calibration

    @cached_property
    def _conformal(self) -> npt.NDArray[np.float64]:
        encoding = self.model.encoding
        return self._calibration.along(encoding.target_names, len(self.model.graph.last.shape))

    def _by_quantile(self, values: Iterable[Array]) -> Tree:
        keys = [quantile_key(quantile) for quantile in self.spec.quantiles]
        return dict(zip(keys, values, strict=True))


def probabilities_of(samples: Samples, *, temperature: float) -> Samples:
    """Make each pass's class probabilities add up to one, softened by a temperature."""
    return softened(renormalised(samples), temperature)


def _all_passes(tally: Tally, passes: int) -> Array:
    return np.broadcast_to(tally.samples, (passes, *tally.samples.shape[1:]))


def noise_variance(graph: Graph, encoding: Encoding, values: Samples) -> Array:
    """Return the variance that a network learnt, in original units^2, of its output for it."""
    assert graph.noise_loss is not None
    variance = np.abs(values.astype(np.float64)) + graph.noise_loss.covar_eps
    scaled: Array = variance * encoding.target_scale**2
    return scaled


def renormalised(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Make each pass's class probabilities add up to one; where all are dropped, uniform."""
    # In float32, so that sums over equal passes are exact and their variance is exactly zero.
    shares: Samples = np.empty(samples.shape, dtype=np.float32)
    given = samples.reshape(-1, samples.shape[-1])
    flat = shares.reshape(given.shape)
    for part in portions(given):
        values = given[part].astype(np.float64)
        totals = values.sum(axis=-1, keepdims=True)
        empty = ~(totals > 0)
        if empty.any():
            values[empty[:, 0]] = 1.0
            totals[empty] = samples.shape[-1]
        np.divide(values, totals, out=flat[part], casting="same_kind")
    return shares
