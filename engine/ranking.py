"""Rankings: whether what a model is least sure of is what it gets wrong, or has not seen before.

Of many values with a loss each; equal values are in no order, so that what depends on one is its
mean over all orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

__all__ = ["COVERAGES", "EXACT_VALUES", "Ranking"]

Values = npt.NDArray[np.float64]

COVERAGES = tuple(share / 20 for share in range(1, 21))
"""Shares at which risk-coverage curves are told."""

EXACT_VALUES = 1 << 21
"""Up to so many values are ranked as they are; more by their leading bits."""
_SHIFT = 12
"""Of a float32's 23 bits behind the point 11 tell values apart then: to 1 in 2048."""
_BUCKETS = 1 << (31 - _SHIFT)


class Ranking:
    """Values, none below 0, and the loss that goes with each; memory is bounded."""

    def __init__(self) -> None:
        self._values: list[Values] = []
        self._losses: list[Values] = []
        self._held = 0
        self._buckets: Values | None = None
        """How many values each bucket has, and their losses, (2, buckets)."""

    def add(self, values: Values, losses: npt.ArrayLike) -> None:
        """Add values (n,) and their losses (n,); NaN ranks above all."""
        given = np.broadcast_to(np.asarray(losses, dtype=np.float64), values.shape)
        if self._buckets is None:
            self._values.append(np.asarray(values, dtype=np.float64))
            self._losses.append(given)
            self._held += len(values)
            if self._held <= EXACT_VALUES:
                return
            self._buckets = np.zeros((2, _BUCKETS))
            values, given = np.concatenate(self._values), np.concatenate(self._losses)
            self._values, self._losses = [], []
        with np.errstate(over="ignore"):
            bits = np.abs(values).astype(np.float32).view(np.int32)
        keys = (bits & 0x7FFFFFFF) >> _SHIFT
        self._buckets[0] += np.bincount(keys, minlength=_BUCKETS)
        self._buckets[1] += np.bincount(keys, weights=given, minlength=_BUCKETS)

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return all that was added, for `restore`."""
        if self._buckets is not None:
            return {"buckets": self._buckets.copy()}
        return {"values": _joined(self._values), "losses": _joined(self._losses)}

    def restore(self, state: Mapping[str, npt.NDArray[np.float64]]) -> None:
        """Become what another ranking was."""
        self._buckets = state["buckets"].copy() if "buckets" in state else None
        held = [] if self._buckets is not None else [state["values"]]
        self._values = held
        self._losses = [state["losses"]] if held else []
        self._held = len(held[0]) if held else EXACT_VALUES + 1

    def auroc(self) -> float | None:
        """Return the probability that a value with loss 1 is above one with loss 0; ties are half.

        The area under the receiver operating characteristic, by Mann & Whitney's statistic. None
        where one of the two is missing.
        """
        counts, positives = self._groups()
        negatives = counts - positives
        pairs = positives.sum() * negatives.sum()
        if not pairs > 0:
            return None
        below = np.cumsum(negatives) - negatives
        return float((positives * (below + negatives / 2)).sum() / pairs)

    def risks(self, coverages: Sequence[float]) -> list[float | None]:
        """Return the mean loss of each share of the values, those with the least value.

        The risk-coverage curve (El-Yaniv & Wiener 2010); a share is rounded up to whole values.
        """
        counts, losses = self._groups()
        ends, sums = np.cumsum(counts), np.cumsum(losses)
        if not len(ends):
            return [None for _ in coverages]
        # Minus a rounding error: 0.3 of ten values are three.
        taken = np.clip(np.ceil(np.array(coverages) * ends[-1] - 1e-9), 1, None)
        return [
            float(risk) for risk in np.interp(taken, np.r_[0.0, ends], np.r_[0.0, sums]) / taken
        ]

    def area(self) -> float | None:
        """Return the area under the risk-coverage curve: the mean of its risks over all shares.

        AURC (Geifman & El-Yaniv 2017): (1/n) sum_k (mean loss of the k least values).
        """
        counts, losses = self._groups()
        if not len(counts):
            return None
        ends = np.cumsum(counts)
        starts, before = ends - counts, np.cumsum(losses) - losses
        each = losses / counts
        # The sum over j = 1 … m of (before + j each) / (start + j), within a group of m.
        harmonic = special.digamma(ends + 1) - special.digamma(starts + 1)
        return float((losses + (before - starts * each) * harmonic).sum() / ends[-1])

    def _groups(self) -> tuple[Values, Values]:
        """Return how many of each distinct value there are, ascending, and the sum of losses."""
        if self._buckets is not None:
            there = self._buckets[0] > 0
            return self._buckets[0][there], self._buckets[1][there]
        values, losses = _joined(self._values), _joined(self._losses)
        if not len(values):
            return values, losses
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        counts = np.diff(np.r_[first, len(ordered)]).astype(np.float64)
        return counts, np.add.reduceat(losses[order], first)


def _joined(parts: Sequence[Values]) -> Values:
    return np.concatenate(parts) if parts else np.empty(0)
