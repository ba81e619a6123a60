"""Predictions: encoded rows in, named arrays in original units and labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model, trained_dropout
from engine.errors import SpecError
from engine.names import match
from engine.regularizers import (
    BernoulliDropout,
    Regularizer,
    is_given,
    is_stochastic,
    resolve,
    unread_warnings,
)
from engine.sampling import Sampler, readable_outputs
from engine.spec import BernoulliDropoutSpec, PredictSpec
from engine.statistics import (
    entropy,
    mean_and_variance,
    mixture_quantiles,
    pass_mean,
    pass_quantiles,
    quantile_key,
    variation_ratio,
)

__all__ = ["PredictionPlan", "plan_prediction", "renormalised", "statistics_of"]

Array = npt.NDArray[Any]
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
class PredictionPlan:
    """A prediction request resolved against its model; `run` computes it."""

    model: Model
    spec: PredictSpec
    seed: int
    regularizers: tuple[Regularizer, ...]
    extra: tuple[str, ...]
    """Other named outputs to return."""
    statistics: tuple[str, ...]
    warnings: list[str] = field(default_factory=list)

    @property
    def num_samples(self) -> int | None:
        return self.spec.num_samples

    @property
    def passes(self) -> int:
        """How many passes the network runs for each row, at most."""
        return self.spec.num_samples or 1

    def cost(self, rows: int) -> tuple[float, int]:
        """Return about how many floating-point operations and how many samples `rows` rows take."""
        graph = self.model.graph
        draws = rows * (self.passes if is_stochastic(self.regularizers) else 1)
        per_draw = graph.flops_per_row() + 40 * sum(layer.size for layer in graph.layers)
        widths = readable_outputs(graph, self.regularizers)
        held = sum(widths[name] for name in (graph.last.out, *self.extra))
        return float(draws) * per_draw, rows * self.passes * held

    def answer_size(self, rows: int) -> int:
        """Return about how many numbers the answer holds."""
        graph = self.model.graph
        widths = readable_outputs(graph, self.regularizers)
        width = sum(widths[name] for name in (graph.last.out, *self.extra))
        if self.num_samples is None:
            return rows * width
        each = len(self.statistics) + 2 * len(self.spec.quantiles)
        return rows * width * (each + (self.num_samples if "samples" in self.statistics else 0))

    def dropout(self) -> list[dict[str, Any]]:
        """Return the rates that act, with the outputs that each pattern matched."""
        return [
            {
                "pattern": regularizer.pattern,
                "rate": regularizer.weight,
                "rng": regularizer.rng,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, BernoulliDropout)
        ]

    def run(self, x: npt.NDArray[np.float32], row_ids: npt.NDArray[np.int64]) -> Tree:
        """Return the answer's `outputs` for encoded rows (rows, inputs).

        `row_ids` are the rows' positions in the random streams, without `row_offset`.
        """
        wanted = tuple(dict.fromkeys((self.model.graph.last.out, *self.extra)))
        sampler = Sampler(
            self.model.network,
            self.regularizers,
            wanted=wanted,
            seed=self.seed,
            masks=self.spec.masks,
        )
        ids = row_ids + self.spec.row_offset
        pieces = [
            self._piece(sampler, x[rows], ids[rows]) for rows in sampler.chunks(len(x), self.passes)
        ]
        return _joined(pieces)

    # -- one piece of the rows ---------------------------------------------------------------------

    def _piece(
        self, sampler: Sampler, x: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]
    ) -> Tree:
        drawn = {name: value[None] for name, value in sampler.deterministic(x).items()}
        if sampler.stochastic:
            drawn |= sampler.samples(x, ids, np.arange(self.passes, dtype=np.int64))
        last = self.model.graph.last.out
        own = drawn[last]
        if self.model.graph.form == "classifier":
            own = renormalised(own)
        if self.num_samples is None:
            return self._single(own[0]) | {name: drawn[name][0] for name in self.extra}
        if self.model.graph.form == "classifier":
            answer = self._classification(own)
        else:
            answer = self._regression(own, x)
        for name in self.extra:
            answer[name] = self._hidden(drawn[name])
        return answer

    def _single(self, value: npt.NDArray[np.float32]) -> Tree:
        if self.model.graph.form == "classifier":
            return {
                "prediction": value,
                "label": self._labels(value.argmax(axis=1)),
                "probabilities": value,
            }
        return {"prediction": self.model.encoding.decode(value)}

    def _labels(self, classes: npt.NDArray[np.intp]) -> Array:
        labels = np.array(self.model.encoding.classes, dtype=object)
        return labels[classes]

    def _moments(self, samples: npt.NDArray[np.float32]) -> tuple[Array, Array | None]:
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

    def _regression(self, samples: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Tree:
        encoding = self.model.encoding
        scale = encoding.target_scale
        asked = self.statistics
        mean, variance = self._moments(samples)
        answer: Tree = {"mean": encoding.decode(mean)}
        answer |= self._spread(variance, mean, scale)
        if "quantiles" in asked:
            values = pass_quantiles(samples, self.spec.quantiles)
            answer["quantiles"] = self._by_quantile([encoding.decode(value) for value in values])
        if "variance" in asked:
            answer["variance"] = self._variances(answer["std"])
        if "predictive_quantiles" in asked:
            answer["predictive_quantiles"] = self._predictive_quantiles(samples)
        if "reconstruction_error" in asked:
            truth = encoding.decode(x)
            answer["reconstruction_error"] = np.mean((truth - answer["mean"]) ** 2, axis=1)
        if "samples" in asked:
            answer["samples"] = encoding.decode(self._all_passes(samples))
        return {name: answer[name] for name in asked}

    def _all_passes(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.broadcast_to(samples, (self.passes, *samples.shape[1:]))

    def _variances(self, std: Array) -> Tree:
        epistemic = std**2
        precision = self.model.noise_precision
        aleatoric = (
            np.full(std.shape, np.nan)
            if precision is None
            else np.broadcast_to(1 / precision, std.shape)
        )
        return {"epistemic": epistemic, "aleatoric": aleatoric, "total": epistemic + aleatoric}

    def _predictive_quantiles(self, samples: npt.NDArray[np.float32]) -> Tree:
        precision = self.model.noise_precision
        if precision is None:
            missing = np.full(samples.shape[1:], np.nan)
            return self._by_quantile([missing for _ in self.spec.quantiles])
        decoded = self.model.encoding.decode(samples)
        return self._by_quantile(mixture_quantiles(decoded, precision, self.spec.quantiles))

    def _by_quantile(self, values: Sequence[Array]) -> Tree:
        keys = [quantile_key(quantile) for quantile in self.spec.quantiles]
        return dict(zip(keys, values, strict=True))

    def _classification(self, samples: npt.NDArray[np.float32]) -> Tree:
        asked = self.statistics
        mean, variance = self._moments(samples)
        answer: Tree = {"label": self._labels(mean.argmax(axis=1)), "probabilities": mean}
        answer |= self._spread(variance, mean, 1.0)
        answer["entropy"] = entropy(mean)
        answer["expected_entropy"] = pass_mean(entropy(samples))
        # The mean's entropy is no less than the mean entropy (Jensen); rounding may say otherwise.
        answer["mutual_information"] = np.maximum(
            answer["entropy"] - answer["expected_entropy"], 0.0
        )
        answer["variation_ratio"] = variation_ratio(samples)
        if "samples" in asked:
            answer["samples"] = self._all_passes(samples)
        return {name: answer[name] for name in asked}

    def _hidden(self, samples: npt.NDArray[np.float32]) -> Tree:
        """Statistics of another named output, in the network's own units."""
        asked = [name for name in (*_HIDDEN, "samples") if name in self.statistics]
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


