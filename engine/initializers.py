"""Initial parameters, each from a random stream of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from engine.graph import Graph, LayerNode
from engine.spec import LayerSpec
from engine.streams import generator

__all__ = ["initial_parameters"]

_RECTIFIERS = ("relu", "rect:max", "elu", "gelu", "silu")


def initial_parameters(graph: Graph, *, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Draw every parameter of `graph`: weights by name and seed, biases zero.

    Weights of a layer that rectifies have standard deviation sqrt(2 / inputs) (He et al. 2015),
    the others sqrt(2 / (inputs + outputs)) (Glorot & Bengio 2010), where the layer's own `std`,
    `mean`, `sparsity` and `diagonal` do not say otherwise; inputs are counted over all that the
    layer reads.
    """
    values: dict[str, npt.NDArray[np.float32]] = {}
    for layer in graph.layers:
        for name, shape in layer.parameters.items():
            if len(shape) == 1:
                values[name] = np.zeros(shape, dtype=np.float32)
            else:
                values[name] = _weights(layer, name, (shape[0], shape[1]), seed)
    return values


def _weights(
    layer: LayerNode, name: str, shape: tuple[int, int], seed: int
) -> npt.NDArray[np.float32]:
    given = layer.initial or LayerSpec()
    if given.diagonal is not None:
        return np.eye(*shape, dtype=np.float32) * np.float32(given.diagonal)
    rectifies = layer.activation.split("+")[0] in _RECTIFIERS
    fan_in, fan_out = sum(layer.input_sizes), shape[1]
    usual = math.sqrt(2 / fan_in) if rectifies else math.sqrt(2 / (fan_in + fan_out))
    std = usual if given.std is None else given.std
    draw = generator(seed, "parameter", name)
    values = draw.standard_normal(shape, dtype=np.float32) * np.float32(std)
    values += np.float32(given.mean or 0.0)
    if given.sparsity:
        values[generator(seed, "sparsity", name).random(shape) < given.sparsity] = 0.0
    return values
