"""Networks: a graph with parameters, evaluated into named outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.graph import Graph, LayerNode
from engine.layers.combination import combine
from engine.layers.feedforward import feedforward
from engine.names import plain_name
from engine.parameters import Parameters
from engine.regularizers.sites import Site

__all__ = ["Affine", "Draw", "Network", "evaluate", "padded_affines", "trainable_affines"]

#: Weights, one for each input, and bias of each layer that has them, by the layer's name.
Affine = Mapping[str, tuple[tuple[Tensor, ...], Tensor]]
#: Gives what a dropout site multiplies its output by, or what a noise site adds to it.
Draw = Callable[[Site], Tensor]
_PADDING = 16  # columns


class Network:
    """A trained network: immutable once made, shared by all who predict with it."""

    def __init__(
        self,
        graph: Graph,
        values: Mapping[str, npt.NDArray[np.float32]],
        *,
        device: torch.device | None = None,
    ) -> None:
        self.graph = graph
        self.device = device or torch.device("cpu")
        self.affines = padded_affines(graph, values, device=self.device)
        self.bytes = sum(
            sum(weight.nbytes for weight in weights) + bias.nbytes
            for weights, bias in self.affines.values()
        )


def trainable_affines(graph: Graph, parameters: Parameters) -> Affine:
    """Return views of `parameters`, through which gradients flow."""
    return {
        layer.name: (
            tuple(
                parameters[name].T if layer.partner else parameters[name]
                for name in _weight_names(graph, layer)
            ),
            parameters[f"{layer.name}.b"],
        )
        for layer in graph.layers
        if layer.is_affine
    }


def _weight_names(graph: Graph, layer: LayerNode) -> tuple[str, ...]:
    """Return the names of the weights that a layer uses, its own or its partner's."""
    if layer.partner is None:
        return layer.weights
    return next(node.weights for node in graph.layers if node.name == layer.partner)


def padded_affines(
    graph: Graph, values: Mapping[str, npt.NDArray[np.float32]], *, device: torch.device
) -> Affine:
    """Copy weights and biases with zero columns up to a multiple of 16.

    A matrix product whose columns fill whole vector registers gives a row the same bits wherever
    it stands among the others; narrower ones do not, and predictions promise it.
    """
    affines: dict[str, tuple[tuple[Tensor, ...], Tensor]] = {}
    for layer in graph.layers:
        if not layer.is_affine:
            continue
        columns = -(-layer.size // _PADDING) * _PADDING
        weights = []
        for name in _weight_names(graph, layer):
            own = np.asarray(values[name], dtype=np.float32)
            weight = own.T if layer.partner else own
            padded = torch.zeros((weight.shape[0], columns), dtype=torch.float32)
            padded[:, : layer.size] = torch.from_numpy(np.ascontiguousarray(weight))
            weights.append(padded.to(device))
        bias = torch.zeros(columns, dtype=torch.float32)
        bias[: layer.size] = torch.from_numpy(np.array(values[f"{layer.name}.b"]))
        affines[layer.name] = (tuple(weights), bias.to(device))
    return affines


def evaluate(
    graph: Graph,
    affines: Affine,
    known: Mapping[str, Tensor],
    *,
    sites: Mapping[str, tuple[Site, ...]] | None = None,
    draw: Draw | None = None,
    wanted: Collection[str],
) -> dict[str, Tensor]:
    """Evaluate the layers that `wanted` outputs need and return these by name.

    `known` holds outputs (rows, size) as their layers compute them, before any mask: at least the
    input layer's. A layer whose outputs are known is not computed again, but its masks are drawn.
    `wanted` may name ``-predrop`` and ``-prenoise`` outputs. A mask or noise acts on the named
    output once its layer has computed it: whoever reads the output reads it changed, and no other
    output changes.
    """
    sites = sites or {}
    values: dict[str, Tensor] = {}
    for layer in needed_layers(graph, wanted, known):
        if layer.out in known:
            computed = {name: known[name] for name in layer.outputs if name in known}
        else:
            computed = _compute(layer, [values[name] for name in layer.inputs], affines)
        for name, value in computed.items():
            for site in sites.get(name, ()):
                values.setdefault(name + site.suffix, value)
                if site.level > 0:
                    assert draw is not None
                    drawn = draw(site)
                    value = value * drawn if site.kind == "dropout" else value + drawn
            values[name] = value
    return {name: values[name] for name in wanted}


def _compute(layer: LayerNode, inputs: Sequence[Tensor], affines: Affine) -> dict[str, Tensor]:
    if not layer.is_affine:
        return combine(layer, inputs)
    weights, bias = affines[layer.name]
    return feedforward(layer, inputs, weights, bias)


def needed_layers(
    graph: Graph, wanted: Collection[str], known: Collection[str]
) -> tuple[LayerNode, ...]:
    """Return the layers to visit for `wanted`, in order; what only known ones read is left out."""
    needed = {plain_name(name) for name in wanted}
    layers: list[LayerNode] = []
    for layer in reversed(graph.layers):
        if needed.isdisjoint(layer.outputs):
            continue
        layers.append(layer)
        if layer.out not in known:
            needed.update(layer.inputs)
    return tuple(reversed(layers))
