"""Penalties on the size of weights: theanets' means, or plain sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

__all__ = ["WeightPenalty"]


@dataclass(frozen=True, kw_only=True)
class WeightPenalty:
    """`weight` times the mean (or sum) of squares or of absolute values of the matched weights.

    With `reduction` "mean" the term is, as in theanets, the mean over each matrix's elements,
    averaged over the matched matrices: weight / M * sum_m mean(w_m^2). With "sum" it is
    weight * sum_m sum(w_m^2). Biases do not count.
    """

    form: Literal["weight_l2", "weight_l1"]
    pattern: str
    weight: float
    reduction: Literal["mean", "sum"]
    matched: tuple[str, ...]
    rng: None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The outputs whose values the term needs: none."""
        return ()

    def loss(
        self,
        parameters: Mapping[str, Tensor],
        _outputs: Mapping[str, Tensor],
        _inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the weighted term, a scalar through which gradients flow."""
        terms = [self._size(parameters[name]) for name in self.matched]
        total = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
        divisor = len(terms) if self.reduction == "mean" else 1
        return total * (self.weight / divisor)

    def _size(self, values: Tensor) -> Tensor:
        sizes = values.square() if self.form == "weight_l2" else values.abs()
        return sizes.mean() if self.reduction == "mean" else sizes.sum()

    def log(self) -> str:
        """Describe the regularizer as theanets logged it."""
        name = {"weight_l2": "WeightL2", "weight_l1": "WeightL1"}[self.form]
        return f"regularizer: {self.weight:g} * {name}({self.pattern})"
