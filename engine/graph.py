"""A network's graph: layers with their sizes, outputs and parameters, before any tensor exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from engine.errors import SpecError
from engine.names import output_name, parameter_name
from engine.spec import Form, LayerSpec, NetworkSpec

__all__ = ["Graph", "LayerNode", "build_graph", "layer_pointer"]

LOSSES: Mapping[str, tuple[str, ...]] = {
    "regressor": ("mse", "mae"),
    "autoencoder": ("mse", "mae"),
    "classifier": ("xe",),
}


@dataclass(frozen=True, kw_only=True)
class LayerNode:
    """One resolved layer."""

    name: str
    form: str
    size: int
    """Width of its outputs."""
    activation: str
    inputs: tuple[str, ...] = ()
    """Names of the outputs it reads."""
    input_size: int = 0
    partner: str | None = None
    """For a tied layer: the layer whose weights it uses, transposed."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs, in the order they are computed."""
        kinds = ("out",) if self.form == "input" else ("pre", "out")
        return tuple(output_name(self.name, kind) for kind in kinds)

    @property
    def out(self) -> str:
        return output_name(self.name, "out")

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters it owns, by name; a weight is inputs x outputs."""
        if self.form == "input":
            return {}
        shapes: dict[str, tuple[int, ...]] = {}
        if self.form != "tied":
            shapes[parameter_name(self.name, "w")] = (self.input_size, self.size)
        shapes[parameter_name(self.name, "b")] = (self.size,)
        return shapes


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Layers in an order in which each reads only earlier ones."""

    form: Form
    loss: str
    layers: tuple[LayerNode, ...]

    @property
    def first(self) -> LayerNode:
        return self.layers[0]

    @property
    def last(self) -> LayerNode:
        return self.layers[-1]

    @property
    def hidden(self) -> tuple[LayerNode, ...]:
        return self.layers[1:-1]

    @cached_property
    def outputs(self) -> dict[str, int]:
        """Width of every output, by name."""
        return {name: layer.size for layer in self.layers for name in layer.outputs}

    @cached_property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, by name."""
        return {name: shape for layer in self.layers for name, shape in layer.parameters.items()}

    @cached_property
    def parameter_count(self) -> int:
        count = 0
        for shape in self.parameters.values():
            size = 1
            for dimension in shape:
                size *= dimension
            count += size
        return count

    @cached_property
    def read(self) -> frozenset[str]:
        """Outputs that some layer, the loss or the prediction reads."""
        return frozenset(name for layer in self.layers for name in layer.inputs) | {self.last.out}

    def flops_per_row(self) -> int:
        """Floating-point operations of the products of one forward pass of one row."""
        return sum(2 * layer.input_size * layer.size for layer in self.layers)


def layer_pointer(index: int, field: str | None = None) -> str:
    base = f"#/network/layers/{index}"
    return base if field is None else f"{base}/{field}"


def build_graph(
    spec: NetworkSpec, *, form: Form, input_size: int | None, output_size: int | None
) -> Graph:
    """Resolve names, sizes, partners and defaults.

    `input_size` and `output_size` are what the data have; None leaves them to the spec, which must
    then give them. Raises SpecError, with a pointer, where the layers do not fit each other or the
    data.
    """
    loss = spec.loss or LOSSES[form][0]
    if loss not in LOSSES[form]:
        raise SpecError(
            f"loss {loss!r} does not fit a {form}, which takes {' or '.join(LOSSES[form])}",
            pointer="#/network/loss",
        )
    nodes = [_input_node(spec.layers[0], input_size)]
    for index in range(1, len(spec.layers)):
        nodes.append(_node(spec, index, nodes, form=form, output_size=output_size))
    return Graph(form=form, loss=loss, layers=tuple(nodes))


def _input_node(layer: LayerSpec, input_size: int | None) -> LayerNode:
    if layer.form not in (None, "input"):
        raise SpecError(
            f"the first layer is the input; its form cannot be {layer.form!r}",
            pointer=layer_pointer(0, "form"),
        )
    for field in ("activation", "partner"):
        if getattr(layer, field) is not None:
            raise SpecError(
                f"the first layer is the input; it takes no {field}",
                pointer=layer_pointer(0, field),
            )
    size = _agreed_size(layer.size, input_size, pointer=layer_pointer(0, "size"), what="inputs")
    return LayerNode(name=layer.name or "in", form="input", size=size, activation="linear")


def _node(
    spec: NetworkSpec, index: int, nodes: list[LayerNode], *, form: Form, output_size: int | None
) -> LayerNode:
    layer = spec.layers[index]
    is_last = index == len(spec.layers) - 1
    name = layer.name or ("out" if is_last else f"hid{index}")
    if any(name == node.name for node in nodes):
        raise SpecError(
            f"two layers are named {name!r}; names must differ",
            pointer=layer_pointer(index, "name"),
        )
    kind = layer.form or ("softmax" if is_last and form == "classifier" else "ff")
    if kind == "input":
        raise SpecError(
            "only the first layer can be an input", pointer=layer_pointer(index, "form")
        )
    if layer.partner is not None and kind != "tied":
        raise SpecError(
            "`partner` is for layers of form 'tied'", pointer=layer_pointer(index, "partner")
        )
    activation = _activation(layer, index, kind, is_last=is_last, form=form)
    before = nodes[-1]
    partner = None
    if kind == "tied":
        partner_node = _partner(layer, index, nodes)
        if before.size != partner_node.size:
            raise SpecError(
                f"layer {name!r} is tied to {partner_node.name!r}, so it reads {partner_node.size} "
                f"values, but {before.out!r} has {before.size}",
                pointer=layer_pointer(index),
            )
        partner = partner_node.name
        size = _agreed_size(
            layer.size,
            partner_node.input_size,
            pointer=layer_pointer(index, "size"),
            what=f"inputs of its partner {partner!r}",
        )
        if is_last:
            _agreed_size(size, output_size, pointer=layer_pointer(index), what="outputs")
    elif is_last:
        size = _agreed_size(
            layer.size, output_size, pointer=layer_pointer(index, "size"), what="outputs"
        )
    elif layer.size is None:
        raise SpecError(
            f"layer {name!r} needs a `size`; only the first and the last are inferred",
            pointer=layer_pointer(index, "size"),
        )
    else:
        size = layer.size
    return LayerNode(
        name=name,
        form=kind,
        size=size,
        activation=activation,
        inputs=(before.out,),
        input_size=before.size,
        partner=partner,
    )


def _activation(layer: LayerSpec, index: int, kind: str, *, is_last: bool, form: Form) -> str:
    needs_softmax = kind == "softmax" or (is_last and form == "classifier")
    if needs_softmax:
        if layer.activation not in (None, "softmax"):
            raise SpecError(
                f"a classifier layer's activation is softmax, got {layer.activation!r}",
                pointer=layer_pointer(index, "activation"),
            )
        return "softmax"
    return layer.activation or ("linear" if is_last else "relu")


def _partner(layer: LayerSpec, index: int, nodes: list[LayerNode]) -> LayerNode:
    """Find a tied layer's partner: the named one, else the one it mirrors.

    Walking back, each tied layer must first be matched by an untied one, as in theanets, so that
    the layers of a deep autoencoder pair up like brackets.
    """
    owners = [node for node in nodes if node.form not in ("input", "tied")]
    if layer.partner is not None:
        for node in owners:
            if node.name == layer.partner:
                return node
        raise SpecError(
            f"there is no earlier layer {layer.partner!r} with weights to tie to; "
            f"these exist: {', '.join(node.name for node in owners) or 'none'}",
            pointer=layer_pointer(index, "partner"),
        )
    open_ties = 1
    for node in reversed(nodes[1:]):
        open_ties += 1 if node.form == "tied" else -1
        if open_ties == 0:
            return node
    raise SpecError(
        "a tied layer needs an earlier layer with weights to mirror; none is left",
        pointer=layer_pointer(index),
    )


def _agreed_size(given: int | None, inferred: int | None, *, pointer: str, what: str) -> int:
    if given is None and inferred is None:
        raise SpecError(
            "a `size` is needed here; there are no data to infer it from", pointer=pointer
        )
    if given is not None and inferred is not None and given != inferred:
        raise SpecError(
            f"`size` is {given}, but there are {inferred} {what}; give {inferred} or null",
            pointer=pointer,
        )
    size = given if given is not None else inferred
    assert size is not None
    return size
