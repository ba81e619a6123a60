"""Statistics over Monte-Carlo passes.

Every function takes samples with the passes first and works on each element of the rest alone, in
one fixed order of operations, so that a row's statistics have the same bits in any company.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = [
    "entropy",
    "mean_and_variance",
    "mixture_quantiles",
    "pass_mean",
    "pass_quantiles",
    "quantile_key",
    "variation_ratio",
]

Samples = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

_BLOCK = 256  # passes


def pass_mean(samples: npt.NDArray[np.floating]) -> Values:
    """Return the mean over the passes, (passes, …) -> (…), in float64."""
    total: Values = np.zeros(samples.shape[1:])
    for start in range(0, len(samples), _BLOCK):
        total += _pass_sum(samples[start : start + _BLOCK].astype(np.float64))
    return total / len(samples)


def mean_and_variance(samples: Samples) -> tuple[Values, Values | None]:
    """Return the mean and the sample variance (divisor T - 1) over the passes.

    The variance of one pass does not exist: None. It is exactly 0 where all passes agree.
    """
    mean = pass_mean(samples)
    if len(samples) < 2:
        return mean, None
    squares: Values = np.zeros(samples.shape[1:])
    for start in range(0, len(samples), _BLOCK):
        squares += _pass_sum((samples[start : start + _BLOCK] - mean) ** 2)
    return mean, squares / (len(samples) - 1)


def _pass_sum(block: Values) -> Values:
    """Sum over the first axis by halving, the same for any number of other elements.

    `np.sum` would choose its order by the array's shape.
    """
    while len(block) > 1:
        half = len(block) // 2
        folded = block[:half] + block[half : 2 * half]
        if len(block) % 2:
            folded[0] += block[-1]
        block = folded
    total: Values = block[0]
    return total


def pass_quantiles(samples: Samples, quantiles: Sequence[float]) -> list[Values]:
    """Return quantiles of the passes, linear between order statistics (Hyndman & Fan 1996, 7)."""
    ordered = np.sort(samples, axis=0)
    results = []
    for quantile in quantiles:
        position = quantile * (len(ordered) - 1)
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        low = ordered[below].astype(np.float64)
        results.append(low + (position - below) * (ordered[above] - low))
    return results


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


def entropy(probabilities: npt.NDArray[np.floating]) -> Values:
    """Return the entropy over the last axis, in nats; 0 log 0 is 0."""
    p = probabilities.astype(np.float64)
    values: Values = special.entr(p).sum(axis=-1)
    return values


def variation_ratio(samples: Samples) -> Values:
    """Return the share of passes whose class is not the most frequent one, (rows, …).

    `samples` are (passes, rows, …, classes).
    """
    passes, classes = len(samples), samples.shape[-1]
    chosen = samples.argmax(axis=-1).reshape(passes, -1)
    votes = np.zeros((chosen.shape[1], classes), dtype=np.int64)
    np.add.at(votes, (np.broadcast_to(np.arange(len(votes)), chosen.shape), chosen), 1)
    share: Values = 1.0 - votes.max(axis=1) / passes
    return share.reshape(samples.shape[1:-1])


def quantile_key(quantile: float) -> str:
    """Return the quantile in its shortest decimal: ``0.05``."""
    return np.format_float_positional(quantile, trim="-")
