"""A training request checked as a whole against its data, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.artifact import describe_graph, describe_regularizer
from engine.data.dataset import Data
from engine.data.division import divide, validation_rows, without_unseen
from engine.data.encoding import Encoding
from engine.data.lengths import each_step, stepwise
from engine.data.profile import profile, profile_rows
from engine.data.schema import Schema
from engine.data.selection import Selection, select
from engine.data.splits import Split, used_rows
from engine.errors import DataError, SpecError
from engine.evaluation import array_of
from engine.graph import Graph, build_graph, resolved_network
from engine.layers import shown
from engine.monitors import resolve_monitors
from engine.optimizers import check_optimizer, passes_per_step
from engine.pretraining import Stage, plan_stages, sampled_layers
from engine.regularizers import (
    BernoulliDropout,
    ContractivePenalty,
    Regularizer,
    resolve,
    unread_warnings,
)
from engine.spec import SequenceSpec, TrainSpec

__all__ = ["TrainingPlan", "plan_training"]

MAX_PARAMETERS = 100_000_000
_SHARE_ERROR = 1e-3
MAX_NAMES = 1000
"""Of the network's inputs, in the description of a plan."""
MAX_PAIRS = 1 << 24
"""Of rows and steps whose distances are held at once."""
MAX_DERIVATIVE_BYTES = 2 * 2**30
_STEP_SECONDS = 5e-4
_FLOPS_PER_SECOND = 2e10


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a training request comes to: the network, the rows, the encoding, the regularizers."""

    spec: TrainSpec
    selection: Selection
    split: Split
    encoding: Encoding
    graph: Graph
    regularizers: tuple[Regularizer, ...]
    stages: tuple[Stage, ...]
    """Networks that are trained before the whole one."""
    valid_rows: int
    warnings: tuple[str, ...]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.split.train) // self.spec.batch_size)

    def estimated_seconds(self) -> float:
        """Return about how long training takes on one core, all epochs run."""
        rows = len(self.split.train)
        passes = passes_per_step(self.spec.optimizer)
        networks = [(stage.graph, stage.spec.epochs) for stage in self.stages]
        return sum(
            epochs
            * (
                passes * rows * graph.flops_per_row / _FLOPS_PER_SECOND
                + self.steps_per_epoch * _STEP_SECONDS
            )
            for graph, epochs in [*networks, (self.graph, self.spec.epochs)]
        )

    def estimated_bytes(self) -> int:
        """Return about how much memory training takes beyond the process itself."""
        rows = len(self.split.train) + self.valid_rows
        widths = self.graph.numbers_per_row
        shapes = (*(layer.shape for layer in self.graph.inputs), self.graph.last.shape)
        data = 4 * rows * sum(math.prod(shape) for shape in shapes)
        sequence = self.encoding.sequence
        if sequence is not None and sequence.window is not None:
            # What overlapping windows share is held once.
            data = data * min(sequence.stride, sequence.window) // sequence.window
        # Twice: the rows themselves, and the block of them being trained on.
        return 2 * data + 5 * 4 * self.graph.parameter_count + 12 * self.spec.batch_size * widths

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON: what `?validate_only=true` answers."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "network": resolved_network(self.graph).model_dump(mode="json"),
            "layers": [
                {
                    "name": layer.name,
                    "form": layer.form,
                    "size": layer.size,
                    "activation": layer.activation,
                    "inputs": list(layer.inputs),
                    "partner": layer.partner,
                    "shape": ["rows", *layer.shape],
                    "outputs": {name: ["rows", *shape] for name, shape in layer.outputs.items()},
                    "parameters": {name: list(shape) for name, shape in layer.parameters.items()},
                }
                for layer in self.graph.layers
            ],
            **describe_graph(self.graph),
            "inputs": list(self.selection.inputs),
            "input_names": list(self.encoding.input_names[:MAX_NAMES]),
            "input_count": len(self.encoding.input_names),
            "targets": list(self.selection.targets),
            "sequence": None
            if self.encoding.sequence is None
            else self.encoding.sequence.model_dump(mode="json"),
            "classes": None if self.encoding.classes is None else list(self.encoding.classes),
            "regularizers": [describe_regularizer(i, r) for i, r in enumerate(self.regularizers)],
            "stages": [
                {
                    "layers": [layer.name for layer in stage.graph.layers],
                    "epochs": stage.spec.epochs,
                }
                for stage in self.stages
            ],
            "rows": {"train": len(self.split.train), "valid": self.valid_rows},
            "steps_per_epoch": self.steps_per_epoch,
            "estimated_memory_bytes": self.estimated_bytes(),
            "estimated_seconds": round(self.estimated_seconds(), 3),
            "warnings": list(self.warnings),
        }


def plan_training(
    spec: TrainSpec,
    data: Data,
    validation_data: Data | None = None,
    *,
    schema: Schema | None = None,
) -> TrainingPlan:
    """Check a whole request against its data; raises EngineError with a pointer into the spec.

    `validation_data` is the data set that `spec.validation` names, where it names one; `schema` the
    profile of `data`, which is made anew where it is not at hand.
    """
    schema = schema or profile(data)
    used = used_rows(data.rows, spec)
    if used is not None:
        schema = profile_rows(schema, data, used, anew=spec.sample_weight)
    selection = select(schema, spec)
    chosen, sequence, notes = divide(spec, data, selection, used)
    encoding, graph = _fit(spec, data, selection, chosen, sequence)
    chosen, unseen = without_unseen(encoding, data, chosen)
    _check_scale(encoding)
    _check_weights(spec, graph, encoding.encode_weights(data, chosen.train))
    _check_validation(encoding, data, chosen, validation_data)
    _check_losses(spec, data, selection, encoding, chosen, graph, validation_data)
    if validation_data is not None:
        _check_weights(spec, graph, encoding.encode_weights(validation_data))
    if graph.parameter_count > MAX_PARAMETERS:
        raise SpecError(
            f"the network has {graph.parameter_count} parameters; at most {MAX_PARAMETERS} are "
            "accepted",
            pointer="#/network/layers",
        )
    check_optimizer(spec.optimizer, graph)
    regularizers = resolve(spec, graph)
    stages = plan_stages(spec, graph, regularizers)
    _check_derivatives(spec, graph, regularizers)
    resolve_monitors(spec, graph)
    valid_rows = 0 if chosen.valid is None else len(chosen.valid)
    if validation_data is not None:
        valid_rows = len(validation_rows(encoding, validation_data))
    if spec.patience is not None and not valid_rows:
        raise SpecError(
            "`patience` watches the validation loss; give `validation` rows, or leave it out",
            pointer="#/patience",
        )
    _check_noise_precision(spec, selection, encoding)
    return TrainingPlan(
        spec=spec,
        selection=selection,
        split=chosen,
        encoding=encoding,
        graph=graph,
        regularizers=regularizers,
        stages=stages,
        valid_rows=valid_rows,
        warnings=(
            *notes,
            *unseen,
            *_foresight(encoding, graph),
            *_warnings(spec, graph, regularizers, valid_rows, stages),
        ),
    )


def _check_derivatives(spec: TrainSpec, graph: Graph, regularizers: Sequence[Regularizer]) -> None:
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


def _fit(
    spec: TrainSpec,
    data: Data,
    selection: Selection,
    chosen: Split,
    sequence: SequenceSpec | None,
) -> tuple[Encoding, Graph]:
    """Learn the encoding and size the network to it.

    Where the network's last layer gives a sequence, and nothing else is asked for, there is a
    target for each step: a regressor's target (rows, steps) is one number for each, not so many
    outputs, and windows of a table have the target of each of their rows.
    """

    def sized(encoding: Encoding) -> Graph:
        return build_graph(
            selection.network or spec.network,
            form=selection.form,
            input_shapes=encoding.input_shapes,
            output_shape=encoding.output_shape,
            auxiliary_shapes=[own.output_shape for own in encoding.auxiliary],
        )

    rows = chosen.train if chosen.learn is None else chosen.learn
    encoding = Encoding.fit(data, selection, rows, sequence=sequence)
    try:
        return encoding, sized(encoding)
    except SpecError:
        asked = spec.sequence is not None and spec.sequence.predict is not None
        other = None if asked else each_step(encoding) or stepwise(encoding, data, rows)
        if other is None:
            raise
        try:
            return other, sized(other)
        except SpecError:
            pass
        raise


def _foresight(encoding: Encoding, graph: Graph) -> list[str]:
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


def _check_pairs(spec: TrainSpec, graph: Graph, data: Data) -> None:
    """Refuse batches in which a discrepancy would compare more rows than fit into memory."""
    batch = min(spec.batch_size, data.rows)
    for loss in graph.losses:
        shape = graph.outputs[loss.output]
        pairs = batch**2 * (shape[0] if len(shape) == 2 else 1)
        if loss.form == "mmd" and pairs > MAX_PAIRS:
            raise SpecError(
                f"loss 'mmd' compares all rows of a batch, at each step, with each other: {pairs} "
                f"pairs for {batch} rows, and at most {MAX_PAIRS} are held; take a smaller "
                "`batch_size`",
                pointer="#/batch_size",
            )


def _check_losses(
    spec: TrainSpec,
    data: Data,
    selection: Selection,
    encoding: Encoding,
    chosen: Split,
    graph: Graph,
    validation_data: Data | None,
) -> None:
    """Refuse targets that a loss cannot compare with, and options that it cannot honour."""
    network = selection.network or spec.network
    losses = network.losses or ()
    forms: list[str | None] = [loss.form for loss in losses] or [network.loss]
    if "gll" in forms and spec.noise_precision != "fit":
        raise SpecError(
            "loss 'gll' learns the noise as an output of the network; leave `noise_precision` out",
            pointer="#/noise_precision",
        )
    _check_pairs(spec, graph, data)
    own = [index for index, loss in enumerate(losses) if loss.targets is not None]
    checked = [(encoding, "#/targets")] if selection.is_distribution else []
    for target, auxiliary, index in zip(encoding.auxiliary, selection.auxiliary, own, strict=True):
        if auxiliary.is_distribution:
            checked.append((target, f"#/network/losses/{index}/targets"))
    rows = chosen.train if chosen.valid is None else np.concatenate([chosen.train, chosen.valid])
    for target, pointer in checked:
        _check_shares(target, data, rows, pointer)
        if validation_data is not None:
            others = validation_rows(encoding, validation_data)
            _check_shares(target, validation_data, others, "#/validation/dataset")


def _check_shares(target: Encoding, data: Data, rows: npt.NDArray[np.int64], pointer: str) -> None:
    """Refuse targets that are no distributions."""
    shares = target.encode_targets(data, rows)[:]  # windows become an array
    if (shares < 0).any() or np.abs(shares.sum(axis=-1) - 1).max() > _SHARE_ERROR:
        raise DataError(
            "loss 'kl' compares distributions, but these targets are not all 0 or more, or do "
            "not add up to 1 in each row",
            pointer=pointer,
        )


def _check_weights(spec: TrainSpec, graph: Graph, weights: Any) -> None:
    """Refuse weights of steps where the loss has none, or not so many."""
    if weights is None or len(weights.shape) == 1:
        return
    sequences = (loss.output for loss in graph.losses if len(graph.outputs[loss.output]) == 2)
    for name in (graph.last.out, *sequences):
        shape = graph.outputs[name]
        if shape[:-1] != weights.shape[1:]:
            raise SpecError(
                f"{spec.sample_weight!r} weights {weights.shape[1]} steps of a row, but {name!r} "
                f"gives {shown(shape)} values a row; give one weight a row",
                pointer="#/sample_weight",
            )


def _check_scale(encoding: Encoding) -> None:
    """Refuse targets whose squared errors no float can hold."""
    scales = encoding.target_scale.ravel().tolist()
    for name, scale in zip(encoding.target_names, scales, strict=False):
        if not 1e-150 < scale < 1e150:
            raise DataError(
                f"target {name!r} is spread over {scale:.3g}, too much or too little for squared "
                "errors in its units; give it in other units",
                pointer="#/targets",
            )


def _check_validation(
    encoding: Encoding, data: Data, chosen: Split, validation_data: Data | None
) -> None:
    """Refuse validation rows that the encoding learnt on the training rows cannot read."""
    if validation_data is not None:
        try:
            first = validation_rows(encoding, validation_data)[:1]
            encoding.encode_inputs(validation_data, first, unseen="zeros")
            for target in (encoding, *encoding.auxiliary):
                target.encode_targets(validation_data)
            encoding.encode_weights(validation_data)
        except DataError as error:
            raise DataError(
                f"the validation data set does not fit: {error.detail}",
                pointer="#/validation/dataset",
            ) from error
    elif chosen.valid is not None:
        try:
            encoding.encode_weights(data, chosen.valid)
            for target in (encoding, *encoding.auxiliary):
                if target.classes is not None:
                    target.encode_targets(data, chosen.valid)
        except DataError as error:
            raise DataError(
                f"the validation rows do not fit: {error.detail}", pointer=error.pointer
            ) from error


def _check_noise_precision(spec: TrainSpec, selection: Selection, encoding: Encoding) -> None:
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


def _warnings(
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
    fits_noise = graph.form != "classifier" and graph.noise_output is None
    if not valid_rows and fits_noise and spec.noise_precision == "fit":
        warnings.append(
            "without validation rows no noise precision is fitted: aleatoric variance, predictive "
            "quantiles and log-likelihood will be null"
        )
    if any(
        isinstance(r, BernoulliDropout) and r.weight > 0 and graph.last.out in r.matched
        for r in regularizers
    ):
        warnings.append(
            f"dropout acts on {graph.last.out!r}, the prediction itself; `*:out` includes it"
        )
    return warnings
