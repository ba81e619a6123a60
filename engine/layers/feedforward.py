"""Feedforward layers: an affine map and an activation; with weights of its own or a partner's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.activations import activate
from engine.graph import LayerNode
from engine.names import output_name

__all__ = ["feedforward"]


def feedforward(
    layer: LayerNode, inputs: Sequence[Tensor], weights: Sequence[Tensor], bias: Tensor
) -> dict[str, Tensor]:
    """Compute ``pre = b + sum_i x_i w_i`` and ``out = activation(pre)``.

    Each input is (rows, inputs), each weight (inputs, columns) and `bias` (columns,), with columns
    >= size: what stands beyond the layer's size is padding and is cut off before the activation.
    """
    pre = bias
    for x, weight in zip(inputs, weights, strict=True):
        pre = torch.addmm(pre, x, weight)
    pre = pre[:, : layer.size]
    return {
        output_name(layer.name, "pre"): pre,
        output_name(layer.name, "out"): activate(layer.activation, pre),
    }
