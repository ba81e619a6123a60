"""What is refused, and what is warned of, once a training request meets its network and data."""

from __future__ import annotations

from collections.abc import Sequence

from engine.calibration_checks import check_rows, check_scores
from engine.data.encoding import Encoding
from engine.data.selection import Selection
from engine.errors import DataError, SpecError
from engine.graph import Graph
from engine.loss_checks import noise_warnings
from engine.names import array_of
from engine.pretraining import Stage
from engine.regularizers import (
    BernoulliDropout,
    ContractivePenalty,
    Regularizer,
    perturbations,
    unread_warnings,
)
from engine.sampled_weights import sampled_layers
from engine.spec import TrainSpec
from engine.spec.optimizers import finds_rate

__all__ = [
    "check_calibration",
    "check_derivatives",
    "check_noise_precision",
    "check_precision",
    "check_scale",
    "foresight",
    "warnings_of",
]

MAX_DERIVATIVE_BYTES = 2 * 2**30


def check_derivatives(spec: TrainSpec, graph: Graph, regularizers: Sequence[Regularizer]) -> None:
    """Refuse a contractive penalty whose derivatives would not fit into memory."""
    explicit = len(regularizers) - len(spec.regularizers or ())
    for index, regularizer in enumerate(regularizers):
        if not isinstance(regularizer, ContractivePenalty):
            continue
        size = regularizer.jacobian_bytes(graph, spec.batch_size)
        if size > MAX_DERIVATIVE_BYTES:
            raise SpecError(
                f"the derivatives of {', '.join(regularizer.matched)} by the inputs take about "
                f"{size / 2**30:.3g} GiB for a batch of {spec.batch_size} rows; at most "
                f"{MAX_DERIVATIVE_BYTES / 2**30:g} are used: match fewer outputs, or take a "
                "smaller `batch_size`",
                pointer=f"#/regularizers/{index - explicit}",
            )


def check_precision(spec: TrainSpec) -> None:
    """Refuse 16 bits for an optimizer that divides by second derivatives."""
    if spec.precision != "float32" and spec.optimizer.form == "esgd":
        raise SpecError(
            f"the optimizer 'esgd' needs second derivatives, and {spec.precision} is too coarse "
            "for them; take 'float32', or another optimizer",
            pointer="#/precision",
        )


def check_finding(spec: TrainSpec) -> None:
    """Refuse to find a learning rate where there is more than one network to find it for."""
    staged = spec.training is not None and spec.training.form != "sample"
    if finds_rate(spec.optimizer) and staged:
        raise SpecError(
            "'find' looks for the learning rate of one network, and `training` has several trained "
            "in stages; give a number, or leave `training` out",
            pointer="#/optimizer/learning_rate",
        )


def check_scale(encoding: Encoding) -> None:
    """Refuse targets whose squared errors no float can hold."""
    scales = encoding.target_scale.ravel().tolist()
    for name, scale in zip(encoding.target_names, scales, strict=False):
        if not 1e-150 < scale < 1e150:
            raise DataError(
                f"target {name!r} is spread over {scale:.3g}, too much or too little for squared "
                "errors in its units; give it in other units",
                pointer="#/targets",
            )


def check_noise_precision(spec: TrainSpec, selection: Selection, encoding: Encoding) -> None:
    given = spec.noise_precision
    if given == "fit":
        return
    if selection.form == "classifier":
        raise SpecError(
            "a classifier has no noise precision; leave `noise_precision` out",
            pointer="#/noise_precision",
        )
    if not isinstance(given, dict):
        return
    names = encoding.target_names
    taken = {*names, *selection.targets}
    unknown = [name for name in given if name not in taken]
    missing = [name for name in names if name not in given and array_of(name) not in given]
    if unknown or missing:
        raise SpecError(
            f"`noise_precision` by target names each of them: {', '.join(names)}; "
            f"not among them: {', '.join(unknown) or 'none'}; "
            f"missing: {', '.join(missing) or 'none'}",
            pointer="#/noise_precision",
        )


def check_calibration(
    spec: TrainSpec, graph: Graph, regularizers: Sequence[Regularizer], rows: int
) -> None:
    """Refuse what cannot be calibrated: by too few rows, or for passes that the network has not."""
    asked = spec.calibrate
    if asked is None:
        return
    key = next(n for n in ("fraction", "rows", "dataset") if getattr(asked, n) is not None)
    check_scores(graph, perturbations(regularizers), asked, "#/calibrate")
    check_rows(graph, asked, rows, f"#/calibrate/{key}")


def warnings_of(
    spec: TrainSpec,
    graph: Graph,
    regularizers: Sequence[Regularizer],
    valid_rows: int,
    stages: Sequence[Stage],
) -> list[str]:
    warnings = unread_warnings(regularizers, graph)
    if spec.training is not None and spec.training.form != "sample" and not stages:
        warnings.append(
            f"`training` of form {spec.training.form!r} has no stage before the whole network, "
            "which has one hidden layer with parameters at most"
        )
    if spec.training is not None and spec.training.form == "sample" and not sampled_layers(graph):
        warnings.append(
            "`training` of form 'sample' changes nothing here: no hidden layer of form 'ff' reads "
            "one input"
        )
    is_fitted = graph.form != "classifier" and graph.noise_output is None
    if not valid_rows and is_fitted and spec.noise_precision == "fit":
        warnings.append(
            "without validation rows no noise precision is fitted: aleatoric variance, predictive "
            "quantiles and log-likelihood will be null"
        )
    warnings += noise_warnings(graph, regularizers)
    if any(
        isinstance(r, BernoulliDropout) and r.weight > 0 and graph.last.out in r.matched
        for r in regularizers
    ):
        warnings.append(
            f"dropout acts on {graph.last.out!r}, the prediction itself; `*:out` includes it"
        )
    return warnings


def foresight(encoding: Encoding, graph: Graph) -> list[str]:
    """Warn of layers that read later steps, where these hold the targets of earlier ones."""
    sequence = encoding.sequence
    if sequence is None or sequence.predict != "each" or not sequence.horizon:
        return []
    targets = {encoding.target, *(field.name for field in encoding.targets)}
    if targets.isdisjoint(field.name for field in encoding.inputs):
        return []
    return [
        f"layer {layer.name!r} also reads the steps after a step, and these hold its target: the "
        'network can copy it; take `"predict": "last"`, a layer of one direction, or other `inputs`'
        for layer in graph.layers
        if layer.form == "bidirectional"
    ]