def plan_prediction(model: Model, spec: PredictSpec, *, seed: int) -> PredictionPlan:
    """Resolve a request: which rates act, which outputs and statistics are asked for.

    With `num_samples` and no dropout key the rates are those of training. Raises SpecError where
    the model has none, or for a statistic that it does not have; PatternError for a pattern that
    matches nothing.
    """
    regularizers = _acting(model, spec)
    warnings = unread_warnings(regularizers, model.graph)
    readable = readable_outputs(model.graph, regularizers)
    extra: dict[str, None] = {}
    for index, pattern in enumerate(spec.outputs):
        matched = match(pattern, readable, kind="output", pointer=f"#/outputs/{index}")
        extra |= dict.fromkeys(matched)
    warnings = [text for text in warnings if not any(repr(name) in text for name in extra)]
    statistics = _statistics(model, spec)
    if spec.num_samples is not None:
        warnings += _noise_warnings(model, statistics)
        warnings += _sample_warnings(spec, statistics)
    return PredictionPlan(
        model=model,
        spec=spec,
        seed=seed,
        regularizers=regularizers,
        extra=tuple(extra),
        statistics=statistics,
        warnings=warnings,
    )


def _acting(model: Model, spec: PredictSpec) -> tuple[Regularizer, ...]:
    asks_for_trained = spec.dropout == "trained"
    if asks_for_trained:
        _refuse_beside_trained(spec)
    if not asks_for_trained and is_given(spec):
        for index, given in enumerate(spec.regularizers or ()):
            if not isinstance(given, BernoulliDropoutSpec):
                raise SpecError(
                    f"{given.form!r} is a term of the training loss and changes no prediction; "
                    "leave it out",
                    pointer=f"#/regularizers/{index}",
                )
        return resolve(spec, model.graph)
    if not asks_for_trained and spec.num_samples is None:
        return ()
    trained = trained_dropout(model)
    if not is_stochastic(trained):
        raise SpecError(
            "the model was trained without dropout, so all passes would be the same; give "
            "`input_dropout`, `hidden_dropout`, `output_dropout` or `dropout` with rates, or leave "
            "out `num_samples`",
            pointer="#/dropout" if asks_for_trained else "#/num_samples",
        )
    return trained


