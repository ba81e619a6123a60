"""Penalties on the size of outputs, for codes of which few elements are far from zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["HiddenPenalty"]


@dataclass(frozen=True, kw_only=True)
class HiddenPenalty:
    """`weight` times the mean of absolute values, averaged over the matched outputs (Ng 2011)."""

    pattern: str | None
    """None where no single glob says which they are: see `matched`."""
    weight: float
    matched: tuple[str, ...]
    form: str = "hidden_l1"
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
        terms = [outputs[name].abs().mean() for name in self.matched]
        return torch.stack(terms).mean() * self.weight

    def log(self) -> str:
        """Describe the regularizer as theanets logged it."""
        aim = self.pattern or ",".join(self.matched)
        return f"regularizer: {self.weight:g} * HiddenL1({aim})"
