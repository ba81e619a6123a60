"""Dropout on weights: DropConnect (Wan et al. 2013), with inverted scaling."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DropConnect"]


@dataclass(frozen=True, kw_only=True)
class DropConnect:
    """Zero each element of every matching weight with probability `weight`.

    Survivors are scaled by 1 / (1 - weight), so that the expected weight is unchanged. A prediction
    draws the weights anew for each row and pass (or, with shared masks, each pass), training for
    each batch. A weight that two layers use, as a tied layer does its partner's, is dropped alike
    in both.
    """

    pattern: str
    weight: float
    rng: int | None
    matched: tuple[str, ...]
    """Names of parameters."""
    form: str = "drop_connect"

    def log(self) -> str:
        """Describe the regularizer as theanets described dropout."""
        return f"regularizer: DropConnect({self.pattern}) ~ B({self.weight:g})"
