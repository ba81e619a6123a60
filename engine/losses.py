"""Losses: terms that compare outputs with targets, averaged by the rows' weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.graph import Graph, Loss
from engine.names import output_name
from engine.regularizers.sites import Site

__all__ = ["PROBABILITY_FLOOR", "LossTerms"]

PROBABILITY_FLOOR = 1e-7
"""Where masks act on a classifier's probabilities, the loss takes the logarithm of no less."""
_MMD_ROWS = 1024
"""Rows that a discrepancy is taken of at once; of more, the mean over pieces of as many."""


class LossTerms:
    """The terms of a network's loss, given the sites that act on outputs."""

    def __init__(self, graph: Graph, sites: Mapping[str, tuple[Site, ...]]) -> None:
        self._losses = graph.losses
        self._reads = [_reads(graph, loss, sites) for loss in graph.losses]
        self.labels = _labels(graph.losses)
        """One name for each term, such as ``mse(out:out)``."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs that the terms read."""
        covars = (loss.covar for loss in self._losses if loss.covar is not None)
        return tuple(dict.fromkeys((*self._reads, *covars)))

    def values(
        self,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Tensor],
        weights: Tensor | None,
    ) -> list[Tensor]:
        """Return the weighted terms, scalars through which gradients flow.

        `targets` are the job's own, then the auxiliary ones: (rows, *shape), or class numbers
        (rows,) or (rows, steps); `weights` (rows,) or (rows, steps).
        """
        return [
            loss.weight * self._value(loss, read, outputs, targets, weights)
            for loss, read in zip(self._losses, self._reads, strict=True)
        ]

    def _value(
        self,
        loss: Loss,
        read: str,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Tensor],
        weights: Tensor | None,
    ) -> Tensor:
        value = outputs[read]
        target = targets[0 if loss.target is None else loss.target + 1]
        match loss.form:
            case "mmd":
                return discrepancy(value, target, loss.kernel)
            case "xe":
                losses = cross_entropy(value, target, is_logits=read != loss.output)
            case "hinge":
                losses = hinge(value, target)
            case "kl":
                losses = divergence(value, target)
            case "gll":
                assert loss.covar is not None
                variance = outputs[loss.covar].abs() + loss.covar_eps
                losses = gaussian(value, variance, target)
            case "mae":
                losses = _over_outputs((value - target).abs())
            case _:
                losses = _over_outputs((value - target).square())
        return weighted_mean(losses, weights)


def _reads(graph: Graph, loss: Loss, sites: Mapping[str, tuple[Site, ...]]) -> str:
    """Return the output that a term reads.

    Cross-entropy is computed from the layer's `pre`, which is exact for any logit, unless its
    probabilities themselves are dropped or noisy.
    """
    layer = next(layer for layer in graph.layers if loss.output in layer.outputs)
    pre = output_name(layer.name, "pre")
    is_plain = layer.activation == "softmax" and pre in layer.outputs
    if loss.form != "xe" or loss.output in sites or not is_plain:
        return loss.output
    return pre + sites[pre][0].suffix if pre in sites else pre


def _labels(losses: Sequence[Loss]) -> tuple[str, ...]:
    seen: Counter[str] = Counter()
    labels = []
    for loss in losses:
        label = f"{loss.form}({loss.output})"
        seen[label] += 1
        labels.append(label if seen[label] == 1 else f"{label}#{seen[label]}")
    return tuple(labels)


def _over_outputs(sizes: Tensor) -> Tensor:
    """Return the mean over a row's (a step's) outputs, or over all of an image."""
    return sizes.mean(dim=-1) if sizes.dim() < 4 else sizes.flatten(1).mean(dim=1)


def cross_entropy(values: Tensor, targets: Tensor, *, is_logits: bool) -> Tensor:
    """Return -log p of the true class in nats, (rows,) or (rows, steps)."""
    if is_logits:
        logs = torch.log_softmax(values, dim=-1)
    else:
        logs = values.clamp_min(PROBABILITY_FLOOR).log()
    return -logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def hinge(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return how far the likeliest class is before the true one: max_k q_k - q_t."""
    true = probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return probabilities.amax(dim=-1) - true


def divergence(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of targets t from outputs x, over d outputs.

    sum_i t_i log(t_i / x_i) / d, with 0 log 0 = 0.
    """
    logs = probabilities.clamp_min(PROBABILITY_FLOOR).log()
    return _over_outputs(torch.special.xlogy(targets, targets) - targets * logs)


def gaussian(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """Return -log p of the targets under independent normal distributions, in nats."""
    squares = (targets - mean).square() / variance
    return 0.5 * (squares + variance.log() + math.log(2 * math.pi)).sum(dim=-1)


def discrepancy(values: Tensor, targets: Tensor, width: float) -> Tensor:
    """Return the squared maximum mean discrepancy of a batch (Gretton et al. 2007).

    mean k(t, t') - 2 mean k(t, x) + mean k(x, x') with k(x, y) = exp(-||x - y||^2 / width), over
    rows (and steps).
    """
    total = values.new_zeros(())
    pieces = (torch.split(rows.flatten(0, -2), _MMD_ROWS) for rows in (values, targets))
    for x, t in zip(*pieces, strict=True):
        kernels = [_kernel(a, b, width).mean() for a, b in ((t, t), (t, x), (x, x))]
        total = total + (kernels[0] - 2 * kernels[1] + kernels[2]) * len(x)
    return total / (values.numel() // values.shape[-1])


def _kernel(x: Tensor, y: Tensor, width: float) -> Tensor:
    squares = (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(dim=-1)
    return torch.exp(-squares / width)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Average the losses of rows, or of steps; those of weight 0 do not count, none at all give 0.

    `weights` are (rows,), or (rows, steps) for the losses of steps.
    """
    if weights is None:
        return losses.mean()
    if losses.dim() > weights.dim():
        losses = losses.mean(dim=1)
    if weights.dim() > losses.dim():
        weights = weights.mean(dim=1)
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)
