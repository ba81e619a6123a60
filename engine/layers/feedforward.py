"""Feedforward layers: an affine map and an activation; with weights of its own or a partner's."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.activations import activate
from engine.graph import LayerNode
from engine.names import output_name

__all__ = ["feedforward"]


def feedforward(layer: LayerNode, x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """Compute ``pre = x w + b`` and ``out = activation(pre)``.

    `x` is (rows, inputs), `weight` (inputs, columns) and `bias` (columns,), with columns >= size:
    what stands beyond the layer's size is padding and is cut off before the activation.
    """
    pre = torch.addmm(bias, x, weight)[:, : layer.size]
    return {
        output_name(layer.name, "pre"): pre,
        output_name(layer.name, "out"): activate(layer.activation, pre),
    }
