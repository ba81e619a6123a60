"""Fallbacks: the epoch to go back to when the loss has diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from engine.epochs import Best

__all__ = ["Fallback"]


class Fallback:
    """The parameters of the epoch with the least training loss.

    For trainings that keep their last epoch, which may be one step from infinity; where the best on
    the validation rows are kept, these serve.
    """

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat.detach().clone()
        self.epoch = 0
        self._loss = math.inf
        self._record: dict[str, Any] = {}

    def see(self, epoch: int, flat: Tensor, record: Mapping[str, Mapping[str, float]]) -> None:
        """Take note of the parameters at the end of an epoch, and of its metrics."""
        loss = record["train"]["loss"]
        if loss < self._loss:
            self.epoch = epoch
            self._loss = loss
            self._record = dict(record)
            self.flat.copy_(flat)

    def best(self, waiting: Best) -> Best:
        """Return what a training that keeps its last epoch remembers where this was the last."""
        loss = self._record.get("valid", {}).get("loss", -math.inf)
        return Best(
            epoch=self.epoch, loss=loss, reference=waiting.reference, record=dict(self._record)
        )

    def state(self) -> dict[str, Any]:
        """Return what it remembers beside the parameters, as JSON can tell it."""
        return {"epoch": self.epoch, "loss": self._loss, "record": self._record}

    def restore(self, flat: Tensor, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, and its parameters."""
        self.flat.copy_(flat)
        self.epoch, self._loss, self._record = state["epoch"], state["loss"], state["record"]
