"""Activation functions: elementwise, but for softmax and the norms, which are over the units.

Some of them learn: an `Activation` says which parameters its layer holds for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "Activation"]


def _linear(x: Tensor) -> Tensor:
    return x


def _softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=-1)


def _rect_min(x: Tensor) -> Tensor:
    return x.clamp(max=1)


def _rect_minmax(x: Tensor) -> Tensor:
    return x.clamp(0, 1)


def _norm_mean(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)


def _norm_max(x: Tensor) -> Tensor:
    return x / (x.abs().amax(dim=-1, keepdim=True) + _EPSILON)


def _norm_std(x: Tensor) -> Tensor:
    return x / (x.std(dim=-1, keepdim=True, correction=0) + _EPSILON)


def _norm_z(x: Tensor) -> Tensor:
    return _norm_mean(x) / (x.std(dim=-1, keepdim=True, correction=0) + _EPSILON)


_EPSILON = 1e-8  # theanets'; keeps the norm of zeros finite

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softmax": _softmax,
    "elu": functional.elu,  # Clevert et al. 2016, alpha = 1
    "gelu": functional.gelu,  # Hendrycks & Gimpel 2016, the exact form x * Phi(x)
    "silu": functional.silu,  # x * sigmoid(x)
    "rect:max": torch.relu,
    "rect:min": _rect_min,
    "rect:minmax": _rect_minmax,
    "norm:mean": _norm_mean,
    "norm:max": _norm_max,
    "norm:std": _norm_std,
    "norm:z": _norm_z,
}


def _prelu(x: Tensor, leak: Tensor) -> Tensor:
    return torch.where(x > 0, x, leak * x)


def _lgrelu(x: Tensor, gain: Tensor, leak: Tensor) -> Tensor:
    return torch.where(x > 0, gain, leak) * x


def _maxout(x: Tensor, slope: Tensor, intercept: Tensor) -> Tensor:
    return (x.unsqueeze(-1) * slope + intercept).amax(dim=-1)


def _leaks(normal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.abs(normal) * np.float32(0.1)


def _gains(normal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.float32(1) + _leaks(normal)


def _pieces(normal: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return normal


_Start = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class _Learnt:
    """An activation with parameters: how they begin, from normal numbers, in `apply`'s order."""

    apply: Callable[..., Tensor]
    begins: Mapping[str, _Start]


_LEARNT: Mapping[str, _Learnt] = {
    "prelu": _Learnt(apply=_prelu, begins={"leak": _leaks}),  # He et al. 2015
    "lgrelu": _Learnt(apply=_lgrelu, begins={"gain": _gains, "leak": _leaks}),
    "maxout": _Learnt(apply=_maxout, begins={"slope": _pieces, "intercept": _pieces}),
}


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One function of several joined by `+`; without `learnt` the name is in `ACTIVATIONS`."""

    name: str
    learnt: _Learnt | None = None
    names: tuple[str, ...] = ()
    """Of its parameters within the layer."""
    shape: tuple[int, ...] = ()
    """Of each of them."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What a layer applies to `pre`: a function, or several joined by `+`, from left to right.

    `prelu` is x where x > 0, else leak x; `lgrelu` gain x, else leak x; `maxout:k` the largest of k
    pieces slope_i x + intercept_i; each unit has parameters of its own, (size,) or (size, k). Where
    two functions of one layer have a parameter of one name, the later one's is `leak_2`.
    """

    name: str
    size: int
    """How many units there are."""
    axis: int = -1
    """Along which axis of (rows, …) they stand."""

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        taken: dict[str, int] = {}
        return tuple(self._part(name, taken) for name in self.name.split("+"))

    def _part(self, name: str, taken: dict[str, int]) -> _Part:
        word, _, pieces = name.partition(":")
        learnt = _LEARNT.get(word)
        if learnt is None:
            return _Part(name=name)
        names = []
        for local in learnt.begins:
            taken[local] = taken.get(local, 0) + 1
            names.append(local if taken[local] == 1 else f"{local}_{taken[local]}")
        shape = (self.size, int(pieces)) if pieces else (self.size,)
        return _Part(name=name, learnt=learnt, names=tuple(names), shape=shape)

    @cached_property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what is learnt, by name within the layer; of most activations nothing."""
        return {name: part.shape for part in self._parts for name in part.names}

    @property
    def functions(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The name of each function, from left to right, and of what it learns in the layer."""
        return tuple((part.name, part.names) for part in self._parts)

    @property
    def numbers_per_unit(self) -> int:
        """How many numbers it holds at once for each unit."""
        return max(math.prod(part.shape[1:]) for part in self._parts)

    def begin(self, local: str, draw: np.random.Generator) -> npt.NDArray[np.float32]:
        """Return how a parameter begins.

        A leak is a tenth of a normal number's size, a gain one more than that, slopes and
        intercepts are normal.
        """
        for part in self._parts:
            if part.learnt is not None and local in part.names:
                start = tuple(part.learnt.begins.values())[part.names.index(local)]
                return start(draw.standard_normal(part.shape, dtype=np.float32))
        raise KeyError(local)

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the activation of x (rows, …), whose units stand along `axis`.

        `weights` holds the parameters by their names within the layer, perhaps among others: as
        they are, with padding behind their last axis, or one of each row's own.
        """
        if self.axis != -1:
            x = x.movedim(self.axis, -1)
        for part in self._parts:
            if part.learnt is None:
                x = ACTIVATIONS[part.name](x)
            else:
                x = part.learnt.apply(x, *_aligned(part, weights, x.dim()))
        return x if self.axis == -1 else x.movedim(-1, self.axis).contiguous()


def _aligned(part: _Part, weights: Mapping[str, Tensor], dimensions: int) -> Iterator[Tensor]:
    """Yield a part's parameters without padding, so that they broadcast against (rows, …, size)."""
    for name in part.names:
        values = weights[name][..., : part.shape[-1]]
        if values.dim() > len(part.shape):  # one of each row's own
            between = (1,) * (dimensions - 2)
            values = values.reshape(len(values), *between, *part.shape)
        yield values
