"""Sites: where masks and noise act on a network's outputs and weights, and what is drawn there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.kernels.builds import kernels
from engine.kernels.draws import drop_factors, normal_numbers
from engine.names import PREDROP, PRENOISE
from engine.regularizers.concrete import ConcreteDropout
from engine.regularizers.connections import DropConnect
from engine.regularizers.dropout import BernoulliDropout
from engine.regularizers.noise import GaussianNoise
from engine.streams import Words, drop_mask, normal_noise, threshold, told, uniform_logits

__all__ = ["Site", "sites_of"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place where a regularizer acts: one of the outputs or weights that it matches."""

    regularizer: int
    """Index of the regularizer among those resolved."""
    kind: Literal["dropout", "noise", "connection", "concrete"]
    output: str
    """Name of the output; of the parameter for a connection."""
    level: float
    """The probability of dropping, or the standard deviation of the noise."""
    address: tuple[int | str, ...]
    """What its random stream is keyed by, after seed and purpose; never a position in a list."""
    shares_steps: bool = False
    shares_pixels: bool = False

    @cached_property
    def told(self) -> bytes:
        """The address as it is hashed."""
        return told(*self.address)

    @property
    def acts(self) -> bool:
        """Whether it changes anything."""
        return self.level > 0

    @property
    def adds(self) -> bool:
        """Whether what is drawn is added, and not multiplied by."""
        return self.kind == "noise"

    @property
    def suffix(self) -> str:
        """Under which the output's value before the first site of this kind is readable."""
        return PRENOISE if self.kind == "noise" else PREDROP

    def draw(self, states: Words, shape: tuple[int, ...]) -> Floats:
        """Draw, for an output (rows, *shape), what it is multiplied by, or what is added to it.

        The result is (rows, …) and broadcasts against the output: an axis along which all share one
        draw has length 1. Elements are drawn in the order of the output's own, last axis fastest,
        so that the first steps of a sequence do not depend on how many follow. For Concrete dropout
        these are the logits of uniform numbers, of which a rate makes a mask.
        """
        drawn_shape = self._drawn_shape(shape)
        width = math.prod(drawn_shape)
        if self.kind == "noise":
            flat = _noise(states, width, self.level)
        elif self.kind == "concrete":
            flat = uniform_logits(states, width)
        else:
            flat = _factors(states, width, self.level)
        return flat.reshape(len(states), *drawn_shape)

    def shares_axes(self, shape: tuple[int, ...]) -> bool:
        """Say whether elements of an output (rows, *shape) share one draw."""
        return self._drawn_shape(shape) != shape

    def _drawn_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.shares_steps and len(shape) == 2:
            return (1, shape[1])
        if self.shares_pixels and len(shape) == 3:
            return (shape[0], 1, 1)
        return shape


def _noise(states: Words, width: int, std: float) -> Floats:
    compiled = kernels()
    if compiled is None:
        return normal_noise(states, width) * np.float32(std)
    return normal_numbers(compiled, states, width, scale=std)


def _factors(states: Words, width: int, rate: float) -> Floats:
    """Return what dropout multiplies by."""
    scale = 1.0 / (1.0 - rate)
    compiled = kernels()
    if compiled is None:
        return np.where(drop_mask(states, width, rate), np.float32(0), np.float32(scale))
    return drop_factors(compiled, states, width, limit=threshold(rate), scale=scale)


def sites_of(regularizers: Sequence[Any]) -> dict[str, tuple[Site, ...]]:
    """Return what acts on each output, and each parameter, by name, in order of application.

    A stream's address is its `rng` (or 0), output and pattern. Where two regularizers agree in all
    three, the later one's address says so, and they stay independent.
    """
    seen: Counter[tuple[int | str, ...]] = Counter()
    sites: dict[str, tuple[Site, ...]] = {}
    for index, regularizer in enumerate(regularizers):
        kind = _kind(regularizer)
        if kind is None:
            continue
        for name in regularizer.matched:
            base: tuple[int | str, ...] = (regularizer.rng or 0, name, regularizer.pattern)
            base = base if kind == "dropout" else (*base, kind)
            repeat = seen[base]
            seen[base] += 1
            site = Site(
                regularizer=index,
                kind=kind,
                output=name,
                level=1.0 if kind == "concrete" else regularizer.weight,
                address=(*base, repeat) if repeat else base,
                shares_steps=getattr(regularizer, "steps", None) == "shared",
                shares_pixels=getattr(regularizer, "spatial", False),
            )
            sites[name] = (*sites.get(name, ()), site)
    return sites


def _kind(regularizer: object) -> Literal["dropout", "noise", "connection", "concrete"] | None:
    match regularizer:
        case BernoulliDropout():
            return "dropout"
        case GaussianNoise():
            return "noise"
        case DropConnect():
            return "connection"
        case ConcreteDropout():
            return "concrete"
    return None
