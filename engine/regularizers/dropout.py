"""Bernoulli dropout on named outputs (Srivastava et al. 2014, with inverted scaling)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["BernoulliDropout"]


@dataclass(frozen=True, kw_only=True)
class BernoulliDropout:
    """Zero each element of every matching output with probability `weight`.

    Survivors are scaled by 1 / (1 - weight), so that the expected output is unchanged.
    """

    pattern: str
    weight: float
    rng: int | None
    matched: tuple[str, ...]
    steps: Literal["independent", "shared"] = "independent"
    """`shared`: one mask for all steps of a sequence (Gal & Ghahramani 2016)."""
    spatial: bool = False
    """Whether whole channels of images are dropped (Tompson et al. 2015)."""
    form: str = "bernoulli_dropout"

    def log(self) -> str:
        """Describe the regularizer as theanets logged it."""
        return f"regularizer: BernoulliDropout({self.pattern}) ~ B({self.weight:g})"
