"""Training steps by automatic differentiation: the general path, for every network and device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.epochs import EpochSums, Measured, add
from engine.errors import DivergedError
from engine.graph import Graph
from engine.kernels.recurrence import compiled_scans
from engine.losses import LossTerms
from engine.masks import Masks, TrainingMasks
from engine.mixed_precision import LossScale, autocast
from engine.monitors import gradient_sizes, resolve_monitors
from engine.network import evaluate, trainable_weights
from engine.optimizers import Optimizer, passes_per_step
from engine.parameters import Parameters
from engine.regularizers import ConcreteDropout, ContractivePenalty, Penalty, Regularizer
from engine.spec import EsgdSpec, TrainSpec
from engine.training_data import TrainingData

__all__ = ["BLOCK_FLOPS", "AutogradSteps", "diverged", "diverged_parameters"]

BLOCK_FLOPS = 5e8
"""About 50 ms of products: checkpoints and cancels wait no longer for a block."""
_STEP_FLOPS = 5e6  # what the overhead of one step is worth
_EVALUATION_NUMBERS = 1 << 22  # of all layers' outputs, computed at once
_BLOCK_BYTES = 64 << 20  # of masks drawn at once


class AutogradSteps:
    """The steps of one network's training."""

    def __init__(
        self,
        graph: Graph,
        spec: TrainSpec,
        regularizers: Sequence[Regularizer],
        *,
        rows: int,
        parameters: Parameters,
        optimizer: Optimizer,
        masks: TrainingMasks,
        threads: int | None = None,
    ) -> None:
        """`rows` are how many there are to train on.

        `threads` are the most that kernels of layers use; with None PyTorch does it all.
        """
        self._graph = graph
        self._spec = spec
        self._parameters = parameters
        self._weights = trainable_weights(graph, parameters)
        self._optimizer = optimizer
        self._masks = masks
        self._concrete = [
            (index, regularizer)
            for index, regularizer in enumerate(regularizers)
            if isinstance(regularizer, ConcreteDropout)
        ]
        self._penalties = [
            (index, regularizer)
            for index, regularizer in enumerate(regularizers)
            if isinstance(regularizer, Penalty)
        ]
        self._derives_inputs = any(
            isinstance(penalty, ContractivePenalty) for _, penalty in self._penalties
        )
        self._device = parameters.flat.device
        self.loss_scale = LossScale() if spec.precision == "float16" else None
        """Of gradients that 16 bits would take for zero."""
        derives_twice = self._derives_inputs or isinstance(spec.optimizer, EsgdSpec)
        is_single = spec.precision == "float32"
        self._most_threads = threads if is_single and not derives_twice else None
        batch = min(spec.batch_size, rows)
        self.threads = max(layer.threads(batch, self._most_threads or 1) for layer in graph.layers)
        """How many threads take part."""
        self._terms = LossTerms(graph, masks.sites)
        self._monitors = resolve_monitors(spec, graph)
        read = [name for _, penalty in self._penalties for name in penalty.reads]
        read += [monitor.name for monitor in self._monitors if not monitor.is_parameter]
        self._wanted = tuple(dict.fromkeys((*self._terms.outputs, *read)))
        self._plain_terms = LossTerms(graph, {})
        self._evaluation_rows = max(1, min(4096, _EVALUATION_NUMBERS // graph.numbers_per_row))

    def block_rows(self) -> int:
        """Rows of a block: whole batches, worth about 50 ms of work."""
        batch = self._spec.batch_size
        passes = passes_per_step(self._spec.optimizer)
        step_flops = passes * batch * self._graph.flops_per_row + _STEP_FLOPS
        drawn = 4.0 * batch * self._masks.numbers_per_row
        by_memory = _BLOCK_BYTES / max(1.0, drawn)
        return batch * max(1, int(min(BLOCK_FLOPS / step_flops, by_memory)))

    def train(
        self,
        rows: TrainingData,
        order: Tensor,
        rates: npt.NDArray[np.float64],
        *,
        epoch: int,
        position: int,
        sums: EpochSums,
    ) -> tuple[()]:
        """Take one step per batch of `rows` in this order, the first at `position` in the epoch.

        `order` are numbers of rows, `rates` the learning rates of the steps. Raises DivergedError
        where a loss is not finite; that step changes nothing. Returns what others have to take:
        nothing.
        """
        block = rows[order]
        masks = self._masks.block(epoch, position, len(order), sums.tally)
        for step, start in enumerate(range(0, len(order), self._spec.batch_size)):
            batch = slice(start, min(start + self._spec.batch_size, len(order)))
            own = self._masks.batch(masks, batch, epoch, position, sums.tally)
            self._optimizer.learning_rate = rates[step]
            with compiled_scans(self._most_threads):
                loss = self._step(block[batch], own, sums)
            if not math.isfinite(loss):
                raise diverged(loss, epoch)
            count = batch.stop - batch.start
            sums.rows += count
            sums.loss += loss * count
        return ()

    def let_go(self) -> None:
        """Keep no rows that steps were taken on: none are kept."""

    def measure(self, data: TrainingData) -> tuple[Measured, npt.NDArray[np.float32]]:
        """Return the loss of a deterministic pass, without penalties, and the network's outputs.

        Beside the loss stand its terms, where there are several, and what monitors of outputs see.
        """
        last = self._graph.last
        monitors = [monitor for monitor in self._monitors if not monitor.is_parameter]
        monitored = [monitor.name for monitor in monitors]
        wanted = tuple(dict.fromkeys((last.out, *self._plain_terms.outputs, *monitored)))
        pieces: dict[str, list[Tensor]] = {name: [] for name in wanted}
        with torch.no_grad():
            for start in range(0, data.rows, self._evaluation_rows):
                x = data.x[start : start + self._evaluation_rows]
                values = evaluate(self._graph, self._weights, x.values, wanted=wanted)
                for name, value in values.items():
                    pieces[name].append(value)
            outputs = {name: torch.cat(parts) for name, parts in pieces.items()}
            targets = [target[:] for target in data.targets]  # windows become tensors
            weights = None if data.weights is None else data.weights[:]
            terms = self._plain_terms.values(
                outputs, targets, weights, batch_size=self._spec.batch_size
            )
            losses = {"loss": torch.stack(terms).sum().item()}
            if len(terms) > 1:
                named = zip(self._plain_terms.labels, terms, strict=True)
                losses |= {label: term.item() for label, term in named}
        shares: dict[str, float] = {}
        for monitor in monitors:
            shares |= dict(monitor.shares(outputs[monitor.name]))
        return Measured(losses=losses, shares=shares), outputs[last.out].cpu().numpy()

    def _step(self, data: TrainingData, masks: Masks, sums: EpochSums) -> float:
        """Return the loss; one that is not finite changes no parameter."""
        self._parameters.gradient.zero_()
        x = data.x
        if self._derives_inputs:
            x = x.map(lambda rows: rows.detach().requires_grad_())
        outputs = self._evaluate(x.values, masks)
        terms = self._terms.values(outputs, data.targets, data.weights)
        if len(terms) > 1:
            for label, own in zip(self._terms.labels, terms, strict=True):
                add(sums.shares, label, own.item() * len(x))
        loss = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
        for index, penalty in self._penalties:
            term = penalty.loss(self._parameters.views, outputs, x.values)
            add(sums.terms, str(index), term.item() * len(x))
            loss = loss + term
        for index, concrete in self._concrete:
            term = concrete.loss(index, self._parameters.views)
            add(sums.terms, str(index), term.item() * len(x))
            loss = loss + term
        value = loss.item()
        if not math.isfinite(value):
            return value
        for monitor in self._monitors:
            source = self._parameters.views if monitor.is_parameter else outputs
            for label, share in monitor.shares(source[monitor.name]):
                add(sums.shares, label, share * len(x))
        if self._differentiate(loss):
            self._update(sums, len(x))
        return value

    def _update(self, sums: EpochSums, rows: int) -> None:
        """Change the parameters by their gradient."""
        if self._spec.monitor_gradients:
            for label, size in gradient_sizes(self._parameters.views).items():
                add(sums.shares, label, size * rows)
        if self._spec.gradient_clip is not None:
            norm = torch.linalg.vector_norm(self._parameters.gradient)
            limit = self._spec.gradient_clip
            self._parameters.gradient.mul_(limit / norm.clamp_min(limit))
        self._optimizer.step()

    def _evaluate(self, x: Mapping[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        """Return the wanted outputs in float32, whatever they were computed in."""
        with autocast(self._spec.precision, self._device):
            outputs = evaluate(
                self._graph,
                self._weights,
                x,
                sites=self._masks.sites,
                draw=lambda site, shape: self._masks.mask(
                    site, shape, masks, self._parameters.views
                ),
                wanted=self._wanted,
            )
        return {name: value.float() for name, value in outputs.items()}

    def _differentiate(self, loss: Tensor) -> bool:
        """Put the gradient into its buffer; False where 16 bits could not hold it."""
        if self.loss_scale is None:
            self._optimizer.differentiate(loss)
            return True
        scale = self.loss_scale.scale
        self._optimizer.differentiate(loss * scale)
        gradient = self._parameters.gradient
        is_finite = bool(torch.isfinite(gradient).all())
        gradient.mul_(1 / scale)
        self.loss_scale.see(is_finite)
        return is_finite


def diverged(loss: float, epoch: int) -> DivergedError:
    """Return what is raised where the loss of a step is not finite."""
    return DivergedError(
        f"the training loss became {loss} in epoch {epoch}; a smaller `learning_rate`, a "
        "`gradient_clip` or smaller regularizer weights would help",
        pointer="#/optimizer/learning_rate",
    )


def diverged_parameters(epoch: int) -> DivergedError:
    """Return what is raised where an epoch has left parameters that are not finite."""
    return DivergedError(
        f"parameters became infinite or NaN in epoch {epoch}; a smaller `learning_rate` or a "
        "`gradient_clip` would help",
        pointer="#/optimizer/learning_rate",
    )
