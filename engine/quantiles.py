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

Samples = npt.NDArray[np.floating[Any]]
Values = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]

_CELLS = 1 << 15
"""Passes x numbers worked on at once: they stay in the cache."""


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
    of_passes = deviation.ndim == samples.ndim and len(deviation) == len(samples)
    leading = len(samples) if of_passes else 1
    spread = np.broadcast_to(deviation, (leading, *samples.shape[1:])).reshape(leading, -1)
    flat = samples.reshape(len(samples), -1)
    size = max(1, _CELLS // len(samples))
    found = np.empty((len(quantiles), flat.shape[1]))
    for first in range(0, flat.shape[1], size):
        part = slice(first, first + size)
        for index, quantile in enumerate(quantiles):
            found[index, part] = _mixture_quantile(flat[:, part], spread[:, part], quantile)
    return list(found.reshape(-1, *samples.shape[1:]))


def _mixture_quantile(samples: Values, deviation: Values, quantile: float) -> Values:
    """Return the quantile for passes (T, numbers); `deviation` is (T, numbers) or (1, numbers)."""
    count = samples.shape[1]
    if quantile in (0.0, 1.0):
        return np.full(count, np.inf if quantile else -np.inf)
    ends = samples + special.ndtri(quantile) * deviation
    low, high = ends.min(axis=0), ends.max(axis=0)
    x = np.clip(_normal_quantile(samples, deviation, quantile), low, high)
    settled = low >= high
    tolerance = 1e-9 * deviation.min(axis=0)
    found, left = np.empty(count), np.arange(count)
    for _ in range(60):
        if settled.sum() * 2 > len(settled):
            # What has settled is left out; that changes nothing for the others.
            found[left[settled]] = x[settled]
            on = ~settled
            samples, deviation = samples[:, on], deviation[:, on]
            low, high, x, tolerance = low[on], high[on], x[on], tolerance[on]
            left, settled = left[on], settled[on]
        if settled.all():
            break
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
    found[left] = x
    return found


def _normal_quantile(samples: Values, deviation: Values, quantile: float) -> Values:
    """Return the quantile of a normal distribution with the mixture's mean and variance."""
    mean = pass_mean(samples)
    variance = pass_mean((samples - mean) ** 2) + pass_mean(deviation**2)
    quantiles: Values = mean + special.ndtri(quantile) * np.sqrt(variance)
    return quantiles


@lru_cache(maxsize=1024)
def quantile_key(quantile: float) -> str:
    """Return the quantile in its shortest decimal: ``0.05``."""
    return np.format_float_positional(quantile, trim="-")
