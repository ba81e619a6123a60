"""Monitors: shares of outputs' and parameters' values below given levels, sizes of gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.graph import Graph
from engine.names import match
from engine.spec import TrainSpec

__all__ = ["Monitor", "gradient_sizes", "resolve_monitors"]


@dataclass(frozen=True, kw_only=True)
class Monitor:
    """One output or parameter, and the levels to compare it with."""

    name: str
    is_parameter: bool
    levels: tuple[float, ...]

    def shares(self, values: Tensor) -> list[tuple[str, float]]:
        """Return, for each level, its label ``NAME<LEVEL`` and the share of values below it."""
        return [
            (f"{self.name}<{level:g}", (values < level).float().mean().item())
            for level in self.levels
        ]


def resolve_monitors(spec: TrainSpec, graph: Graph) -> tuple[Monitor, ...]:
    """Match every pattern of `monitors`; raise PatternError for one that matches nothing."""
    monitors: list[Monitor] = []
    for pattern, given in spec.monitors.items():
        levels = given if isinstance(given, tuple) else (given,)
        pointer = "#/monitors/" + pattern.replace("~", "~0").replace("/", "~1")
        names = (*graph.outputs, *graph.parameters)
        for name in match(pattern, names, kind="output or parameter", pointer=pointer):
            is_parameter = name in graph.parameters
            monitors.append(Monitor(name=name, is_parameter=is_parameter, levels=levels))
    return tuple(monitors)


def gradient_sizes(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the squared Euclidean norm of each parameter's gradient, as ``∂NAME``."""
    named = {name: values.grad for name, values in parameters.items() if values.grad is not None}
    sizes = torch.stack([gradient.square().sum() for gradient in named.values()]).tolist()
    return {f"∂{name}": size for name, size in zip(named, sizes, strict=True)}
