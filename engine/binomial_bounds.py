"""Shares that were counted: between which bounds the true one lies, and whether chance explains it.

Exact, without tables or simulation: the binomial distribution by the incomplete beta function, that
of a calibrated model's coverage by the hypergeometric one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["conformal_p_value", "share_bounds"]

Numbers = npt.NDArray[np.int64]


def share_bounds(count: float, total: int, confidence: float) -> tuple[float, float]:
    """Return where the probability of something lies that happened `count` times of `total`.

    The interval of Clopper & Pearson (1934), which holds it with at least that confidence.
    """
    tail = (1 - confidence) / 2
    low = float(special.betaincinv(count, total - count + 1, tail)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return low, high


def conformal_p_value(count: int, total: int, *, rank: int, rows: int) -> float:
    """Return how likely so few, or so many, of `total` scores are at most a calibrated quantile.

    That is the `rank`-th smallest of the scores of `rows` calibration rows. Two-sided: twice the
    smaller tail. Where all scores are exchangeable and without ties, the count has the
    distribution of a binomial whose probability is drawn from Beta(rank, rows + 1 - rank) (Vovk
    2012, "Conditional validity of inductive conformal predictors"). At most x of the new scores
    are below the quantile where, of the rank + x smallest of all, at least `rank` are of the
    calibration, which is hypergeometric.
    """
    below = _at_most(count, total, rank, rows)
    above = 1.0 if count == 0 else 1.0 - _at_most(count - 1, total, rank, rows)
    return min(1.0, 2 * max(0.0, min(below, above)))


def _at_most(count: int, total: int, rank: int, rows: int) -> float:
    drawn = rank + count
    calibrating = np.arange(rank, min(rows, drawn) + 1)
    logs = (
        _log_choose(rows, calibrating)
        + _log_choose(total, drawn - calibrating)
        - _log_choose(rows + total, np.array(drawn))
    )
    return float(min(1.0, np.exp(special.logsumexp(logs))))


def _log_choose(n: int, k: Numbers) -> npt.NDArray[np.float64]:
    """Return log of n over k, -inf where there is no such choice."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.where((k < 0) | (k > n), -np.inf, logs)
