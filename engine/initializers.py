"""Initial parameters, each from a random stream of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from engine.graph import Graph
from engine.layers import Layer
from engine.names import parameter_name
from engine.streams import generator

__all__ = ["initial_parameters"]

_RECTIFIERS = ("relu", "rect:max", "elu", "gelu", "silu")

Values = npt.NDArray[np.float32]


def initial_parameters(graph: Graph, *, seed: int) -> dict[str, Values]:
    """Draw every parameter of `graph`: weights by name and seed, vectors zero.

    Weights of a layer that rectifies have standard deviation sqrt(2 / inputs) (He et al. 2015),
    the others sqrt(2 / (inputs + outputs)) (Glorot & Bengio 2010), where the layer's own `std`,
    `mean`, `sparsity`, `diagonal` and `radius` do not say otherwise; inputs are counted over all
    that the layer reads. Some forms begin some parameters in a way of their own.
    """
    values: dict[str, Values] = {}
    for layer in graph.layers:
        for local, shape in layer.own_parameters.items():
            name = parameter_name(layer.name, local)
            special = layer.initial_value(local, seed)
            if special is not None:
                values[name] = special
            elif len(shape) == 1:
                values[name] = np.zeros(shape, dtype=np.float32)
            else:
                values[name] = _weights(layer, local, seed)
    return values


def _weights(layer: Layer, local: str, seed: int) -> Values:
    given, shape = layer.spec, layer.own_parameters[local]
    name = parameter_name(layer.name, local)
    if given.diagonal is not None and len(shape) == 2:
        return np.eye(*shape, dtype=np.float32) * np.float32(given.diagonal)
    rectifies = layer.activation.split("+")[0] in _RECTIFIERS
    fan_in, fan_out = layer.fans(local)
    usual = math.sqrt(2 / fan_in) if rectifies else math.sqrt(2 / (fan_in + fan_out))
    std = usual if given.std is None else given.std
    values = generator(seed, "parameter", name).standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    values += np.float32(given.mean or 0.0)
    if given.sparsity:
        values[generator(seed, "sparsity", name).random(shape) < given.sparsity] = 0.0
    return values
