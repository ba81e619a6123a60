"""Quantiles over Monte-Carlo passes: of the passes themselves, and of passes with noise added.

Samples have the passes first; each element of the rest is worked on alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from engine.statistics import pass_mean

__all__ = ["between", "mixture_quantiles", "pass_quantiles", "quantile_key", "ranks"]

Samples = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]


def pass_quantiles(samples: Samples, quantiles: tuple[float, ...]) -> Values:
    """Return quantiles of the passes, linear between order statistics (Hyndman & Fan 1996, 7).

    `samples` are (passes, …), the result (quantiles, …).
    """
    passes, shape = len(samples), samples.shape[1:]
    # What is sorted together lies together.
    ordered = np.array(samples.reshape(passes, -1).T, order="C")
    ordered.sort(axis=-1)
    below, above, share = ranks(passes, quantiles)
    values = between(ordered[:, below], ordered[:, above], share)
    return values.T.reshape(-1, *shape)


@lru_cache(maxsize=256)
def ranks(passes: int, quantiles: tuple[float, ...]) -> tuple[Ranks, Ranks, Values]:
    """Return between which order statistics each quantile lies, and how far, from 0 to below 1."""
    positions = np.array(quantiles) * (passes - 1)
    below = np.floor(positions).astype(np.int64)
    share = positions - below
    return below, below + (share > 0), share


def between(low: npt.NDArray[Any], high: npt.NDArray[Any], share: Values) -> Values:
    """Return what lies a share of the way from low to high; where these agree, infinities too."""
    low = low.astype(np.float64)
    away: Values = np.zeros(low.shape)
    np.subtract(high, low, out=away, where=high != low)
    away *= share
    away += low
    return away


def mixture_quantiles(
    samples: Values, precision: Values, quantiles: Sequence[float]
) -> list[Values]:
    """Return quantiles of the predictive distribution: passes plus Gaussian noise.

    `samples` are (passes, rows, *shape), `precision` in units^-2 broadcasts against a row, or is of
    the samples' own shape. The distribution is the mixture of T normals around the samples; its
    quantile is found by Newton's method, kept inside a shrinking bracket. Quantiles 0 and 1 are
    infinite.
    """
    deviation = 1 / np.sqrt(precision)
    return [_mixture_quantile(samples, deviation, quantile) for quantile in quantiles]


def _mixture_quantile(samples: Values, deviation: Values, quantile: float) -> Values:
    if quantile in (0.0, 1.0):
        return np.full(samples.shape[1:], np.inf if quantile else -np.inf)
    ends = samples + special.ndtri(quantile) * deviation
    low, high = ends.min(axis=0), ends.max(axis=0)
    x: Values = (low + high) / 2
    settled = low >= high
    of_passes = deviation.ndim == samples.ndim
    tolerance = 1e-9 * (deviation.min(axis=0) if of_passes else deviation)
    for _ in range(60):
        z = (x - samples) / deviation
        excess = pass_mean(special.ndtr(z)) - quantile
        density = pass_mean(np.exp(-0.5 * z * z) / deviation) / np.sqrt(2 * np.pi)
        low = np.where(excess < 0, x, low)
        high = np.where(excess < 0, high, x)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            step = x - excess / density
        # A Newton step out of the bracket, or through a gap without density, is a bisection.
        inside = (step > low) & (step < high)
        following = np.where(inside, step, (low + high) / 2)
        # Elements settle one by one: how long the others take does not change them.
        following = np.where(settled, x, following)
        settled = settled | (np.abs(following - x) <= tolerance)
        x = following
        if settled.all():
            break
    return x


@lru_cache(maxsize=1024)
def quantile_key(quantile: float) -> str:
    """Return the quantile in its shortest decimal: ``0.05``."""
    return np.format_float_positional(quantile, trim="-")
