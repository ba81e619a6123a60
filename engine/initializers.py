"""Initial parameters, each from a random stream of its own."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from engine.graph import Graph
from engine.streams import generator

__all__ = ["initial_parameters"]


def initial_parameters(graph: Graph, *, seed: int) -> dict[str, npt.NDArray[np.float32]]:
    """Draw every parameter of `graph`: weights by name and seed, biases zero.

    Weights read by a relu or elu layer have standard deviation sqrt(2 / inputs) (He et al. 2015),
    the others sqrt(2 / (inputs + outputs)) (Glorot & Bengio 2010).
    """
    values: dict[str, npt.NDArray[np.float32]] = {}
    for layer in graph.layers:
        for name, shape in layer.parameters.items():
            if len(shape) == 1:
                values[name] = np.zeros(shape, dtype=np.float32)
                continue
            fan_in, fan_out = shape
            rectifies = layer.activation in ("relu", "elu", "gelu")
            scale = math.sqrt(2 / fan_in) if rectifies else math.sqrt(2 / (fan_in + fan_out))
            draw = generator(seed, "parameter", name).standard_normal(shape, dtype=np.float32)
            values[name] = draw * np.float32(scale)
    return values
