"""Networks: a graph with parameters, evaluated into named outputs."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.graph import Graph
from engine.layers import Layer, Shape
from engine.names import plain_name
from engine.parameters import Parameters
from engine.regularizers.sites import Site

__all__ = ["Draw", "Network", "Weights", "evaluate", "needed_layers", "trainable_weights"]

#: What each layer computes with, by the layer's name and the parameter's within it.
Weights = Mapping[str, Mapping[str, Tensor]]
#: Gives what a dropout site multiplies its output by, or what a noise site adds to it, for an
#: output of that shape: (rows, …), broadcast against it.
Draw = Callable[[Site, Shape], Tensor]
_PADDING = 16  # columns
_MOST_KEPT = 64  # compiled programs
Made = TypeVar("Made")


class Network:
    """A trained network: immutable once made, shared by all who predict with it."""

    def __init__(
        self,
        graph: Graph,
        values: Mapping[str, npt.NDArray[np.float32]],
        *,
        device: torch.device | None = None,
    ) -> None:
        """`values` are the parameters by name, kept and never changed."""
        self.graph = graph
        self.device = device or torch.device("cpu")
        self.values = {name: np.asarray(value, dtype=np.float32) for name, value in values.items()}
        self.arranged: dict[tuple[str, str], npt.NDArray[np.float32]] = {}
        """Parameters as compiled programs read them: what these keep for one another."""
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    @cached_property
    def weights(self) -> Weights:
        """What each layer computes with on the general path."""
        with torch.inference_mode(False):  # whoever asks first
            return _padded_weights(self.graph, self.values, device=self.device)

    @property
    def bytes(self) -> int:
        """Memory for its parameters: as they are, and arranged for one of the two paths."""
        return 2 * sum(value.nbytes for value in self.values.values())

    def kept(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what `make` made of this network for that key; the latest are kept."""
        try:
            made: Made = self._kept[key]
            self._kept.move_to_end(key)
        except KeyError:  # also where another thread has just let go of it
            made = self._kept[key] = make()
        with contextlib.suppress(KeyError):
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return made

    def of_graph(self, graph: Graph) -> Network:
        """Return a network of the same weights, shared, whose outputs have other shapes."""
        other = copy.copy(self)
        other.graph = graph
        other._kept = OrderedDict()
        return other


def trainable_weights(graph: Graph, parameters: Parameters) -> Weights:
    """Return views of `parameters`, through which gradients flow."""
    return {layer.name: layer.bound(parameters.views) for layer in graph.layers}


def _padded_weights(
    graph: Graph, values: Mapping[str, npt.NDArray[np.float32]], *, device: torch.device
) -> Weights:
    """Copy parameters, matrices and biases with zero columns up to a multiple of 16.

    A matrix product whose columns fill whole vector registers gives a row the same bits wherever
    it stands among the others; narrower ones do not, and predictions promise it.
    """
    tensors = {
        name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in values.items()
    }
    return {
        layer.name: {
            local: _padded(layer.sources[local].rpartition(".")[2], tensor).to(device)
            for local, tensor in layer.bound(tensors).items()
        }
        for layer in graph.layers
    }


def _padded(name: str, tensor: Tensor) -> Tensor:
    """Pad weights, and vectors whose name says bias: what `engine.layers.affine` multiplies by."""
    if tensor.dim() < 2 and not (tensor.dim() == 1 and name.startswith("b")):
        return tensor.contiguous()
    columns = -(-tensor.shape[-1] // _PADDING) * _PADDING
    padded = torch.zeros((*tensor.shape[:-1], columns), dtype=torch.float32)
    padded[..., : tensor.shape[-1]] = tensor
    return padded


def evaluate(
    graph: Graph,
    weights: Weights,
    known: Mapping[str, Tensor],
    *,
    sites: Mapping[str, tuple[Site, ...]] | None = None,
    draw: Draw | None = None,
    wanted: Collection[str],
) -> dict[str, Tensor]:
    """Evaluate the layers that `wanted` outputs need and return these by name.

    `known` holds outputs (rows, *shape) as their layers compute them, before any mask: at least
    those of the input layers needed. A layer whose outputs are known is not computed again, but its
    masks are drawn. `wanted` may name ``-predrop`` and ``-prenoise`` outputs. A mask or noise acts
    on the named output once its layer has computed it: whoever reads the output reads it changed,
    and no other output changes.
    """
    sites = sites or {}
    values: dict[str, Tensor] = {}
    for layer in needed_layers(graph, wanted, known):
        if layer.out in known:
            computed = {name: known[name] for name in layer.outputs if name in known}
        else:
            own = weights[layer.name]
            if any(site.acts for name in layer.used_parameters for site in sites.get(name, ())):
                assert draw is not None
                own = _dropped_weights(layer, own, sites, draw)
            computed = layer.compute([values[name] for name in layer.inputs], own)
        for name, value in computed.items():
            for site in sites.get(name, ()):
                values.setdefault(name + site.suffix, value)
                if site.acts:
                    assert draw is not None
                    drawn = draw(site, tuple(value.shape[1:]))
                    value = value + drawn if site.adds else value * drawn
            values[name] = value
    return {name: values[name] for name in wanted}


def _dropped_weights(
    layer: Layer,
    weights: Mapping[str, Tensor],
    sites: Mapping[str, tuple[Site, ...]],
    draw: Draw,
) -> dict[str, Tensor]:
    """Multiply a layer's weights by what is drawn for them, (rows, *shape) or (1, *shape).

    The masks are arranged as the layer arranges the parameters, so that a weight which two layers
    use is dropped alike in both.
    """
    masks: dict[str, Tensor] = {}
    for name, shape in layer.used_parameters.items():
        for site in sites.get(name, ()):
            if site.acts:
                drawn = draw(site, shape)
                masks[name] = masks[name] * drawn if name in masks else drawn
    rows = max(len(mask) for mask in masks.values())
    blank = next(iter(masks.values())).new_ones(())
    arranged = torch.func.vmap(layer.bound)(
        {
            name: masks.get(name, blank).expand(rows, *shape)
            for name, shape in layer.used_parameters.items()
        }
    )
    return {
        name: _multiplied(tensor, arranged[name]) if layer.sources[name] in masks else tensor
        for name, tensor in weights.items()
    }


def _multiplied(tensor: Tensor, mask: Tensor) -> Tensor:
    """Multiply by a mask (rows, …) without the padding; one row's mask leaves no axis of rows."""
    padding = tensor.shape[-1] - mask.shape[-1]
    padded = torch.nn.functional.pad(mask, (0, padding)) if padding else mask
    return tensor * (padded[0] if len(padded) == 1 else padded)


def needed_layers(
    graph: Graph, wanted: Collection[str], known: Collection[str]
) -> tuple[Layer, ...]:
    """Return the layers to visit for `wanted`, in order; what only known ones read is left out."""
    needed = {plain_name(name) for name in wanted}
    layers: list[Layer] = []
    for layer in reversed(graph.layers):
        if needed.isdisjoint(layer.outputs):
            continue
        layers.append(layer)
        if layer.out not in known:
            needed.update(layer.inputs)
    return tuple(reversed(layers))
