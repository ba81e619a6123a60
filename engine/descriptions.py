"""Descriptions: what is told of networks and regularizers, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.graph import Graph
from engine.regularizers import (
    BernoulliDropout,
    ConcreteDropout,
    ContractivePenalty,
    RecurrentPenalty,
    Regularizer,
    WeightPenalty,
)

__all__ = ["describe_graph", "describe_parameters", "describe_regularizer"]


def describe_graph(graph: Graph) -> dict[str, Any]:
    """Return parameters and outputs by name, with their shapes; of outputs those of one row."""
    return {
        "parameters": {
            name: {"shape": list(shape), "dtype": "float32"}
            for name, shape in graph.parameters.items()
        },
        "parameter_count": graph.parameter_count,
        "outputs": {
            name: {"size": layer.size, "shape": list(shape)}
            for layer in graph.layers
            for name, shape in layer.outputs.items()
        },
    }


def describe_regularizer(index: int, regularizer: Regularizer) -> dict[str, Any]:
    """Return what the regularizer log says of one."""
    description: dict[str, Any] = {
        "index": index,
        "form": regularizer.form,
        "pattern": regularizer.pattern,
        "weight": regularizer.weight,
        "rng": regularizer.rng,
        "matched": list(regularizer.matched),
        "log": regularizer.log(),
    }
    if isinstance(regularizer, WeightPenalty | RecurrentPenalty):
        description["reduction"] = regularizer.reduction
    if isinstance(regularizer, ContractivePenalty):
        description["wrt"] = regularizer.wrt
    if isinstance(regularizer, BernoulliDropout):
        description["steps"] = regularizer.steps
        description["spatial"] = regularizer.spatial
    if isinstance(regularizer, ConcreteDropout):
        description["weight_regularizer"] = regularizer.weight_regularizer
        description["temperature"] = regularizer.temperature
        description["initial_rate"] = regularizer.initial_rate
    return description


def describe_parameters(graphs: Sequence[Graph]) -> dict[str, Any]:
    """Return the parameters by name, and how many numbers they are, of all members of a model."""
    if len(graphs) == 1:
        return {key: describe_graph(graphs[0])[key] for key in ("parameters", "parameter_count")}
    return {
        "parameters": {
            f"{index}.{name}": told
            for index, graph in enumerate(graphs)
            for name, told in describe_graph(graph)["parameters"].items()
        },
        "parameter_count": sum(graph.parameter_count for graph in graphs),
    }
