"""Observation noise: how far truths lie from what the passes say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

__all__ = ["fit_noise_precision", "mixture_log_likelihood"]

Values = npt.NDArray[np.float64]

_DECADES = 8  # searched on either side of the plain estimate


def mixture_log_likelihood(samples: Values, truth: Values, precision: float | Values) -> Values:
    """Return each row's log density under the mixture of its passes with Gaussian noise, (rows,).

    `samples` are (passes, rows), `truth` (rows,), `precision` tau in units^-2, one for all or
    (passes, rows): logsumexp_t(1/2 log tau_t - tau_t/2 (y - y_t)^2) - log T - 1/2 log 2 pi
    (Gal & Ghahramani 2016; with a noise for each row Kendall & Gal 2017).
    """
    logs = 0.5 * np.log(precision) - 0.5 * precision * (samples - truth) ** 2
    total: Values = special.logsumexp(logs, axis=0)
    total -= np.log(len(logs)) + 0.5 * np.log(2 * np.pi)
    return total


def fit_noise_precision(samples: Values, truth: Values) -> float:
    """Return the noise precision that makes `truth` most likely, in units^-2.

    One-dimensional maximum likelihood over log tau: a coarse scan, since a mixture's likelihood may
    have more than one maximum, then Brent's method around its best point. The range is bounded at
    8 decades around the inverse of the mean squared error, and by the truths' own resolution in
    float32, so that a perfect fit does not claim infinite precision.
    """
    error = float(np.mean((samples.mean(axis=0) - truth) ** 2))
    resolution = float(np.max(np.abs(truth), initial=1e-30) * np.finfo(np.float32).eps) ** 2
    centre = -np.log(max(error, resolution))
    reach = _DECADES * np.log(10)
    low, high = centre - reach, min(centre + reach, -np.log(resolution))

    likelihood = _mean_log_likelihood(samples, truth)

    def loss(log_precision: float) -> float:
        return -likelihood(float(np.exp(log_precision)))

    grid = np.linspace(low, high, 49)
    losses = [loss(value) for value in grid]
    best = int(np.argmin(losses))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    log_precision = found.x if found.fun <= losses[best] else grid[best]
    return float(np.exp(log_precision))


def _mean_log_likelihood(samples: Values, truth: Values) -> Callable[[float], float]:
    """Return the mean over the rows of `mixture_log_likelihood`, as a function of one precision.

    What does not depend on it is computed once: the squared error of each row's best pass, whose
    exponent is the largest for every precision, and by how much those of the others exceed it.
    """
    squares = (samples - truth) ** 2
    least = squares.min(axis=0)
    excess = squares - least
    constant = np.log(len(samples)) + 0.5 * np.log(2 * np.pi)
    terms = np.empty_like(excess)

    def likelihood(precision: float) -> float:
        np.exp(np.multiply(excess, -0.5 * precision, out=terms), out=terms)
        rows = np.log(terms.sum(axis=0)) - 0.5 * precision * least
        return float(rows.mean() + 0.5 * np.log(precision) - constant)

    return likelihood
