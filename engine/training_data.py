"""Rows to train on and to measure by: encoded and resident on the device, or read as needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.data.inputs import Inputs
from engine.data.windows import Windows
from engine.streams import Permutations

__all__ = ["Pool", "Shuffled", "TrainingData", "TrainingRows"]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Rows that are in memory together, and the order in which an epoch takes them."""

    first: int
    """The place in the epoch of the first one taken."""
    rows: TrainingData
    order: Tensor
    """Their numbers among `rows`, int64."""

    @property
    def stop(self) -> int:
        """The place in the epoch after the last one."""
        return self.first + self.order.shape[0]


class Shuffled(Protocol):
    """Rows in the random order of each epoch, a function of seed and epoch alone."""

    def pools(self, epoch: int, place: int) -> Iterator[Pool | None]:
        """Yield the pools of an epoch, from that of this place on; None while one is awaited."""


class TrainingRows(Protocol):
    """Encoded rows, wherever they are."""

    @property
    def rows(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where they are trained on."""

    @property
    def has_windows(self) -> bool:
        """Whether rows are windows that share what they hold."""

    def shuffled(self, *, seed: int, batch_size: int) -> Shuffled:
        """Return them in random order, in pools of whole batches."""

    def pieces(self, batch_size: int) -> Iterator[TrainingData]:
        """Yield them in their order, in pieces of whole batches."""

    def take(self, numbers: npt.NDArray[np.int64]) -> TrainingData:
        """Return some of them."""

    def reconstructing(self) -> TrainingRows:
        """Return them with their inputs as targets."""


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

    @property
    def device(self) -> torch.device:
        device: torch.device = self.y.device
        return device

    @property
    def has_windows(self) -> bool:
        return any(isinstance(rows, Windows) for rows in (*self.x.values.values(), *self.targets))

    def __getitem__(self, rows: Any) -> TrainingData:
        """Return these rows: a slice, or their numbers."""
        return TrainingData(
            x=self.x[rows],
            y=self.y[rows],
            weights=None if self.weights is None else self.weights[rows],
            auxiliary=tuple(target[rows] for target in self.auxiliary),
        )

    def to(self, device: torch.device) -> TrainingData:
        """Return them on a device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device)

        def all_moved(rows: Any) -> Any:
            return rows.map(moved) if isinstance(rows, Windows) else moved(rows)

        return TrainingData(
            x=self.x.map(moved),
            y=all_moved(self.y),
            weights=None if self.weights is None else all_moved(self.weights),
            auxiliary=tuple(map(all_moved, self.auxiliary)),
        )

    @property
    def targets(self) -> tuple[Any, ...]:
        """The job's targets, and then those of losses that have their own."""
        return (self.y, *self.auxiliary)

    def shuffled(self, *, seed: int, batch_size: int) -> Shuffled:
        """Return all in one pool for each epoch, whatever the batches are."""
        del batch_size
        return _Permuted(self, seed)

    def pieces(self, batch_size: int) -> Iterator[TrainingData]:
        """Yield all in one piece."""
        del batch_size
        yield self

    def take(self, numbers: npt.NDArray[np.int64]) -> TrainingData:
        return self[torch.from_numpy(numbers).to(self.device)]

    def reconstructing(self) -> TrainingData:
        (x,) = self.x.values.values()
        return TrainingData(x=self.x, y=x, weights=self.weights)


class _Permuted:
    def __init__(self, data: TrainingData, seed: int) -> None:
        self._data = data
        self._permutations = Permutations(data.rows, seed=seed)

    def pools(self, epoch: int, place: int) -> Iterator[Pool]:
        del place
        order = torch.from_numpy(self._permutations.of(epoch)).to(self._data.device)
        yield Pool(first=0, rows=self._data, order=order)
