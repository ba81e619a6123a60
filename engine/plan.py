"""A training request checked as a whole against its data, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.auxiliary import with_auxiliary
from engine.data.dataset import Data
from engine.data.division import divide, validation_rows, without_unseen
from engine.data.encoding import Encoding
from engine.data.lengths import each_step, fitting, made_anew, stepwise
from engine.data.options import OptionError, option_pointer
from engine.data.profile import profile, profile_rows
from engine.data.reservation import reserve
from engine.data.schema import Schema
from engine.data.selection import Selection, select, uncategorised
from engine.data.splits import Split, used_rows
from engine.descriptions import describe_graph, describe_regularizer
from engine.errors import DataError, SpecError
from engine.graph import Graph, build_graph, resolved_network
from engine.layers import Shape
from engine.loading import Loading, plan_loading
from engine.loss_checks import check_losses, check_targets, check_weights, describe_losses
from engine.monitors import resolve_monitors
from engine.optimizers import check_optimizer, passes_per_step
from engine.plan_checks import (
    check_calibration,
    check_derivatives,
    check_finding,
    check_noise_precision,
    check_precision,
    check_scale,
    foresight,
    warnings_of,
)
from engine.pretraining import Stage, plan_stages
from engine.regularizers import Regularizer, resolve
from engine.schedules import schedule_of
from engine.spec import PlateauSpec, SequenceSpec, TrainSpec

__all__ = ["TrainingPlan", "plan_training", "vary"]

Rows = npt.NDArray[np.int64]

MAX_PARAMETERS = 100_000_000
MAX_NAMES = 1000
"""Of the network's inputs, in the description of a plan."""
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
    calibration_rows: int
    loading: Loading
    """How the rows come to the network."""
    notes: tuple[str, ...]
    """Warnings of what the network reads, and how."""
    warnings: tuple[str, ...]
    """All of them."""

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
        widths = self.graph.numbers_per_row
        # Twice: the rows themselves, and the block of them being trained on.
        data = 2 * self.loading.held_bytes(self.spec.batch_size)
        return data + 5 * 4 * self.graph.parameter_count + 12 * self.spec.batch_size * widths

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
            "losses": describe_losses(self.graph, self.selection, self.encoding),
            "regularizers": [describe_regularizer(i, r) for i, r in enumerate(self.regularizers)],
            "stages": [
                {
                    "layers": [layer.name for layer in stage.graph.layers],
                    "epochs": stage.spec.epochs,
                }
                for stage in self.stages
            ],
            "loading": self.loading.describe(),
            "rows": {
                "train": len(self.split.train),
                "valid": self.valid_rows,
                **({} if self.spec.calibrate is None else {"calibration": self.calibration_rows}),
            },
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
    calibration_data: Data | None = None,
    reserved: Rows | None = None,
    schema: Schema | None = None,
    resident_bytes: int | None = None,
) -> TrainingPlan:
    """Check a whole request against its data; raises EngineError with a pointer into the spec.

    `validation_data` and `calibration_data` are the data sets that `spec.validation` and
    `spec.calibrate` name, where they name one; `reserved` the calibration rows where they have been
    chosen before; `schema` the profile of `data`, which is made anew where it is not at hand. Rows
    that come to more than `resident_bytes` once they are encoded are read by blocks.
    """
    whole = schema or profile(data)
    selection, used = _selected(spec, data, whole)
    held = reserve(spec, data, selection, used, reserved)
    rest = spec if held is None else held.rest
    if held is not None:
        selection, used = _selected(rest, data, whole)
    chosen, sequence, notes = divide(rest, data, selection, used)
    if held is not None:
        chosen = replace(chosen, calibration=held.calibration, reserved=held.rows)
    encoding, graph = _fit(spec, data, selection, chosen, sequence)
    chosen, unseen = without_unseen(encoding, data, chosen)
    check_scale(encoding)
    weights = encoding.encode_weights(data, chosen.train)
    check_weights(spec, graph, weights)
    _check_measured(selection, encoding, data, chosen, validation_data, calibration_data)
    if validation_data is not None:
        check_weights(spec, graph, encoding.encode_weights(validation_data))
    if graph.parameter_count > MAX_PARAMETERS:
        raise SpecError(
            f"the network has {graph.parameter_count} parameters; at most {MAX_PARAMETERS} are "
            "accepted",
            pointer="#/network/layers",
        )
    valid_rows = 0 if chosen.valid is None else len(chosen.valid)
    if validation_data is not None:
        valid_rows = len(validation_rows(encoding, validation_data))
    calibration_rows = 0 if chosen.calibration is None else len(chosen.calibration)
    if calibration_data is not None:
        calibration_rows = len(validation_rows(encoding, calibration_data))
    loading = plan_loading(
        graph,
        encoding,
        rows=len(chosen.train) + valid_rows,
        weight_numbers=0 if weights is None else math.prod(weights.shape[1:]),
        batch_size=spec.batch_size,
        resident_bytes=resident_bytes,
    )
    bare = TrainingPlan(
        spec=spec,
        selection=selection,
        split=chosen,
        encoding=encoding,
        graph=graph,
        regularizers=(),
        stages=(),
        valid_rows=valid_rows,
        calibration_rows=calibration_rows,
        loading=loading,
        notes=(
            *notes,
            *(
                f"column {name!r} has 1000 or more different texts, too many for categories, and "
                "is no input"
                for name in uncategorised(whole, spec)
                if name not in selection.targets
            ),
            *unseen,
            *foresight(encoding, graph),
        ),
        warnings=(),
    )
    return vary(bare, spec, data)


