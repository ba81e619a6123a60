"""BatchBALD: the rows whose labels together tell most of which of the passes is right.

The passes t of a model whose masks are shared are functions; the labels of rows y_1 … y_b tell them
apart by I(y_1 … y_b; t) = H(y_1 … y_b) - Σ_i E_t H(y_i | t) (Kirsch, van Amersfoort & Gal 2019).
Rows are chosen greedily: each next one by what its label adds, H(y | y_1 … y_b) - E_t H(y | t). So
they tell at least 1 - 1/e of what the best ones would. The sum over all labels of the rows chosen
so far is exact as long as these are few; beyond, it is over labels that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.statistics import entropy
from engine.streams import generator

__all__ = ["CONFIGURATIONS", "MOST_PASSES", "Chosen", "choose"]

Doubles = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]

CONFIGURATIONS = 4096
"""Labels of all rows chosen so far that are looked at: all there are, or so many drawn ones."""
MOST_PASSES = 4096
"""Passes that may be told apart: for each of them and all labels looked at a number is held."""
_NUMBERS = 1 << 22
"""Held at once while rows are compared."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A row of a batch."""

    index: int
    gain: float
    """What its label adds, in nats."""
    is_exact: bool
    """Whether all labels of the rows before it were looked at, and not drawn ones."""


class _Labels:
    """Labels of the rows chosen so far: how likely, and how likely each makes each pass."""

    def __init__(self, shares: Samples, seed: int) -> None:
        self.shares = shares
        self.is_exact = True
        self._seed = seed
        self._chosen = 0
        self._weights: Doubles = np.ones(1)
        self._ratios: Doubles = np.ones((len(shares), 1))
        """P(labels | pass) / P(labels), (passes, labels): their mean over the passes is 1."""

    def predicted(self, rows: slice | npt.NDArray[np.int64]) -> Doubles:
        """Return P(label | labels so far), (labels so far, rows, classes)."""
        passes, _, classes = self.shares.shape
        given = self.shares[:, rows].astype(np.float64)
        told = self._ratios.T @ given.reshape(passes, -1) / passes
        return np.asarray(told.reshape(len(told), -1, classes))

    def gains(self, own: Doubles, rows: slice) -> Doubles:
        """Return what the label of each row adds; `own` is its E_t H(y | t)."""
        conditional = entropy(self.predicted(rows))
        gained: Doubles = self._weights @ conditional - own[rows]
        return gained

    def add(self, index: int) -> None:
        """Look at the labels of one more row."""
        told = self.predicted(np.array([index]))[:, 0]
        own = self.shares[:, index].astype(np.float64)
        if self.is_exact and told.size <= CONFIGURATIONS:
            there = told > 0
            self._ratios = (self._ratios[:, :, None] * own[:, None, :])[:, there] / told[there]
            self._weights = (self._weights[:, None] * told)[there]
        else:
            draws = generator(self._seed, "batch_bald", self._chosen)
            if self.is_exact:
                told = self._draw(told, draws)
            sums = told.cumsum(axis=1)
            at = (draws.random(len(told))[:, None] * sums[:, -1:] >= sums).sum(axis=1)
            labels = np.minimum(at, told.shape[1] - 1)
            chosen = told[np.arange(len(told)), labels]
            self._ratios = self._ratios * own[:, labels] / chosen
        self._chosen += 1

    def _draw(self, told: Doubles, draws: np.random.Generator) -> Doubles:
        """Go over from all labels to drawn ones, as many of each as it is likely, about."""
        ends = self._weights.cumsum()
        places = (np.arange(CONFIGURATIONS) + draws.random()) / CONFIGURATIONS * ends[-1]
        drawn = np.minimum(np.searchsorted(ends, places, side="right"), len(ends) - 1)
        self._ratios = self._ratios[:, drawn]
        self._weights = np.full(CONFIGURATIONS, 1 / CONFIGURATIONS)
        self.is_exact = False
        return np.asarray(told[drawn])


def choose(
    shares: Samples, count: int, *, seed: int, go_on: Callable[[], None] = lambda: None
) -> Iterator[Chosen]:
    """Yield up to `count` rows of class probabilities (passes, rows, classes), the first one first.

    Each pass is one function of all rows. Of equal rows the earlier one is chosen. `go_on` is
    called every so often, and may raise.
    """
    _, rows, classes = shares.shape
    own = np.concatenate([_mean_entropy(shares[:, part]) for part in _parts(rows, classes, shares)])
    labels = _Labels(shares, seed)
    left = np.ones(rows, dtype=np.bool_)
    best: int | None = None
    for _ in range(min(count, rows)):
        if best is not None:
            labels.add(best)
        gains = np.empty(rows)
        for part in _parts(rows, classes, shares):
            go_on()
            gains[part] = labels.gains(own, part)
        best = int(np.argmax(np.where(left, gains, -np.inf)))
        yield Chosen(index=best, gain=max(0.0, float(gains[best])), is_exact=labels.is_exact)
        left[best] = False


def _mean_entropy(shares: Samples) -> Doubles:
    mean: Doubles = entropy(shares).mean(axis=0)
    return mean


def _parts(rows: int, classes: int, shares: Samples) -> Iterator[slice]:
    size = max(1, _NUMBERS // (classes * max(CONFIGURATIONS, len(shares))))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
