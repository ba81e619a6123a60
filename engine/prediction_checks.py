"""What a prediction asks for, checked against its model before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from engine.artifact import Model
from engine.conformal import Calibration
from engine.errors import PatternError, SpecError
from engine.graph import Graph
from engine.layers import shown
from engine.names import output_name, plain_name
from engine.network import needed_layers
from engine.quantiles import quantile_key
from engine.regularizers import Regularizer, is_given, is_stochastic, resolve
from engine.spec import (
    BernoulliDropoutSpec,
    ConcreteDropoutSpec,
    DropConnectSpec,
    GaussianNoiseSpec,
    PassesSpec,
    PredictSpec,
    RegularizationSpec,
)
from engine.summary import default_statistics, statistics_of

__all__ = [
    "acting_regularizers",
    "asked_statistics",
    "given_start",
    "interval_warnings",
    "noise_outputs",
    "noise_warnings",
    "sample_warnings",
]

_OF_NOISE = ("variance", "predictive_quantiles")


def noise_outputs(graph: Graph, spec: PredictSpec, statistics: Sequence[str]) -> tuple[str, ...]:
    """Return the output that says the noise, where there is one and statistics ask for it."""
    is_asked = spec.num_samples is not None and any(name in _OF_NOISE for name in statistics)
    return (graph.noise_output,) if is_asked and graph.noise_output is not None else ()


def given_start(
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
    noise = noise_outputs(graph, spec, statistics)
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


def acting_regularizers(
    graph: Graph,
    trained: tuple[Regularizer, ...],
    spec: PassesSpec,
    *,
    alone: bool = True,
) -> tuple[Regularizer, ...]:
    """Return what drops and adds noise; raise SpecError for what cannot, or for nothing at all.

    `trained` is what did in training. A model that is not `alone`, but one of an ensemble, may have
    been trained without any.
    """
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
        return resolve(spec, graph)
    if not asks_for_trained and spec.num_samples is None:
        return ()
    if alone and not is_stochastic(trained):
        raise SpecError(
            "the model was trained without dropout and noise, so all passes would be the same; "
            "give `input_dropout`, `hidden_dropout`, `output_dropout` or `dropout` with rates, or "
            "leave out `num_samples`",
            pointer="#/dropout" if asks_for_trained else "#/num_samples",
        )
    return trained


def _refuse_beside_trained(spec: PassesSpec) -> None:
    for key in sorted(set(RegularizationSpec.model_fields) - {"dropout"}):
        if getattr(spec, key) is not None:
            raise SpecError(
                f"`dropout` is 'trained', which stands for all rates; leave out `{key}`, or give "
                "`dropout` as a map of patterns",
                pointer=f"#/{key}",
            )


def asked_statistics(model: Model, spec: PredictSpec) -> tuple[str, ...]:
    """Return the statistics of the answer; raise SpecError for one that the model has not."""
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
        if name == "covariance" and spec.masks != "shared":
            raise SpecError(
                "rows whose masks are independent have no `covariance` over the passes; ask for "
                "`masks` that are 'shared', or leave it out",
                pointer=f"#/statistics/{index}",
            )
        if name in ("interval", "set"):
            _check_interval(model, f"#/statistics/{index}")
    return tuple(dict.fromkeys(spec.statistics))


def _check_interval(model: Model, pointer: str) -> None:
    """Refuse what a model has not that was not calibrated, or that was for other sequences."""
    calibration, is_classifier = model.calibration, model.graph.form == "classifier"
    if calibration is None:
        told = (
            "`set`; train it with `calibrate`. `probabilities` are its own"
            if is_classifier
            else "`interval`; train it with `calibrate`. `predictive_quantiles` give one from the "
            "fitted noise"
        )
        raise SpecError(f"the model is not calibrated, so it has no {told}", pointer=pointer)
    shape = model.graph.last.shape
    if is_classifier:
        calibrated = (*calibration.of_classes().shape, shape[-1])
    else:
        calibrated = calibration.along(model.encoding.target_names, len(shape)).shape
    if calibrated != shape:
        raise SpecError(
            f"the model is calibrated for {shown(calibrated)} values a row, and gives "
            f"{shown(shape)} of these; ask for sequences of {calibrated[0]} steps, or leave it out",
            pointer=pointer,
        )


def interval_warnings(
    spec: PredictSpec, calibration: Calibration, differences: Sequence[str]
) -> list[str]:
    """Warn of intervals and sets that hold no coverage, and of those that do not exist."""
    what = "set" if calibration.is_of_sets else "interval"
    warnings = []
    if differences:
        warnings.append(
            f"the {what} is not calibrated for this way of predicting: {', '.join(differences)}"
        )
    elif spec.tolerance is not None or spec.budget_ms is not None:
        warnings.append(
            f"the {what} is calibrated for all {calibration.way.num_samples} passes; where "
            "`tolerance` or `budget_ms` ends them earlier it is not"
        )
    if calibration.score == "normalised" and spec.num_samples == 1:
        warnings.append("one pass has no `std`, which the interval is scaled by: it is null")
    return warnings


def noise_warnings(model: Model, statistics: Sequence[str]) -> list[str]:
    """Warn of statistics that are null for want of a noise precision."""
    needs = [name for name in _OF_NOISE if name in statistics]
    if not needs or model.noise_precision is not None or model.graph.noise_output is not None:
        return []
    return [
        "the model has no noise precision (it was trained without validation rows, or imported): "
        "aleatoric and total variance and predictive quantiles are null"
    ]


def sample_warnings(spec: PredictSpec, statistics: Sequence[str]) -> list[str]:
    """Warn of quantiles too far out for the number of passes."""
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
