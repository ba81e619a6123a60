"""A network's graph: layers with their shapes, outputs and parameters, before any tensor exists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.errors import SpecError
from engine.layers import FORMS, Layer, LayerRequest, Shape, layer_pointer
from engine.names import output_name, plain_name
from engine.objective import Loss, resolve_losses, told
from engine.spec import MAX_SIZE, Form, LayerSpec, NetworkSpec

__all__ = ["Graph", "build_graph", "resolved_network"]

MAX_NUMBERS = 1 << 24
"""Of one row of an output."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Layers in an order in which each reads only earlier ones."""

    form: Form
    losses: tuple[Loss, ...]
    layers: tuple[Layer, ...]

    @cached_property
    def inputs(self) -> tuple[Layer, ...]:
        """The layers where rows enter."""
        return tuple(layer for layer in self.layers if layer.form == "input")

    @property
    def loss(self) -> str:
        """The form of the loss by which the prediction itself is trained."""
        return self.main_loss.form

    @cached_property
    def main_loss(self) -> Loss:
        """The first term that compares the prediction with the job's targets."""
        return next(
            loss for loss in self.losses if loss.target is None and loss.output == self.last.out
        )

    @cached_property
    def noise_loss(self) -> Loss | None:
        """The term that learns the noise of the prediction; None where there is none."""
        learnt = (loss for loss in self.losses if loss.covar is not None and loss.target is None)
        return next((loss for loss in learnt if loss.output == self.last.out), None)

    @property
    def noise_output(self) -> str | None:
        """The output whose size is the variance of the noise, where the network learns one."""
        return None if self.noise_loss is None else self.noise_loss.covar

    @property
    def last(self) -> Layer:
        return self.layers[-1]

    @cached_property
    def hidden(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers[:-1] if layer.form != "input")

    @cached_property
    def outputs(self) -> dict[str, Shape]:
        """Shape of every output for one row, by name."""
        return {name: shape for layer in self.layers for name, shape in layer.outputs.items()}

    def size_of(self, output: str) -> int:
        """Return how many numbers a row of an output has; ``-predrop`` ones included."""
        return math.prod(self.outputs[plain_name(output)])

    @cached_property
    def parameters(self) -> dict[str, Shape]:
        """Shape of every parameter, by name."""
        return {name: shape for layer in self.layers for name, shape in layer.parameters.items()}

    @cached_property
    def parameter_count(self) -> int:
        return sum(math.prod(shape) for shape in self.parameters.values())

    @cached_property
    def read(self) -> frozenset[str]:
        """Outputs that some layer, the loss or the prediction reads."""
        by_layers = {name for layer in self.layers for name in layer.inputs}
        by_losses = {name for loss in self.losses for name in (loss.output, loss.covar) if name}
        return frozenset(by_layers | by_losses | {self.last.out})

    @cached_property
    def flops_per_row(self) -> int:
        """Floating-point operations of the products of one forward pass of one row."""
        return sum(layer.flops_per_row for layer in self.layers)

    @cached_property
    def numbers_per_row(self) -> int:
        """How many numbers all layers hold for one row."""
        return sum(
            math.prod(layer.shape) * layer.activates.numbers_per_unit for layer in self.layers
        )


def build_graph(
    spec: NetworkSpec,
    *,
    form: Form,
    input_shapes: Mapping[str, Shape] | None,
    output_shape: Shape | None,
    auxiliary_shapes: Sequence[Shape] | None = None,
) -> Graph:
    """Resolve names, shapes, partners and defaults.

    `input_shapes`, by input layer, `output_shape` and those of the losses' own targets are what a
    row of the data has; None leaves them to the spec, which must then give them. Raises SpecError,
    with a pointer, where the layers do not fit each other or the data.
    """
    layers: list[Layer] = []
    for index, name in enumerate(spec.layer_names):
        if any(name == layer.name for layer in layers):
            raise SpecError(
                f"two layers are named {name!r}; names must differ",
                pointer=layer_pointer(index, "name"),
            )
        request = _request(spec, index, name, layers, form, input_shapes, output_shape)
        request.check_keys(FORMS[request.form].takes)
        layer = FORMS[request.form].build(request)
        request.check_initial(layer)
        _check_parameter_names(layer, layers, index)
        _check_extent(layer, index)
        layers.append(layer)
    _check_last(layers[-1], len(layers) - 1, output_shape)
    losses = resolve_losses(spec, form, layers, auxiliary_shapes)
    return Graph(form=form, losses=losses, layers=tuple(layers))


def _check_parameter_names(layer: Layer, earlier: Sequence[Layer], index: int) -> None:
    """Refuse a layer that would share a parameter by its name.

    The workers' parameters of a bidirectional layer are named as those of `NAME_fw`, `NAME_bw`.
    """
    for other in earlier:
        shared = [name for name in layer.parameters if name in other.parameters]
        if shared:
            raise SpecError(
                f"layer {layer.name!r} would have the parameter {shared[0]!r}, but it is one of "
                f"layer {other.name!r} of form {other.form!r}; give another name",
                pointer=layer_pointer(index, "name"),
            )