def _refuse_beside_trained(spec: PredictSpec) -> None:
    for key in ("input_dropout", "hidden_dropout", "output_dropout", "regularizers"):
        if getattr(spec, key) is not None:
            raise SpecError(
                f"`dropout` is 'trained', which stands for all rates; leave out `{key}`, or give "
                "`dropout` as a map of patterns",
                pointer=f"#/{key}",
            )


def _statistics(model: Model, spec: PredictSpec) -> tuple[str, ...]:
    form = model.graph.form
    defaults = default_statistics(form)
    if spec.statistics is None:
        return defaults
    if spec.num_samples is None:
        raise SpecError(
            "`statistics` are of several passes; give `num_samples`", pointer="#/statistics"
        )
    has = statistics_of(form)
    for index, name in enumerate(spec.statistics):
        if name not in has:
            raise SpecError(
                f"a {form} has no {name!r}; it has {', '.join(has)}",
                pointer=f"#/statistics/{index}",
            )
        if name == "interval":
            raise SpecError(
                "the model is not calibrated, so it has no `interval`; `predictive_quantiles` give "
                "one from the fitted noise",
                pointer=f"#/statistics/{index}",
            )
    return tuple(dict.fromkeys(spec.statistics))


def _noise_warnings(model: Model, statistics: Sequence[str]) -> list[str]:
    needs = [name for name in ("variance", "predictive_quantiles") if name in statistics]
    if not needs or model.noise_precision is not None:
        return []
    return [
        "the model has no noise precision (it was trained without validation rows, or imported): "
        "aleatoric and total variance and predictive quantiles are null"
    ]


def _sample_warnings(spec: PredictSpec, statistics: Sequence[str]) -> list[str]:
    assert spec.num_samples is not None
    few = [
        quantile_key(quantile)
        for quantile in spec.quantiles
        if 0 < min(quantile, 1 - quantile) < 1 / spec.num_samples
    ]
    if "quantiles" not in statistics or not few:
        return []
    return [
        f"{spec.num_samples} passes say little about the quantiles {', '.join(few)}: "
        "none or one lies beyond; ask for more passes"
    ]


def renormalised(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Make each pass's class probabilities add up to one; where all are dropped, uniform."""
    values = samples.astype(np.float64)
    totals = values.sum(axis=-1, keepdims=True)
    uniform = 1.0 / samples.shape[-1]
    shares = np.divide(values, totals, out=np.full_like(values, uniform), where=totals > 0)
    # In float32, so that sums over equal passes are exact and their variance is exactly zero.
    single: npt.NDArray[np.float32] = shares.astype(np.float32)
    return single


def _joined(pieces: Sequence[Tree]) -> Tree:
    """Concatenate the rows of pieces; `samples` have theirs on the second axis."""

    def join(key: str, values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: join(name, [value[name] for value in values]) for name in values[0]}
        return np.concatenate(values, axis=1 if key == "samples" else 0)

    return {key: join(key, [piece[key] for piece in pieces]) for key in pieces[0]}
