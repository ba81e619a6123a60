"""Concrete dropout: rates that are learnt with the weights (Gal, Hron & Kendall 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.graph import Graph

__all__ = ["ConcreteDropout"]

LOWEST, HIGHEST = 1e-4, 1 - 1e-4
"""Bounds of a learnt rate: beyond, a mask has no gradient left to learn from."""


@dataclass(frozen=True, kw_only=True)
class ConcreteDropout:
    """Dropout on outputs whose rates p are parameters.

    In training an element is multiplied by (1 - z) / (1 - p), where z is a Concrete (relaxed
    Bernoulli) variable of temperature t: z = sigmoid((logit p + logit u) / t) for uniform u
    (equation 5 of the paper). The loss gets, for each matched output of K elements,
    `weight` K (p log p + (1 - p) log(1 - p)) + `weight_regularizer` sum ||W||^2 / (1 - p) over the
    weights W that read the output (equations 3 and 4). A trained model drops with the rates learnt,
    by masks of zeros and ones.
    """

    pattern: str
    weight: float
    weight_regularizer: float
    temperature: float
    initial_rate: float
    rng: int | None
    matched: tuple[str, ...]
    elements: tuple[int, ...]
    """How many elements each matched output has: K."""
    readers: tuple[tuple[str, ...], ...]
    """The weights that read each matched output."""
    form: str = "concrete_dropout"

    @property
    def reads(self) -> tuple[str, ...]:
        """The outputs whose values the term needs: none."""
        return ()

    def parameter(self, index: int, output: str) -> str:
        """Return the name under which the logit of an output's rate is learnt."""
        return f"{index} {output} rate"

    def initial_logit(self) -> float:
        return math.log(self.initial_rate / (1 - self.initial_rate))

    def mask(self, logit: Tensor, drawn: Tensor) -> Tensor:
        """Return what the output is multiplied by; `drawn` are logits of uniform numbers."""
        dropped = torch.sigmoid((logit + drawn) / self.temperature)
        return (1 - dropped) / (1 - rate_of(logit))

    def loss(self, index: int, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted term, a scalar through which gradients flow."""
        terms = []
        for output, count, weights in zip(self.matched, self.elements, self.readers, strict=True):
            p = rate_of(parameters[self.parameter(index, output)])
            terms.append(self.weight * count * (p * p.log() + (1 - p) * (1 - p).log()))
            squares = [parameters[name].square().sum() for name in weights]
            if squares and self.weight_regularizer:
                terms.append(self.weight_regularizer * torch.stack(squares).sum() / (1 - p))
        return torch.stack([term.reshape(()) for term in terms]).sum()

    def log(self) -> str:
        """Describe the regularizer."""
        return f"regularizer: {self.weight:g} * ConcreteDropout({self.pattern})"


def rate_of(logit: Tensor) -> Tensor:
    """Return the rate in its bounds."""
    return torch.sigmoid(logit).clamp(LOWEST, HIGHEST)


def reading_weights(graph: Graph, output: str) -> tuple[str, ...]:
    """Return the matrices by which layers multiply an output."""
    return tuple(
        name
        for layer in graph.layers
        if output in layer.inputs
        for name, shape in layer.used_parameters.items()
        if len(shape) > 1
        and name.partition(".")[2] not in layer.activates.parameters
        and _reads(name, output, len(layer.inputs))
    )


def _reads(parameter: str, output: str, inputs: int) -> bool:
    """Say whether a weight of a layer with several inputs is that of this one."""
    return inputs == 1 or parameter.endswith(f".w_{output}")
