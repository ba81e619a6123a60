"""Losses: a number per row, averaged by the rows' weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.graph import Graph
from engine.regularizers.sites import Site

__all__ = ["PROBABILITY_FLOOR", "loss_outputs", "row_losses", "weighted_mean"]

PROBABILITY_FLOOR = 1e-7
"""Where masks act on a classifier's probabilities, the loss takes the logarithm of no less."""


def loss_outputs(graph: Graph, sites: Mapping[str, tuple[Site, ...]]) -> tuple[str, ...]:
    """Return the outputs that the loss reads, given the sites that act on outputs.

    Cross-entropy is computed from the last layer's `pre`, which is exact for any logit, unless its
    probabilities themselves are dropped or noisy.
    """
    last = graph.last
    if graph.loss != "xe" or last.out in sites:
        return (last.out,)
    pre = f"{last.name}:pre"
    return (pre + sites[pre][0].suffix if pre in sites else pre,)


def row_losses(graph: Graph, outputs: Mapping[str, Tensor], targets: Tensor) -> Tensor:
    """Return the loss of each row, (rows,), or of each step of a sequence, (rows, steps).

    `targets` are (rows, outputs), (rows, steps, outputs) or (rows, channels, height, width) for
    `mse` and `mae`, the mean over the outputs of squared or absolute differences; class indices
    (rows,) or (rows, steps) for `xe`, -log p of the true class in nats.
    """
    ((name, value),) = outputs.items()
    if graph.loss == "xe":
        if name == graph.last.out:
            logs = value.clamp_min(PROBABILITY_FLOOR).log()
        else:
            logs = torch.log_softmax(value, dim=-1)
        return -logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    difference = value - targets
    sizes = difference.square() if graph.loss == "mse" else difference.abs()
    return sizes.mean(dim=-1) if sizes.dim() < 4 else sizes.flatten(1).mean(dim=1)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Average the losses of rows, or of steps; those of weight 0 do not count, none at all give 0.

    `weights` are (rows,), or (rows, steps) for the losses of steps.
    """
    if weights is None:
        return losses.mean()
    if losses.dim() > weights.dim():
        losses = losses.mean(dim=1)
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)
