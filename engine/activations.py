"""Activation functions, elementwise except softmax, which is over the last axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "activate"]


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


def activate(name: str, x: Tensor) -> Tensor:
    """Apply an activation, or several joined by `+`, from left to right."""
    for part in name.split("+"):
        x = ACTIVATIONS[part](x)
    return x
