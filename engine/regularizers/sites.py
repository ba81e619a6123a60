"""Sites: where masks and noise act on a network's outputs, and what is drawn there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.names import PREDROP, PRENOISE
from engine.streams import drop_mask, normal_noise

__all__ = ["Site"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place where a regularizer acts: one of the outputs that it matches."""

    regularizer: int
    """Index of the regularizer among those resolved."""
    kind: Literal["dropout", "noise"]
    output: str
    level: float
    """The probability of dropping, or the standard deviation of the noise."""
    address: tuple[int | str, ...]
    """What its random stream is keyed by, after seed and purpose; never a position in a list."""

    @property
    def suffix(self) -> str:
        """Under which the output's value before the first site of this kind is readable."""
        return PREDROP if self.kind == "dropout" else PRENOISE

    def draw(
        self, states: npt.NDArray[np.uint64], shape: tuple[int, ...]
    ) -> npt.NDArray[np.float32]:
        """Draw, for an output (rows, *shape), what it is multiplied by, or what is added to it.

        The result is (rows, …) and broadcasts against the output: an axis along which all share one
        draw has length 1. Elements are drawn in the order of the output's own, last axis fastest,
        so that the first steps of a sequence do not depend on how many follow.
        """
        drawn_shape = self.drawn_shape(shape)
        width = math.prod(drawn_shape)
        if self.kind == "noise":
            flat = normal_noise(states, width) * np.float32(self.level)
        else:
            drop = drop_mask(states, width, self.level)
            flat = np.where(drop, np.float32(0), np.float32(1.0 / (1.0 - self.level)))
        return flat.reshape(len(states), *drawn_shape)

    def drawn_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of what is drawn for a row of an output of that shape."""
        return shape
