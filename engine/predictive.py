"""Predictive distributions: passes with the noise of observations, and truths under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from engine.quantiles import mixture_quantiles, pass_quantiles

__all__ = ["Predictive"]

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Predictive:
    """The passes of some numbers of one target, their noise, and what was observed."""

    samples: Values
    """(passes, numbers)"""
    mean: Values
    """(numbers,)"""
    std: Values | None
    """Over the passes, (numbers,); None of one pass."""
    total: Values | None
    """Standard deviation of passes and noise together, (numbers,); None where that is unknown."""
    precision: Values | None
    """Of the noise, in units^-2, (1, 1), (passes, 1) or (passes, numbers); None if unknown."""
    truth: Values
    """(numbers,)"""
    interval: tuple[Values, Values] | None = None
    """The ends of calibrated intervals, each (numbers,), where the model has them."""

    def part(self, at: slice) -> Predictive:
        """Return some of the numbers."""
        precision = self.precision
        if precision is not None and precision.shape[-1] > 1:
            precision = precision[..., at]
        return Predictive(
            samples=self.samples[:, at],
            mean=self.mean[at],
            std=None if self.std is None else self.std[at],
            total=None if self.total is None else self.total[at],
            precision=precision,
            truth=self.truth[at],
            interval=None
            if self.interval is None
            else (self.interval[0][at], self.interval[1][at]),
        )

    def intervals(self, levels: Sequence[float]) -> tuple[Values, Values]:
        """Return the ends of the central intervals of these levels, each (levels, numbers).

        Of the mixture of passes plus noise; where the noise is unknown, of the passes alone.
        """
        tails = [(1 - level) / 2 for level in levels]
        quantiles = (*tails, *(1 - tail for tail in tails))
        if self.precision is None:
            found = pass_quantiles(self.samples, quantiles)
        else:
            precision = np.broadcast_to(self.precision, self.samples.shape)
            found = np.stack(mixture_quantiles(self.samples, precision, quantiles))
        return found[: len(levels)], found[len(levels) :]

    def transform(self) -> Values:
        """Return the probability integral transform: how much of the distribution is below truth.

        Of the passes alone half of those that equal it count as below.
        """
        if self.precision is None:
            below, equal = self.samples < self.truth, self.samples == self.truth
            return np.asarray(below.mean(axis=0) + equal.mean(axis=0) / 2)
        z = (self.truth - self.samples) * np.sqrt(self.precision)
        return np.asarray(special.ndtr(z).mean(axis=0))
