"""Prediction sets of a classifier, and the temperature that its probabilities are softened by.

A class's score says how little it conforms, by the probabilities p of all classes: `lac`, 1 - p
(Sadinle, Lei & Wasserman 2019); `aps`, the probability of all likelier classes and a random share
of its own (Romano, Sesia & Candès 2020); `raps`, the same and a penalty for each class beyond the
likeliest few (Angelopoulos et al. 2021). A set holds the classes whose score is no more than the
quantile of the calibration rows' scores of their true classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from engine.statistics import portions
from engine.streams import row_states, stream_key, uniforms

__all__ = ["chances", "class_scores", "fit_temperature", "softened"]

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]

_FLOOR = 1e-7
_HOTTEST = 20.0
"""Temperatures are looked for between this and its inverse."""
_SPREAD = 0.5
"""Standard deviation of log T before any row is seen."""


def chances(seed: int | Sequence[int], rows: npt.NDArray[np.int64], width: int) -> Doubles:
    """Return the random shares of rows, (rows, width), between 0 and 1.

    `seed` is one for all or one for each row; `rows` are positions in the random streams.
    """
    key: Any = stream_key(seed, "set") if isinstance(seed, int) else None
    if key is None:
        assert not isinstance(seed, int)
        of_seed = {own: stream_key(own, "set") for own in set(seed)}
        key = np.array([of_seed[own] for own in seed], dtype=np.uint64)
    return uniforms(row_states(key, np.zeros(1, dtype=np.int64), rows), width)


def class_scores(
    probabilities: Array,
    chance: Array,
    *,
    score: str,
    penalty: float = 0.0,
    free_ranks: int = 0,
) -> Doubles:
    """Return the score of each class, (…, classes); `chance` (…) are the rows' random shares.

    Of classes that are equally likely the earlier one counts as the likelier.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if score == "lac":
        return 1.0 - p
    order = np.argsort(-p, axis=-1, kind="stable")
    sorted_ = np.take_along_axis(p, order, axis=-1)
    above = np.cumsum(sorted_, axis=-1) - sorted_
    ranked = above + np.asarray(chance)[..., None] * sorted_
    if score == "raps":
        ranked += penalty * np.maximum(np.arange(1, p.shape[-1] + 1) - free_ranks, 0)
    scores = np.empty_like(ranked)
    np.put_along_axis(scores, order, ranked, axis=-1)
    return scores


def softened(shares: Samples, temperature: float) -> Samples:
    """Return softmax(log p / temperature) of probabilities that add up to one, (…, classes)."""
    if temperature == 1.0:
        return shares
    softer: Samples = np.empty(shares.shape, dtype=np.float32)
    given = shares.reshape(-1, shares.shape[-1])
    flat = softer.reshape(given.shape)
    for part in portions(given):
        with np.errstate(divide="ignore"):
            logs = np.log(given[part].astype(np.float64)) / temperature
        logs -= logs.max(axis=-1, keepdims=True)
        np.exp(logs, out=logs)
        np.divide(logs, logs.sum(axis=-1, keepdims=True), out=flat[part], casting="same_kind")
    return softer


def fit_temperature(samples: Samples, truth: npt.NDArray[np.int64]) -> float:
    """Return the temperature under which the true classes are likely (Guo et al. 2017).

    `samples` are the probabilities of each pass, (passes, …, classes), `truth` (…) class numbers.
    Each pass is softened, and the likelihood is that of the mean over the passes: what is answered.
    Times a prior, log T ~ Normal(0, 0.5²): few rows whose true classes have nearly all the votes
    would be likeliest near 0, where a class without a vote is impossible. One-dimensional, over
    log temperature: a coarse scan, then Brent's method around its best point.
    """
    where = np.broadcast_to(truth[None, ..., None], (*samples.shape[:-1], 1))
    with np.errstate(divide="ignore"):
        logs = np.log(samples.astype(np.float64))
    logs -= logs.max(axis=-1, keepdims=True)

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        own = np.take_along_axis(scaled, where, axis=-1)[..., 0]
        likely = (np.exp(own) / np.exp(scaled).sum(axis=-1)).mean(axis=0)
        prior = 0.5 * (log_temperature / _SPREAD) ** 2 / truth.size
        return prior - float(np.log(np.maximum(likely, _FLOOR)).mean())

    reach = float(np.log(_HOTTEST))
    grid = np.linspace(-reach, reach, 25)
    losses = [loss(value) for value in grid]
    best = int(np.argmin(losses))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x if found.fun <= losses[best] else grid[best]))
