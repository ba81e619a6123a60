"""Losses: terms that compare outputs with targets, averaged by the rows' weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.graph import Graph
from engine.layers.feedforward import Feedforward
from engine.names import output_name
from engine.objective import Loss
from engine.regularizers.sites import Site

__all__ = ["PROBABILITY_FLOOR", "LossTerms", "prediction_loss"]

PROBABILITY_FLOOR = 1e-7
"""Where masks act on probabilities, the loss takes the logarithm of no less."""


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
        *,
        batch_size: int | None = None,
    ) -> list[Tensor]:
        """Return the weighted terms, scalars through which gradients flow.

        `targets` are the job's own, then the auxiliary ones: (rows, *shape), or class numbers
        (rows,) or (rows, steps); `weights` (rows,) or (rows, steps). Terms that compare rows with
        each other do so within batches of `batch_size` rows, all at once by default.
        """
        batch_size = batch_size or len(targets[0])
        return [
            loss.weight * self._value(loss, read, outputs, targets, weights, batch_size)
            for loss, read in zip(self._losses, self._reads, strict=True)
        ]

    def _value(
        self,
        loss: Loss,
        read: str,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Tensor],
        weights: Tensor | None,
        batch_size: int,
    ) -> Tensor:
        value = outputs[read]
        target = targets[0 if loss.target is None else loss.target + 1]
        match loss.form:
            case "mmd":
                return _in_batches(value, target, weights, loss.kernel, batch_size)
            case "xe":
                losses = cross_entropy(value, target, is_logits=read != loss.output)
            case "hinge":
                losses = hinge(value, target)
            case "kl":
                losses = divergence(value, target, is_logits=read != loss.output)
            case "gll":
                assert loss.covar is not None
                variance = outputs[loss.covar].abs() + loss.covar_eps
                losses = gaussian(value, variance, target)
            case "mae":
                losses = _over_outputs((value - target).abs())
            case _:
                losses = _over_outputs((value - target).square())
        return weighted_mean(losses, weights)


def prediction_loss(
    graph: Graph,
    prediction: npt.NDArray[np.float32],
    targets: Tensor,
    weights: Tensor | None,
    *,
    batch_size: int,
) -> float | None:
    """Return the loss of predictions (rows, *shape) that no single network need have made.

    None where the network's loss reads other outputs, or other targets, too.
    """
    out = graph.last.out
    terms = LossTerms(graph, {out: ()})
    if terms.outputs != (out,) or any(loss.target is not None for loss in graph.losses):
        return None
    values = {out: torch.from_numpy(prediction)}
    return float(sum(terms.values(values, [targets], weights, batch_size=batch_size)))


def _reads(graph: Graph, loss: Loss, sites: Mapping[str, tuple[Site, ...]]) -> str:
    """Return the output that a term reads.

    Logarithms of probabilities are computed from the layer's `pre`, which is exact for any logit,
    unless the probabilities themselves are dropped or noisy.
    """
    layer = next(layer for layer in graph.layers if loss.output in layer.outputs)
    pre = output_name(layer.name, "pre")
    is_plain = isinstance(layer, Feedforward) and layer.activation == "softmax"
    if loss.form not in ("xe", "kl") or loss.output in sites or not is_plain:
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
    return -_logs(values, is_logits).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _logs(values: Tensor, is_logits: bool) -> Tensor:
    if is_logits:
        return torch.log_softmax(values, dim=-1)
    return values.clamp_min(PROBABILITY_FLOOR).log()


def hinge(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return how far the likeliest class is before the true one: max_k q_k - q_t."""
    true = probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return probabilities.amax(dim=-1) - true


def divergence(values: Tensor, targets: Tensor, *, is_logits: bool) -> Tensor:
    """Return the Kullback-Leibler divergence of targets t from probabilities x, over d outputs.

    sum_i t_i log(t_i / x_i) / d, with 0 log 0 = 0; (rows,) or (rows, steps).
    """
    parts: Tensor = torch.special.xlogy(targets, targets) - targets * _logs(values, is_logits)
    return parts.mean(dim=-1)


def gaussian(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """Return -log p of the targets under independent normal distributions, in nats.

    The densities of a row's (a step's) outputs are multiplied; of an image those of each pixel's
    channels, averaged over the pixels.
    """
    squares = (targets - mean).square() / variance
    logs = 0.5 * (squares + variance.log() + math.log(2 * math.pi))
    return logs.sum(dim=-1) if logs.dim() < 4 else logs.sum(dim=1).flatten(1).mean(dim=1)


def _in_batches(
    values: Tensor, targets: Tensor, weights: Tensor | None, width: float, batch_size: int
) -> Tensor:
    """Return the mean over batches, in their order, of their discrepancies, by rows or weights."""
    total, count = values.new_zeros(()), values.new_zeros(())
    for start in range(0, len(values), batch_size):
        rows = slice(start, min(start + batch_size, len(values)))
        part = None if weights is None else weights[rows]
        share = values[rows].new_tensor(len(values[rows])) if part is None else part.sum()
        total = total + share * discrepancy(values[rows], targets[rows], width, part)
        count = count + share
    return total / count.clamp_min(torch.finfo(torch.float32).tiny)


def discrepancy(
    values: Tensor, targets: Tensor, width: float, weights: Tensor | None = None
) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples (Gretton et al. 2007).

    mean k(t, t') - 2 mean k(t, x) + mean k(x, x') with k(x, y) = exp(-||x - y||^2 / width). Samples
    are (rows, outputs); of (rows, steps, outputs) those of each step, averaged over the steps; an
    image is one vector. With `weights` (rows,) or (rows, steps) the means are weighted ones.
    """
    if values.dim() != 3:
        values, targets = values.flatten(1).unsqueeze(1), targets.flatten(1).unsqueeze(1)
    rows, steps = values.shape[:2]
    mass = (values.new_ones(rows) if weights is None else weights).reshape(rows, -1)
    if mass.shape[1] != steps:
        mass = mass.mean(dim=1, keepdim=True).expand(rows, steps)
    mass = mass.T  # (steps, rows)
    totals = mass.sum(dim=1)
    tiny = torch.finfo(torch.float32).tiny
    shares = mass / totals.clamp_min(tiny).unsqueeze(1)
    # What both have in common changes no difference, but would cost the products their digits.
    x, t = values.transpose(0, 1), targets.transpose(0, 1)  # (steps, rows, outputs)
    centre = shares.unsqueeze(1) @ t
    x, t = x - centre, t - centre

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        # By the inner products, since the differences of all pairs would take too much memory.
        squares = a.square().sum(dim=-1).unsqueeze(2) + b.square().sum(dim=-1).unsqueeze(1)
        distances = (squares - 2 * a @ b.transpose(1, 2)).clamp_min(0)
        kernel = torch.exp(-distances / width)
        mean: Tensor = shares.unsqueeze(1) @ kernel @ shares.unsqueeze(2)
        return mean.flatten()

    found = mean_kernel(t, t) - 2 * mean_kernel(t, x) + mean_kernel(x, x)
    total: Tensor = (found * totals).sum() / totals.sum().clamp_min(tiny)
    return total


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Average the losses of rows, or of steps; those of weight 0 do not count, none at all give 0.

    `weights` are (rows,) or (rows, steps); those of steps are averaged for the losses of rows.
    """
    if weights is None:
        return losses.mean()
    if losses.dim() > weights.dim():
        losses = losses.mean(dim=1)
    if weights.dim() > losses.dim():
        weights = weights.mean(dim=1)
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)
