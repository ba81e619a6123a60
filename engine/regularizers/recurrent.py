"""Penalties on how outputs change from step to step of a sequence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["RecurrentPenalty"]


@dataclass(frozen=True, kw_only=True)
class RecurrentPenalty:
    """`weight` times how much the matched outputs z, (rows, steps, size), change between steps.

    `recurrent_norm` (Krueger & Memisevic 2016): the mean over rows and steps of
    (||z_t||^2 - ||z_(t-1)||^2)^2. `recurrent_state`: the mean over rows, steps and elements of
    (z_t - z_(t-1))^2; with `reduction` "sum" over the elements, ||z_t - z_(t-1)||^2. Both are
    averaged over the matched outputs.
    """

    form: Literal["recurrent_norm", "recurrent_state"]
    pattern: str
    weight: float
    reduction: Literal["mean", "sum"]
    matched: tuple[str, ...]
    rng: None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The outputs whose values the term needs, dropped and noisy as their readers see them."""
        return self.matched

    def loss(
        self,
        _parameters: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        _inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the weighted term, a scalar through which gradients flow."""
        terms = [self._change(outputs[name]) for name in self.matched]
        return torch.stack(terms).mean() * self.weight

    def _change(self, values: Tensor) -> Tensor:
        if self.form == "recurrent_norm":
            return values.square().sum(dim=-1).diff(dim=1).square().mean()
        changes = values.diff(dim=1).square()
        return changes.mean() if self.reduction == "mean" else changes.sum(dim=-1).mean()

    def log(self) -> str:
        """Describe the regularizer as theanets logged it."""
        name = {"recurrent_norm": "RecurrentNorm", "recurrent_state": "RecurrentState"}[self.form]
        return f"regularizer: {self.weight:g} * {name}({self.pattern})"
