"""Activation functions, elementwise except softmax, which is over the last axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS"]


def _linear(x: Tensor) -> Tensor:
    return x


def _softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=-1)


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "linear": _linear,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "softmax": _softmax,
    "elu": functional.elu,  # Clevert et al. 2016, alpha = 1
    "gelu": functional.gelu,  # Hendrycks & Gimpel 2016, the exact form x * Phi(x)
}
