"""The continuous ranked probability score of passes, with Gaussian noise and without; exact.

CRPS(F, y) = ∫ (F(x) - 1{x >= y})² dx = E|X - y| - E|X - X'| / 2, in the units of y: the absolute
error of a distribution (Gneiting & Raftery 2007). Samples have the passes first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy import special

__all__ = ["mixture_crps", "passes_crps"]

Values = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_FAR = 9.0
"""Standard deviations beyond which a normal distribution has less than 1e-18."""
_STEP = 0.5
"""Nodes of the trapezoidal rule, in the least standard deviation of the mixture. F(1 - F) has a
spectrum below exp(-(s w)² / 4), so that at this step no more than exp(-16 pi² / 4) = 1e-17 is lost
(Trefethen & Weideman 2014)."""
_CELLS = 1 << 15
"""Numbers worked on at once: they stay in the cache."""


def _go_on() -> None:
    """Answer `pause` for whoever need not be stopped."""


def passes_crps(samples: Values, truth: Values) -> Values:
    """Return the CRPS of each truth (numbers,) under its passes alone, (passes, numbers).

    The passes are the whole distribution: E|X - X'| is over all pairs, a pass with itself included.
    """
    passes = len(samples)
    ordered = np.sort(samples, axis=0)
    ranks = 2.0 * np.arange(passes) - passes + 1
    # About the middle, so that a large mean costs no digits.
    centred = ordered - ordered[passes // 2]
    spread = ranks @ centred / passes**2
    distance = np.abs(samples - truth).mean(axis=0)
    score: Values = np.maximum(distance - spread, 0.0)
    return score


def mixture_crps(
    samples: Values,
    precision: float | Values,
    truth: Values,
    *,
    pause: Callable[[], None] = _go_on,
) -> Values:
    """Return the CRPS of each truth (numbers,) under passes (passes, numbers) plus Gaussian noise.

    `precision` is in units^-2 and broadcasts against `samples`. The closed form of Grimit et al.
    (2006), E|X - y| = mean_t A(y - y_t, s_t²) and E|X - X'| = mean_tu A(y_t - y_u, s_t² + s_u²),
    has T² terms. The second is twice ∫ F (1 - F) dx as well, which the trapezoidal rule gives to
    rounding in few nodes where the passes lie near each other; where they do not, the terms of the
    pairs that do are summed, since A(d, s²) = |d| for the others. NaN where a sample is not finite.
    `pause` is called every few milliseconds.
    """
    deviation = np.broadcast_to(1 / np.sqrt(np.asarray(precision, np.float64)), samples.shape)
    scores = np.full(samples.shape[1], np.nan)
    finite = np.isfinite(samples).all(axis=0) & np.isfinite(deviation).all(axis=0)
    finite &= np.isfinite(truth)
    usable = np.flatnonzero(finite)
    if not len(usable):
        return scores
    low = (samples - _FAR * deviation)[:, usable].min(axis=0)
    high = (samples + _FAR * deviation)[:, usable].max(axis=0)
    nodes = np.ceil((high - low) / (_STEP * deviation[:, usable].min(axis=0))) + 1
    by_nodes = nodes <= max(2, len(samples) // 2)
    order = np.argsort(nodes, kind="stable")
    size = max(1, _CELLS // len(samples))
    for is_grid in (True, False):
        chosen = order[by_nodes[order] == is_grid]
        for first in range(0, len(chosen), size):
            at = chosen[first : first + size]
            which = usable[at]
            own, spread = samples[:, which], deviation[:, which]
            if is_grid:
                half = _by_nodes(own, spread, (low[at], high[at]), int(nodes[at].max()), pause)
            else:
                half = _by_pairs(own, spread, pause)
            distance = _absolute(own - truth[which], spread).mean(axis=0)
            scores[which] = np.maximum(distance - half, 0.0)
    return scores


def _absolute(distance: Values, deviation: Values) -> Values:
    """Return A(d, s²) = E|Z| of Z ~ Normal(d, s²): 2 s phi(d / s) + d (2 Phi(d / s) - 1)."""
    z = distance / deviation
    density = np.exp(-0.5 * z * z) * np.sqrt(2 / np.pi)
    mean: Values = deviation * density + distance * special.erf(z * np.sqrt(0.5))
    return mean


def _by_nodes(
    samples: Values,
    deviation: Values,
    ends: tuple[Values, Values],
    count: int,
    pause: Callable[[], None],
) -> Values:
    """Return E|X - X'| / 2 = ∫ F (1 - F) dx by the trapezoidal rule with `count` nodes."""
    # By PyTorch, whose distribution function takes a quarter of the time of SciPy's.
    low, high = ends
    step = (high - low) / (count - 1)
    total = np.zeros(samples.shape[1])
    for node in range(count):
        pause()
        z = (low + node * step - samples) / deviation
        below = torch.special.ndtr(torch.from_numpy(z)).numpy().mean(axis=0)
        total += below * (1 - below)
    return total * step


def _by_pairs(samples: Values, deviation: Values, pause: Callable[[], None]) -> Values:
    """Return E|X - X'| / 2: of far pairs the distance, of near ones the term of the closed form."""
    passes = len(samples)
    order = np.argsort(samples, axis=0, kind="stable")
    means = np.take_along_axis(samples, order, axis=0)
    variances = np.take_along_axis(deviation, order, axis=0) ** 2
    means = means - means[passes // 2]
    ranks = 2.0 * np.arange(passes) - passes + 1
    total = ranks @ means + np.sqrt(variances / np.pi).sum(axis=0)  # each pass with itself
    reach = _FAR * np.sqrt(2 * variances.max(axis=0))
    near = np.arange(samples.shape[1])
    for offset in range(1, passes):
        pause()
        distance = means[offset:] - means[:-offset]
        # Sorted, so that the least distance grows with the offset.
        left = distance.min(axis=0) < reach
        if not left.any():
            break
        if left.sum() * 2 < len(left):
            near, reach, distance = near[left], reach[left], distance[:, left]
            means, variances = means[:, left], variances[:, left]
        both = np.sqrt(variances[offset:] + variances[:-offset])
        total[near] += (_absolute(distance, both) - distance).sum(axis=0)
    return np.asarray(total / passes**2)
