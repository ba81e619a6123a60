"""Rows to train on, encoded and resident on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from engine.data.inputs import Inputs

__all__ = ["TrainingData"]


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Encoded rows, resident on the device."""

    x: Inputs
    """Tensors (rows, *shape), float32, by the output of the input layer"""
    y: Any
    """A tensor, or windows of one: (rows, *shape) float32, or class indices (rows,) or
    (rows, steps) int64"""
    weights: Any = None
    """A tensor, or windows of one: (rows,) or (rows, steps), non-negative; or None"""
    auxiliary: tuple[Any, ...] = ()
    """Targets of losses that have their own, like `y`"""

    @property
    def rows(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice) -> TrainingData:
        """Return these rows: a slice, or their numbers."""
        return TrainingData(
            x=self.x[rows],
            y=self.y[rows],
            weights=None if self.weights is None else self.weights[rows],
            auxiliary=tuple(target[rows] for target in self.auxiliary),
        )

    @property
    def targets(self) -> tuple[Any, ...]:
        """The job's targets, and then those of losses that have their own."""
        return (self.y, *self.auxiliary)
