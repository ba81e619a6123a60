"""Epochs: what their ends tell, what adds up within one, and which is the best so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.masks import Tally

__all__ = ["Best", "BlockEnd", "EpochEnd", "EpochSums", "Measured", "MeasuredMeans", "add"]


@dataclass(frozen=True, kw_only=True)
class BlockEnd:
    """Some steps of an epoch are done."""

    epoch: int
    rows_done: int
    """Rows of this epoch trained on so far."""


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """An epoch is done and measured."""

    epoch: int
    train: dict[str, float]
    """`loss`: the mean over the epoch's rows, with dropout and regularizer terms."""
    valid: dict[str, float]
    """Metrics of the deterministic pass over the validation rows; empty without any."""
    regularizers: list[dict[str, Any]]
    """For each regularizer its `index`, the mean weighted `loss` it added, and `rates` dropped."""
    is_best: bool
    """Whether the parameters of this epoch are kept: the best so far, or those to be kept last."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a deterministic pass over rows says beside its outputs."""

    losses: dict[str, float]
    """Means over the rows, by their weights where they have some: `loss`, and its terms."""
    shares: dict[str, float] = field(default_factory=dict)
    """Means over the rows."""

    @property
    def values(self) -> dict[str, float]:
        return self.losses | self.shares


class _Weighted(Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def weights(self) -> Any:
        """A tensor (rows, …), or None."""


class MeasuredMeans:
    """What passes over pieces of rows say of all of them."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._losses: tuple[str, ...] = ()
        self._rows = 0
        self._mass = 0.0

    def add(self, measured: Measured, piece: _Weighted) -> None:
        """Count what was measured of a piece."""
        weights = piece.weights
        mass = float(piece.rows) if weights is None else float(weights.double().sum().item())
        self._mass += mass
        self._rows += piece.rows
        self._losses = tuple(measured.losses)
        for name, value in measured.losses.items():
            add(self._sums, name, mass * value)
        for name, value in measured.shares.items():
            add(self._sums, name, piece.rows * value)

    def values(self) -> dict[str, float]:
        """Return the means over all."""
        by_mass = dict.fromkeys(self._losses, self._mass)
        return {name: total / by_mass.get(name, self._rows) for name, total in self._sums.items()}


@dataclass
class EpochSums:
    """What accumulates within an epoch."""

    rows: int = 0
    loss: float = 0.0
    terms: dict[str, float] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    shares: dict[str, float] = field(default_factory=dict)


def add(totals: dict[str, float], key: str, value: float) -> None:
    totals[key] = totals.get(key, 0.0) + value


@dataclass
class Best:
    """Early stopping's memory."""

    epoch: int = 0
    loss: float = math.inf
    reference: float = math.inf
    """The loss that the next one must undercut by `min_improvement` to count as better."""
    waited: int = 0
    record: dict[str, Any] = field(default_factory=dict)
