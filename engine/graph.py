"""A network's graph: layers with their sizes, outputs and parameters, before any tensor exists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    input_sizes: tuple[int, ...] = ()
    partner: str | None = None
    """For a tied layer: the layer whose weights it uses, transposed."""
    initial: LayerSpec | None = field(default=None, compare=False)
    """Where it says how its weights begin."""

    @property
    def is_affine(self) -> bool:
        """Whether it multiplies by weights: of its own, or a partner's."""
        return self.form in ("ff", "softmax", "tied")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs, in the order they are computed."""
        kinds = ("pre", "out") if self.is_affine else ("out",)
        return tuple(output_name(self.name, kind) for kind in kinds)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of its own weights, one for each input."""
        if self.form not in ("ff", "softmax"):
            return ()
        if len(self.inputs) == 1:
            return (parameter_name(self.name, "w"),)
        return tuple(parameter_name(self.name, f"w_{name}") for name in self.inputs)

    @property
    def out(self) -> str:
        return output_name(self.name, "out")

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters it owns, by name; a weight is inputs x outputs."""
        shapes: dict[str, tuple[int, ...]] = {
            name: (size, self.size)
            for name, size in zip(self.weights, self.input_sizes, strict=False)
        }
        if self.is_affine:
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
        return sum(
            2 * sum(layer.input_sizes) * layer.size for layer in self.layers if layer.is_affine
        )


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
    for name in ("activation", "partner", "inputs", "mean", "std", "sparsity", "diagonal"):
        if getattr(layer, name) is not None:
            raise SpecError(
                f"the first layer is the input; it takes no {name}",
                pointer=layer_pointer(0, name),
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
    _check_fields(layer, index, kind)
    inputs = _inputs(layer, index, nodes)
    node = LayerNode(
        name=name,
        form=kind,
        size=0,
        activation=_activation(layer, index, kind, is_last=is_last, form=form),
        inputs=tuple(inputs),
        input_sizes=tuple(inputs.values()),
        initial=layer,
    )
    expected = output_size if is_last else None
    if kind == "tied":
        return _tied(node, index, nodes, expected)
    if kind in _COMBINATIONS:
        return _combination(node, index, expected)
    if layer.size is None and not is_last:
        raise SpecError(
            f"layer {name!r} needs a `size`; only the first and the last are inferred",
            pointer=layer_pointer(index, "size"),
        )
    size = _agreed_size(layer.size, expected, pointer=layer_pointer(index, "size"), what="outputs")
    return replace(node, size=size)


_COMBINATIONS = ("product", "concatenate", "add")


def _check_fields(layer: LayerSpec, index: int, kind: str) -> None:
    """Refuse fields that mean nothing for a layer of this form."""
    if kind == "input":
        raise SpecError(
            "only the first layer can be an input", pointer=layer_pointer(index, "form")
        )
    if layer.partner is not None and kind != "tied":
        raise SpecError(
            "`partner` is for layers of form 'tied'", pointer=layer_pointer(index, "partner")
        )
    if kind in _COMBINATIONS and layer.activation is not None:
        raise SpecError(
            f"a layer of form {kind!r} has no activation; put a layer of form 'ff' behind it",
            pointer=layer_pointer(index, "activation"),
        )
    if kind not in ("ff", "softmax"):
        for name in ("mean", "std", "sparsity", "diagonal"):
            if getattr(layer, name) is not None:
                raise SpecError(
                    f"a layer of form {kind!r} has no weights of its own to begin with",
                    pointer=layer_pointer(index, name),
                )


def _inputs(layer: LayerSpec, index: int, nodes: list[LayerNode]) -> dict[str, int]:
    """Return the outputs that a layer reads, with their sizes."""
    if layer.inputs is None:
        return {nodes[-1].out: nodes[-1].size}
    available = {name: node.size for node in nodes for name in node.outputs}
    found: dict[str, int] = {}
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


def _tied(node: LayerNode, index: int, nodes: list[LayerNode], expected: int | None) -> LayerNode:
    assert node.initial is not None
    partner = _partner(node.initial, index, nodes)
    if len(partner.inputs) > 1 or len(node.inputs) > 1:
        raise SpecError(
            "a tied layer and its partner read one input each", pointer=layer_pointer(index)
        )
    if node.input_sizes[0] != partner.size:
        raise SpecError(
            f"layer {node.name!r} is tied to {partner.name!r}, so it reads {partner.size} "
            f"values, but {node.inputs[0]!r} has {node.input_sizes[0]}",
            pointer=layer_pointer(index),
        )
    size = _agreed_size(
        node.initial.size,
        partner.input_sizes[0],
        pointer=layer_pointer(index, "size"),
        what=f"inputs of its partner {partner.name!r}",
    )
    _agreed_size(size, expected, pointer=layer_pointer(index), what="outputs")
    return replace(node, size=size, partner=partner.name)


def _combination(node: LayerNode, index: int, expected: int | None) -> LayerNode:
    """Size a layer that joins its inputs without weights."""
    assert node.initial is not None
    sizes = node.input_sizes
    if node.form != "concatenate" and len(set(sizes)) > 1:
        raise SpecError(
            f"layer {node.name!r} of form {node.form!r} reads outputs of one size, not of "
            + ", ".join(f"{s} ({n})" for n, s in zip(node.inputs, sizes, strict=True)),
            pointer=layer_pointer(index, "inputs"),
        )
    joined = sum(sizes) if node.form == "concatenate" else sizes[0]
    size = _agreed_size(
        node.initial.size,
        joined,
        pointer=layer_pointer(index, "size"),
        what="values in its inputs",
    )
    _agreed_size(size, expected, pointer=layer_pointer(index), what="outputs")
    return replace(node, size=size)


def _activation(layer: LayerSpec, index: int, kind: str, *, is_last: bool, form: Form) -> str:
    if kind in _COMBINATIONS:
        if is_last and form == "classifier":
            raise SpecError(
                "a classifier's last layer has weights and softmax; put one behind this",
                pointer=layer_pointer(index, "form"),
            )
        return "linear"
    if kind == "softmax" or (is_last and form == "classifier"):
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
    owners = [node for node in nodes if node.weights]
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
    for node in reversed([node for node in nodes[1:] if node.is_affine]):
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
