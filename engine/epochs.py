"""Epochs: what their ends tell, what adds up within one, and which is the best so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from engine.masks import Tally

__all__ = ["Best", "BlockEnd", "EpochEnd", "EpochSums", "add"]


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
