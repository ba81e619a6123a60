"""Mixed precision (Micikevicius et al. 2018): products in 16 bits, losses and parameters in 32."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["LossScale", "autocast", "precisions_of"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """Return the precisions that a device computes fast enough to be worth their rounding."""
    found = ["float32"]
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            found.append("bfloat16")
        found.append("float16")
    elif torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        found.append("bfloat16")
    return tuple(found)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a network is evaluated for training."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


class LossScale:
    """What a loss is multiplied by so that its gradients do not vanish in 16 bits.

    As `torch.amp.GradScaler` has it: halved where a gradient is not finite, and that step is left
    out; doubled after `GROWTH_STEPS` steps that were taken.
    """

    GROWTH_STEPS = 2000

    def __init__(self) -> None:
        self.scale = 65536.0
        self.taken = 0
        """Steps since it last changed."""

    def see(self, is_finite: bool) -> None:
        """Take note of a step's gradient."""
        if not is_finite:
            self.scale, self.taken = self.scale / 2, 0
            return
        self.taken += 1
        if self.taken == self.GROWTH_STEPS:
            self.scale, self.taken = self.scale * 2, 0

    def state(self) -> dict[str, Any]:
        """Return what it remembers, as JSON can tell it."""
        return dict(vars(self))

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.scale, self.taken = state["scale"], state["taken"]
