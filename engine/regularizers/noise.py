"""Gaussian noise on named outputs (Vincent et al. 2008)."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GaussianNoise"]


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    """Add to each element of every matching output a normal number of deviation `weight`."""

    pattern: str
    weight: float
    rng: int | None
    matched: tuple[str, ...]
    form: str = "gaussian_noise"

    def log(self) -> str:
        """Describe the regularizer as theanets logged it."""
        return f"regularizer: GaussianNoise({self.pattern}) ~ N(0, {self.weight:g})"
