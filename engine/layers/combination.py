"""Layers that join several inputs without weights: product, concatenation, sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.graph import LayerNode

__all__ = ["combine"]


def combine(layer: LayerNode, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the layer's `out`, (rows, size), of inputs (rows, sizes)."""
    if layer.form == "concatenate":
        return {layer.out: torch.cat(list(inputs), dim=1)}
    joined = inputs[0]
    for x in inputs[1:]:
        joined = joined * x if layer.form == "product" else joined + x
    return {layer.out: joined}
