"""Predictions: encoded rows in, named arrays in original units and labels out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import Model, trained_perturbations
from engine.data.inputs import Inputs
from engine.errors import PatternError, SpecError
from engine.graph import Graph
from engine.names import match, output_name, plain_name
from engine.network import needed_layers
from engine.regularizers import (
    BernoulliDropout,
    DropConnect,
    GaussianNoise,
    Regularizer,
    is_given,
    is_stochastic,
    resolve,
    unread_warnings,
)
from engine.sampling import Sampler, readable_outputs
from engine.spec import (
    BernoulliDropoutSpec,
    ConcreteDropoutSpec,
    DropConnectSpec,
    GaussianNoiseSpec,
    PredictSpec,
    RegularizationSpec,
)
from engine.statistics import quantile_key
from engine.summary import (
    Summary,
    Tree,
    default_statistics,
    noise_variance,
    renormalised,
    statistics_of,
)

__all__ = ["PredictionPlan", "plan_prediction"]


_OF_NOISE = ("variance", "predictive_quantiles")


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
    start: str | None = None
    """The output whose values are given instead of rows."""
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
        per_draw = graph.flops_per_row + 40 * graph.numbers_per_row
        dropped = {n for r in self.regularizers if isinstance(r, DropConnect) for n in r.matched}
        per_draw += 40 * sum(math.prod(graph.parameters[name]) for name in dropped)
        held = sum(graph.size_of(name) for name in (graph.last.out, *self._noise, *self.extra))
        return float(draws) * per_draw, rows * self.passes * held

    def answer_size(self, rows: int) -> int:
        """Return about how many numbers the answer holds."""
        graph = self.model.graph
        width = sum(graph.size_of(name) for name in (graph.last.out, *self.extra))
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
                "steps": regularizer.steps,
                "spatial": regularizer.spatial,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, BernoulliDropout)
        ]

    def drop_connect(self) -> list[dict[str, Any]]:
        """Return the rates at which weights are dropped, with the weights matched."""
        return [
            {
                "pattern": regularizer.pattern,
                "rate": regularizer.weight,
                "rng": regularizer.rng,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, DropConnect)
        ]

    def noise(self) -> list[dict[str, Any]]:
        """Return the deviations of the noise that acts, with the outputs matched."""
        return [
            {
                "pattern": regularizer.pattern,
                "std": regularizer.weight,
                "rng": regularizer.rng,
                "matched": list(regularizer.matched),
            }
            for regularizer in self.regularizers
            if isinstance(regularizer, GaussianNoise)
        ]

    def run(
        self,
        x: Inputs,
        row_ids: npt.NDArray[np.int64],
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> Tree:
        """Return the answer's `outputs` for encoded rows, or for values of `start`.

        `row_ids` are the rows' positions in the random streams, without `row_offset`. Where `stop`
        says so, StoppedError ends the work.
        """
        wanted = tuple(dict.fromkeys((self.model.graph.last.out, *self._noise, *self.extra)))
        sampler = Sampler(
            self.model.network,
            self.regularizers,
            wanted=wanted,
            seed=self.seed,
            masks=self.spec.masks,
            stop=stop,
        )
        ids = row_ids + self.spec.row_offset
        pieces = [
            self._piece(sampler, x[rows], ids[rows]) for rows in sampler.chunks(len(x), self.passes)
        ]
        return _joined(pieces)

    @property
    def _noise(self) -> tuple[str, ...]:
        """The output that says the noise, where there is one and statistics ask for it."""
        return _noise_outputs(self.model.graph, self.spec, self.statistics)

    # -- one piece of the rows ---------------------------------------------------------------------

    def _piece(self, sampler: Sampler, x: Inputs, ids: npt.NDArray[np.int64]) -> Tree:
        drawn = {name: value[None] for name, value in sampler.deterministic(x).items()}
        if sampler.stochastic:
            drawn |= sampler.samples(x, ids, np.arange(self.passes, dtype=np.int64))
        last = self.model.graph.last.out
        own = drawn[last]
        if self.model.graph.form == "classifier":
            own = renormalised(own)
        graph, encoding = self.model.graph, self.model.encoding
        noise = [noise_variance(graph, encoding, drawn[name]) for name in self._noise]
        summary = Summary(
            model=self.model,
            spec=self.spec,
            asked=self.statistics,
            noise=noise[0] if noise else None,
        )
        if self.num_samples is None:
            return summary.of_one(own[0]) | {name: drawn[name][0] for name in self.extra}
        if self.model.graph.form == "classifier":
            answer = summary.of_classes(own)
        else:
            answer = summary.of_numbers(own, x)
        return answer | {name: summary.of_other(drawn[name]) for name in self.extra}


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
    start = _start(model.graph, spec, tuple(extra), statistics)
    if start is not None and spec.statistics is None:
        statistics = tuple(name for name in statistics if name != "reconstruction_error")
    if spec.num_samples is not None:
        if not is_stochastic(regularizers):
            warnings.append(
                "nothing is dropped and no noise is added, so all passes are the same; leave out "
                "the dropout and noise keys for the rates of training"
            )
        warnings += _noise_warnings(model, statistics)
        warnings += _sample_warnings(spec, statistics)
    return PredictionPlan(
        model=model,
        spec=spec,
        seed=seed,
        regularizers=regularizers,
        extra=tuple(extra),
        statistics=statistics,
        start=start,
        warnings=warnings,
    )


def _noise_outputs(graph: Graph, spec: PredictSpec, statistics: Sequence[str]) -> tuple[str, ...]:
    """Return the output that says the noise, where there is one and statistics ask for it."""
    is_asked = spec.num_samples is not None and any(name in _OF_NOISE for name in statistics)
    return (graph.noise_output,) if is_asked and graph.noise_output is not None else ()


def _start(
    graph: Graph, spec: PredictSpec, extra: tuple[str, ...], statistics: Sequence[str]
) -> str | None:
    """Return the output that is given; raise SpecError where it does not do for what is asked."""
    if spec.start is None:
        return None
    name = spec.start if ":" in spec.start else output_name(spec.start, "out")
    layer = next((layer for layer in graph.layers if layer.out == name), None)
    if layer is None:
        raise PatternError(
            spec.start,
            kind="layer's out",
            exist=[layer.out for layer in graph.layers],
            pointer="#/start",
        )
    noise = _noise_outputs(graph, spec, statistics)
    visited = needed_layers(graph, (graph.last.out, *noise, *extra), {name})
    before = [other.name for other in visited if other.form == "input" and other is not layer]
    own = [wanted for wanted in (*noise, *extra) if plain_name(wanted) in layer.outputs]
    if before or any(plain_name(wanted) != name for wanted in own):
        missing = ", ".join(before) or f"the other outputs of {layer.name!r}"
        raise SpecError(
            f"what is asked for cannot be computed from {name!r} alone: it takes {missing}; start "
            "at an earlier layer, or ask for fewer `outputs`"
            + (" and for `statistics` without the noise, which is learnt" if noise else ""),
            pointer="#/start",
        )
    if spec.statistics is not None and "reconstruction_error" in spec.statistics:
        raise SpecError(
            "a prediction that starts behind the inputs has none to reconstruct; leave "
            "`reconstruction_error` out",
            pointer=f"#/statistics/{spec.statistics.index('reconstruction_error')}",
        )
    return name


def _acting(model: Model, spec: PredictSpec) -> tuple[Regularizer, ...]:
    asks_for_trained = spec.dropout == "trained"
    if asks_for_trained:
        _refuse_beside_trained(spec)
    if not asks_for_trained and is_given(spec):
        for index, given in enumerate(spec.regularizers or ()):
            if isinstance(given, ConcreteDropoutSpec):
                raise SpecError(
                    "the rates of 'concrete_dropout' are learnt in training; a model that was "
                    "trained with it predicts with them when no rates are given",
                    pointer=f"#/regularizers/{index}",
                )
            if not isinstance(given, BernoulliDropoutSpec | GaussianNoiseSpec | DropConnectSpec):
                raise SpecError(
                    f"{given.form!r} is a term of the training loss and changes no prediction; "
                    "leave it out",
                    pointer=f"#/regularizers/{index}",
                )
        return resolve(spec, model.graph)
    if not asks_for_trained and spec.num_samples is None:
        return ()
    trained = trained_perturbations(model)
    if not is_stochastic(trained):
        raise SpecError(
            "the model was trained without dropout and noise, so all passes would be the same; "
            "give `input_dropout`, `hidden_dropout`, `output_dropout` or `dropout` with rates, or "
            "leave out `num_samples`",
            pointer="#/dropout" if asks_for_trained else "#/num_samples",
        )
    return trained


def _refuse_beside_trained(spec: PredictSpec) -> None:
    for key in sorted(set(RegularizationSpec.model_fields) - {"dropout"}):
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
    needs = [name for name in _OF_NOISE if name in statistics]
    if not needs or model.noise_precision is not None or model.graph.noise_output is not None:
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


def _joined(pieces: Sequence[Tree]) -> Tree:
    """Concatenate the rows of pieces; `samples` have theirs on the second axis."""

    def join(key: str, values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: join(name, [value[name] for value in values]) for name in values[0]}
        return np.concatenate(values, axis=1 if key == "samples" else 0)

    return {key: join(key, [piece[key] for piece in pieces]) for key in pieces[0]}
