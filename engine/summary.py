"""What passes come to: the statistics of an answer, in original units and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.graph import Graph
from engine.spec import PredictSpec
from engine.statistics import (
    entropy,
    mean_and_variance,
    mixture_quantiles,
    pass_mean,
    pass_quantiles,
    quantile_key,
    variation_ratio,
)

__all__ = [
    "Summary",
    "Tree",
    "default_statistics",
    "noise_variance",
    "renormalised",
    "statistics_of",
]

Array = npt.NDArray[Any]
Samples = npt.NDArray[np.float32]
Tree = dict[str, Any]
"""Arrays by name, possibly nested; rows first, but for `samples`, where they come second."""

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
_ON_REQUEST = {
    "regressor": ("predictive_quantiles", "interval", "samples"),
    "autoencoder": ("predictive_quantiles", "interval", "samples"),
    "classifier": ("samples",),
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
    """The statistics that one request asks for.

    Samples come as (passes, rows, *shape). A single one may stand for all passes where no mask
    reaches the output.
    """

    model: Model
    spec: PredictSpec
    asked: tuple[str, ...]
    noise: Array | None = None
    """Variance of the noise of each sample, in original units^2, where the network learnt it."""

    @property
    def passes(self) -> int:
        return self.spec.num_samples or 1

    def of_one(self, value: Samples) -> Tree:
        """Return a single pass: `prediction`, and a classifier's `label` and `probabilities`."""
        if self.model.graph.form == "classifier":
            return {
                "prediction": value,
                "label": self._labels(value.argmax(axis=-1)),
                "probabilities": value,
            }
        return {"prediction": self.model.encoding.decode(value)}

    def of_numbers(self, samples: Samples, x: Inputs) -> Tree:
        """Summarise a regressor's passes in original units; `x` are the encoded inputs."""
        encoding = self.model.encoding
        scale = encoding.target_scale
        mean, variance = self._moments(samples)
        answer: Tree = {"mean": encoding.decode(mean)}
        answer |= self._spread(variance, mean, scale)
        if "quantiles" in self.asked:
            values = pass_quantiles(samples, self.spec.quantiles)
            answer["quantiles"] = self._by_quantile([encoding.decode(value) for value in values])
        if "variance" in self.asked:
            answer["variance"] = self._variances(answer["std"])
        if "predictive_quantiles" in self.asked:
            answer["predictive_quantiles"] = self._predictive_quantiles(samples)
        if "reconstruction_error" in self.asked:
            (given,) = x.values.values()
            errors = (encoding.decode(given) - answer["mean"]) ** 2
            answer["reconstruction_error"] = errors.reshape(len(errors), -1).mean(axis=1)
        if "samples" in self.asked:
            answer["samples"] = encoding.decode(self._all_passes(samples))
        return {name: answer[name] for name in self.asked}

    def of_classes(self, samples: Samples) -> Tree:
        """Summarise a classifier's passes; `samples` are probabilities that add up to one."""
        mean, variance = self._moments(samples)
        answer: Tree = {"label": self._labels(mean.argmax(axis=-1)), "probabilities": mean}
        answer |= self._spread(variance, mean, 1.0)
        answer["entropy"] = entropy(mean)
        answer["expected_entropy"] = pass_mean(entropy(samples))
        # The mean's entropy is no less than the mean entropy (Jensen); rounding may say otherwise.
        answer["mutual_information"] = np.maximum(
            answer["entropy"] - answer["expected_entropy"], 0.0
        )
        answer["variation_ratio"] = variation_ratio(samples)
        if "samples" in self.asked:
            answer["samples"] = self._all_passes(samples)
        return {name: answer[name] for name in self.asked}

    def of_other(self, samples: Samples) -> Tree:
        """Statistics of another named output, in the network's own units."""
        asked = [name for name in (*_HIDDEN, "samples") if name in self.asked]
        asked = asked or ["mean", "std"]
        if self.spec.statistics is None:
            asked = list(_HIDDEN)
        mean, variance = self._moments(samples)
        answer: Tree = {"mean": mean} | self._spread(variance, mean, 1.0)
        if "quantiles" in asked:
            answer["quantiles"] = self._by_quantile(pass_quantiles(samples, self.spec.quantiles))
        if "samples" in asked:
            answer["samples"] = self._all_passes(samples)
        return {name: answer[name] for name in asked}

    def _labels(self, classes: npt.NDArray[np.intp]) -> Array:
        labels = np.array(self.model.encoding.classes, dtype=object)
        return labels[classes]

    def _moments(self, samples: Samples) -> tuple[Array, Array | None]:
        """Mean and variance; of one sample that stands for all passes, the variance is zero."""
        mean, variance = mean_and_variance(samples)
        if len(samples) == 1 and self.passes > 1:
            variance = np.zeros_like(mean)
        return mean, variance

    def _spread(
        self, variance: Array | None, like: Array, scale: Array | float
    ) -> dict[str, Array]:
        """Return `std` and `standard_error`, which do not exist for one pass."""
        if variance is None:
            missing = np.full(like.shape, np.nan)
            return {"std": missing, "standard_error": missing}
        std = np.sqrt(variance) * scale
        return {"std": std, "standard_error": std / np.sqrt(self.passes)}

    def _variances(self, std: Array) -> Tree:
        epistemic = std**2
        precision = self.model.noise_precision
        if self.noise is not None:
            aleatoric = pass_mean(self.noise)
        elif precision is not None:
            aleatoric = np.broadcast_to(1 / precision, std.shape)
        else:
            aleatoric = np.full(std.shape, np.nan)
        return {"epistemic": epistemic, "aleatoric": aleatoric, "total": epistemic + aleatoric}

    def _predictive_quantiles(self, samples: Samples) -> Tree:
        precision = self.model.noise_precision
        if self.noise is not None:
            precision = 1 / self.noise
        if precision is None:
            missing = np.full(samples.shape[1:], np.nan)
            return self._by_quantile([missing for _ in self.spec.quantiles])
        decoded = self.model.encoding.decode(samples)
        if self.noise is not None:
            decoded, precision = np.broadcast_arrays(decoded, precision)
        return self._by_quantile(mixture_quantiles(decoded, precision, self.spec.quantiles))

    def _by_quantile(self, values: Sequence[Array]) -> Tree:
        keys = [quantile_key(quantile) for quantile in self.spec.quantiles]
        return dict(zip(keys, values, strict=True))

    def _all_passes(self, samples: Samples) -> Samples:
        return np.broadcast_to(samples, (self.passes, *samples.shape[1:]))


def noise_variance(graph: Graph, encoding: Encoding, values: Samples) -> Array:
    """Return the variance that a network learnt, in original units^2, of its output for it."""
    assert graph.noise_loss is not None
    variance = np.abs(values.astype(np.float64)) + graph.noise_loss.covar_eps
    scaled: Array = variance * encoding.target_scale**2
    return scaled


def renormalised(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Make each pass's class probabilities add up to one; where all are dropped, uniform."""
    values = samples.astype(np.float64)
    totals = values.sum(axis=-1, keepdims=True)
    uniform = 1.0 / samples.shape[-1]
    shares = np.divide(values, totals, out=np.full_like(values, uniform), where=totals > 0)
    # In float32, so that sums over equal passes are exact and their variance is exactly zero.
    single: npt.NDArray[np.float32] = shares.astype(np.float32)
    return single
