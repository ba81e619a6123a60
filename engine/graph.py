"""A network's graph: layers with their shapes, outputs and parameters, before any tensor exists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engine.errors import SpecError
from engine.layers import FORMS, Layer, LayerRequest, Shape, layer_pointer
from engine.names import output_name, plain_name
from engine.spec import MAX_SIZE, Form, LayerSpec, NetworkSpec

__all__ = ["Graph", "build_graph", "resolved_network"]

LOSSES: Mapping[str, tuple[str, ...]] = {
    "regressor": ("mse", "mae"),
    "autoencoder": ("mse", "mae"),
    "classifier": ("xe",),
}

MAX_NUMBERS = 1 << 24
"""Of one row of an output."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Layers in an order in which each reads only earlier ones."""

    form: Form
    loss: str
    layers: tuple[Layer, ...]

    @cached_property
    def inputs(self) -> tuple[Layer, ...]:
        """The layers where rows enter."""
        return tuple(layer for layer in self.layers if layer.form == "input")

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
        return frozenset(name for layer in self.layers for name in layer.inputs) | {self.last.out}

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
) -> Graph:
    """Resolve names, shapes, partners and defaults.

    `input_shapes`, by input layer, and `output_shape` are what a row of the data has; None leaves
    them to the spec, which must then give them. Raises SpecError, with a pointer, where the layers
    do not fit each other or the data.
    """
    loss = spec.loss or LOSSES[form][0]
    if loss not in LOSSES[form]:
        raise SpecError(
            f"loss {loss!r} does not fit a {form}, which takes {' or '.join(LOSSES[form])}",
            pointer="#/network/loss",
        )
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
        _check_extent(layer, index)
        layers.append(layer)
    graph = Graph(form=form, loss=loss, layers=tuple(layers))
    _check_last(graph, output_shape)
    return graph


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
    return NetworkSpec(form=graph.form, layers=layers, loss=graph.loss)


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


def _check_last(graph: Graph, output_shape: Shape | None) -> None:
    """Refuse a network whose last output has not the shape that the data want."""
    last = graph.last
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
    raise SpecError(detail, pointer=layer_pointer(len(graph.layers) - 1))


def _shown(shape: Shape) -> str:
    names = {1: "{} values", 2: "{} steps of {} values", 3: "{} channels of {} x {}"}
    return names[len(shape)].format(*shape)