def vary(plan: TrainingPlan, spec: TrainSpec, data: Data) -> TrainingPlan:
    """Return the plan of the same network on the same rows, trained as `spec` says.

    `spec` differs from the plan's in nothing that decides network or rows. Raises EngineError with
    a pointer into `spec`.
    """
    graph = plan.graph
    check_losses(spec, graph, plan.selection, plan.encoding, data, plan.split)
    check_optimizer(spec.optimizer, graph)
    check_finding(spec)
    check_precision(spec)
    regularizers = resolve(spec, graph)
    stages = plan_stages(spec, graph, regularizers)
    check_derivatives(spec, graph, regularizers)
    resolve_monitors(spec, graph)
    if spec.patience is not None and not plan.valid_rows:
        raise SpecError(
            "`patience` watches the validation loss; give `validation` rows, or leave it out",
            pointer="#/patience",
        )
    if isinstance(schedule_of(spec.optimizer), PlateauSpec) and not plan.valid_rows:
        raise SpecError(
            "the schedule 'plateau' watches the validation loss; give `validation` rows (a refit "
            "has none), or take another schedule",
            pointer="#/optimizer/schedule/form",
        )
    check_noise_precision(spec, plan.selection, plan.encoding)
    check_calibration(spec, graph, regularizers, plan.calibration_rows)
    return replace(
        plan,
        spec=spec,
        regularizers=regularizers,
        stages=stages,
        warnings=(
            *plan.notes,
            *warnings_of(spec, graph, regularizers, plan.valid_rows, stages),
        ),
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

    rows = chosen.train if chosen.learn is None else chosen.learn

    def sized(encoding: Encoding) -> tuple[Encoding, Graph]:
        def built(auxiliary: Sequence[Shape] | None) -> Graph:
            return build_graph(
                selection.network or spec.network,
                form=selection.form,
                input_shapes=encoding.input_shapes,
                output_shape=encoding.output_shape,
                auxiliary_shapes=auxiliary,
            )

        graph = built(None)
        if not encoding.auxiliary:
            return encoding, graph
        read = [graph.outputs[loss.output] for loss in graph.losses if loss.target is not None]
        fitted = tuple(
            fitting(own, shape, data, rows)
            for own, shape in zip(encoding.auxiliary, read, strict=True)
        )
        return made_anew(encoding, auxiliary=fitted), built([own.output_shape for own in fitted])

    try:
        encoding = Encoding.fit(data, selection, rows, sequence=sequence)
    except OptionError as error:
        raise SpecError(error.detail, pointer=option_pointer(spec, error)) from error
    encoding = with_auxiliary(encoding, data, selection, rows)
    try:
        return sized(encoding)
    except SpecError:
        asked = spec.sequence is not None and spec.sequence.predict is not None
        other = None if asked else each_step(encoding) or stepwise(encoding, data, rows)
        if other is None:
            raise
        try:
            return sized(other)
        except SpecError:
            pass
        raise


def _selected(spec: TrainSpec, data: Data, schema: Schema) -> tuple[Selection, Rows | None]:
    """Resolve names against the rows that the job reads; return these, too."""
    used = used_rows(data.rows, spec)
    if used is not None:
        schema = profile_rows(schema, data, used, anew=spec.sample_weight)
    return select(schema, spec), used


def _check_measured(
    selection: Selection,
    encoding: Encoding,
    data: Data,
    chosen: Split,
    validation_data: Data | None,
    calibration_data: Data | None,
) -> None:
    """Refuse rows that the encoding learnt on the training rows cannot read."""
    for what, key, other, rows in (
        ("validation", "validation", validation_data, chosen.valid),
        ("calibration", "calibrate", calibration_data, chosen.calibration),
    ):
        if other is not None:
            try:
                _check_fit(selection, encoding, other, None)
            except DataError as error:
                raise DataError(
                    f"the {what} data set does not fit: {error.detail}", pointer=f"#/{key}/dataset"
                ) from error
        elif rows is not None:
            try:
                _check_fit(selection, encoding, data, rows)
            except DataError as error:
                raise DataError(
                    f"the {what} rows do not fit: {error.detail}", pointer=error.pointer
                ) from error


def _check_fit(selection: Selection, encoding: Encoding, data: Data, rows: Rows | None) -> None:
    """Refuse rows, None for all of another data set, that cannot be read."""
    if rows is None:
        everything = validation_rows(encoding, data)
        encoding.encode_inputs(data, everything[:1], unseen="zeros")
        encoding.check_inputs(data, everything)
        check_targets(selection, encoding, data, None)
        encoding.encode_weights(data)
        return
    encoding.check_inputs(data, rows)
    encoding.encode_weights(data, rows)
    check_targets(selection, encoding, data, rows)
