"""Small networks that the engine's tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.inputs import Inputs
from engine.graph import Graph, build_graph
from engine.initializers import initial_parameters
from engine.network import Network
from engine.spec import NetworkSpec

Floats = npt.NDArray[np.float32]


def rows_of(x: npt.ArrayLike, layer: str = "in") -> Inputs:
    """Rows for a network with one input layer."""
    return Inputs({f"{layer}:out": x})


def only(inputs: Inputs) -> Any:
    """The rows of the one input layer."""
    (rows,) = inputs.values.values()
    return rows


def graph_of(layers: list[Any], form: str = "regressor", loss: str | None = None) -> Graph:
    spec = NetworkSpec.model_validate({"form": form, "layers": layers, "loss": loss})
    assert spec.form is not None
    return build_graph(spec, form=spec.form, input_shapes=None, output_shape=None)


def identity_network(width: int, depth: int = 3) -> Network:
    """A network whose layers all pass on what they read: in, hid1, …, out."""
    layers: list[Any] = [width]
    layers += [{"size": width, "activation": "linear"} for _ in range(depth - 1)]
    layers.append(width)
    graph = graph_of(layers)
    values: dict[str, Floats] = {}
    for name, shape in graph.parameters.items():
        values[name] = (
            np.eye(width, dtype=np.float32) if len(shape) == 2 else np.zeros(width, np.float32)
        )
    return Network(graph, values)


def random_network(layers: list[Any], *, form: str = "regressor", seed: int = 1) -> Network:
    graph = graph_of(layers, form)
    return Network(graph, initial_parameters(graph, seed=seed))