def _check_extent(layer: Layer, index: int) -> None:
    """Refuse a layer of which not even one row fits beside the others, or that no spec can say."""
    numbers = math.prod(layer.shape)
    if numbers > MAX_NUMBERS:
        limit = f", {numbers} numbers; at most {MAX_NUMBERS} are accepted"
    elif max(layer.shape) > MAX_SIZE:
        limit = f"; at most {MAX_SIZE} of each are accepted"
    else:
        return
    raise SpecError(
        f"layer {layer.name!r} gives {_shown(layer.shape)} for each row{limit}",
        pointer=layer_pointer(index),
    )


def resolved_network(graph: Graph) -> NetworkSpec:
    """Return the spec with every size, name, activation and partner written out."""
    layers = tuple(
        LayerSpec.model_validate(
            layer.spec.model_dump(exclude_unset=True, exclude=set(_HOW_IT_BEGAN)) | _resolved(layer)
        )
        for layer in graph.layers
    )
    usual = (Loss(form=graph.loss, weight=1.0, output=graph.last.out, target=None, targets=None),)
    if graph.losses == usual:
        return NetworkSpec(form=graph.form, layers=layers, loss=graph.losses[0].form)
    return NetworkSpec(form=graph.form, layers=layers, losses=tuple(map(told, graph.losses)))


_HOW_IT_BEGAN = ("mean", "std", "sparsity", "diagonal", "radius", "initial", "columns")


def _resolved(layer: Layer) -> dict[str, Any]:
    if layer.form == "input":
        return {"form": "input", "size": layer.size, "shape": layer.shape, "name": layer.name}
    activation = layer.activation if layer.has_activation else None
    return {
        "form": layer.form,
        "size": layer.size,
        "activation": activation,
        "name": layer.name,
        "inputs": layer.inputs,
        "partner": layer.partner,
    }


def _request(
    spec: NetworkSpec,
    index: int,
    name: str,
    earlier: list[Layer],
    form: Form,
    input_shapes: Mapping[str, Shape] | None,
    output_shape: Shape | None,
) -> LayerRequest:
    layer = spec.layers[index]
    is_last = index == len(spec.layers) - 1
    if index == 0:
        _check_first(layer)
    usual = "input" if index == 0 else "softmax" if is_last and form == "classifier" else "ff"
    kind = layer.form or usual
    if kind == "input":
        if is_last:
            raise SpecError("the last layer is no input", pointer=layer_pointer(index, "form"))
        if layer.inputs is not None:
            raise SpecError(
                "an input layer takes no inputs", pointer=layer_pointer(index, "inputs")
            )
        expected = None if input_shapes is None else input_shapes.get(name)
    else:
        expected = output_shape if is_last else None
    return LayerRequest(
        spec=layer,
        index=index,
        name=name,
        form=kind,
        network_form=form,
        is_last=is_last,
        inputs={} if kind == "input" else _inputs(layer, index, earlier),
        expected=expected,
        earlier=tuple(earlier),
    )


def _check_first(layer: LayerSpec) -> None:
    if layer.form not in (None, "input"):
        raise SpecError(
            f"the first layer is the input; its form cannot be {layer.form!r}",
            pointer=layer_pointer(0, "form"),
        )
    for key in LayerSpec.model_fields:
        taken = key in ("form", "name", "size", *FORMS["input"].takes)
        if not taken and getattr(layer, key) is not None:
            raise SpecError(
                f"the first layer is the input; it takes no {key}", pointer=layer_pointer(0, key)
            )


def _inputs(layer: LayerSpec, index: int, earlier: list[Layer]) -> dict[str, Shape]:
    """Return the outputs that a layer reads, with their shapes."""
    if layer.inputs is None:
        return {earlier[-1].out: earlier[-1].shape}
    available = {name: shape for node in earlier for name, shape in node.outputs.items()}
    found: dict[str, Shape] = {}
    for position, given in enumerate(layer.inputs):
        name = given if ":" in given else output_name(given, "out")
        pointer = layer_pointer(index, f"inputs/{position}")
        if name not in available:
            raise SpecError(
                f"no earlier layer has the output {name!r}; there are {', '.join(available)}",
                pointer=pointer,
            )
        if name in found:
            raise SpecError(f"the input {name!r} is named twice", pointer=pointer)
        found[name] = available[name]
    return found


def _check_last(last: Layer, index: int, output_shape: Shape | None) -> None:
    """Refuse a network whose last output has not the shape that the data want."""
    if output_shape is None or last.shape == output_shape:
        return
    from_sequence = len(last.shape) > len(output_shape)
    advice = "; put a layer of form 'last' or 'flatten' between" if from_sequence else ""
    if len(last.shape) == len(output_shape) and last.shape[:-1] == output_shape[:-1]:
        detail = (
            f"layer {last.name!r} has {last.size} outputs, but there are {output_shape[-1]} "
            "outputs in the data"
        )
    else:
        detail = (
            f"layer {last.name!r} gives {_shown(last.shape)} for each row, but the data have "
            f"{_shown(output_shape)}{advice}"
        )
    raise SpecError(detail, pointer=layer_pointer(index))


def _shown(shape: Shape) -> str:
    names = {1: "{} values", 2: "{} steps of {} values", 3: "{} channels of {} x {}"}
    return names[len(shape)].format(*shape)
