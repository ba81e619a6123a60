"""Training: an iterator of events that can be stopped at any of them and resumed to the bit.

`Training` owns everything that changes while a network is trained. Iterating it yields `BlockEnd`
after every few steps and `EpochEnd` after every epoch; stop iterating to stop training. Between two
events `state()` returns all that is needed to go on in another process: masks, permutations and
initial weights are functions of the seed (see `engine.streams`), so only what was learnt is saved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from engine.data.inputs import Inputs
from engine.epochs import Best, BlockEnd, EpochEnd, EpochSums, add
from engine.errors import ArtifactError, DivergedError
from engine.graph import Graph
from engine.initializers import initial_parameters
from engine.losses import LossTerms
from engine.masks import Masks, Tally, TrainingMasks
from engine.metrics import deterministic_metrics
from engine.monitors import gradient_sizes, resolve_monitors
from engine.network import evaluate, trainable_weights
from engine.optimizers import Optimizer, passes_per_step
from engine.parameters import Parameters
from engine.regularizers import (
    ConcreteDropout,
    ContractivePenalty,
    Penalty,
    Regularizer,
)
from engine.regularizers.concrete import rate_of
from engine.spec import TrainSpec
from engine.streams import generator

__all__ = ["BlockEnd", "EpochEnd", "Training", "TrainingData"]

_BLOCK_FLOPS = 5e8  # about 50 ms of products: checkpoints and cancels wait no longer for a block
_STEP_FLOPS = 5e6  # what the overhead of one step is worth
_BLOCK_BYTES = 64 << 20  # of masks drawn at once
_EVALUATION_NUMBERS = 1 << 22  # of all layers' outputs, computed at once


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Encoded rows, resident on the device."""

    x: Inputs
    """Tensors (rows, *shape), float32, by the output of the input layer"""
    y: Any
    """A tensor, or windows of one: (rows, *shape) float32, or class indices (rows,) or
    (rows, steps) int64"""
    weights: Any = None
    """A tensor, or windows of one: (rows,) or (rows, steps), non-negative; or None"""
    auxiliary: tuple[Any, ...] = ()
    """Targets of losses that have their own, like `y`"""

    @property
    def rows(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor | slice) -> TrainingData:
        """Return these rows: a slice, or their numbers."""
        return TrainingData(
            x=self.x[rows],
            y=self.y[rows],
            weights=None if self.weights is None else self.weights[rows],
            auxiliary=tuple(target[rows] for target in self.auxiliary),
        )

    @property
    def targets(self) -> tuple[Any, ...]:
        """The job's targets, and then those of losses that have their own."""
        return (self.y, *self.auxiliary)


class Training:
    """One network in training, on one device."""

    def __init__(
        self,
        graph: Graph,
        spec: TrainSpec,
        regularizers: Sequence[Regularizer],
        train: TrainingData,
        valid: TrainingData | None = None,
        *,
        target_scale: npt.NDArray[np.float64] | None = None,
        initial: Mapping[str, npt.NDArray[np.float32]] | None = None,
    ) -> None:
        """Prepare to train `graph`; `target_scale` takes encoded targets to original units.

        `initial` are parameters, by name, that do not begin as their layers say.
        """
        self.graph = graph
        self.spec = spec
        self.regularizers = tuple(regularizers)
        self.target_scale = target_scale
        self._train = train
        self._valid = valid
        self._device = device = train.y.device
        self._concrete = {
            index: regularizer
            for index, regularizer in enumerate(self.regularizers)
            if isinstance(regularizer, ConcreteDropout)
        }
        logits: dict[str, npt.NDArray[np.float32]] = {
            regularizer.parameter(index, output): np.array(regularizer.initial_logit(), np.float32)
            for index, regularizer in self._concrete.items()
            for output in regularizer.matched
        }
        shapes = {**graph.parameters, **dict.fromkeys(logits, ())}
        self._parameters = Parameters(shapes, device=device)
        self._parameters.assign(
            initial_parameters(graph, seed=spec.seed) | dict(initial or {}) | logits
        )
        self._best_flat = self._parameters.flat.clone()
        self._weights = trainable_weights(graph, self._parameters)
        self._optimizer = Optimizer(spec.optimizer, self._parameters, seed=spec.seed)
        self._masks = TrainingMasks(graph, self.regularizers, seed=spec.seed, device=device)
        self._penalties = [
            (index, regularizer)
            for index, regularizer in enumerate(self.regularizers)
            if isinstance(regularizer, Penalty)
        ]
        self._derives_inputs = any(
            isinstance(penalty, ContractivePenalty) for _, penalty in self._penalties
        )
        self._terms = LossTerms(graph, self._masks.sites)
        self._plain_terms = LossTerms(graph, {})
        self._monitors = resolve_monitors(spec, graph)
        read = [name for _, penalty in self._penalties for name in penalty.reads]
        read += [monitor.name for monitor in self._monitors if not monitor.is_parameter]
        self._wanted = tuple(dict.fromkeys((*self._terms.outputs, *read)))
        self._evaluation_rows = max(1, min(4096, _EVALUATION_NUMBERS // graph.numbers_per_row))
        self.epoch = 0
        """Epochs completed."""
        self._row = 0
        self._sums = EpochSums()
        self._best = Best()

    # -- the loop ----------------------------------------------------------------------------------

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        if self.epoch >= self.spec.epochs:
            return True
        return self.spec.patience is not None and self._best.waited >= self.spec.patience

    @property
    def rows_done(self) -> int:
        """Rows trained on so far, counted anew in every epoch."""
        return self.epoch * self._train.rows + self._row

    def __iter__(self) -> Iterator[BlockEnd | EpochEnd]:
        """Train until finished, from wherever this run stands.

        Raises DivergedError when the loss becomes NaN or infinite.
        """
        block_rows = self._block_rows()
        while not self.is_finished:
            epoch = self.epoch + 1
            order = torch.from_numpy(
                generator(self.spec.seed, "shuffle", epoch).permutation(self._train.rows)
            ).to(self._device)
            while self._row < self._train.rows:
                stop = min(self._row + block_rows, self._train.rows)
                self._train_block(order[self._row : stop], epoch)
                self._row = stop
                if stop < self._train.rows:
                    yield BlockEnd(epoch=epoch, rows_done=stop)
            yield self._end_epoch(epoch)

    def _block_rows(self) -> int:
        """Rows of a block: whole batches, worth about 50 ms of work."""
        batch = self.spec.batch_size
        passes = passes_per_step(self.spec.optimizer)
        step_flops = passes * batch * self.graph.flops_per_row + _STEP_FLOPS
        drawn = 4.0 * batch * self._masks.numbers_per_row
        by_memory = _BLOCK_BYTES / max(1.0, drawn)
        return batch * max(1, int(min(_BLOCK_FLOPS / step_flops, by_memory)))

    def _train_block(self, rows: Tensor, epoch: int) -> None:
        """Take one step per batch of `rows`, numbers of training rows in shuffled order."""
        block = self._train[rows]
        masks = self._masks.block(epoch, self._row, len(rows), self._sums.tally)
        for start in range(0, len(rows), self.spec.batch_size):
            batch = slice(start, min(start + self.spec.batch_size, len(rows)))
            own = self._masks.batch(masks, batch, epoch, self._row, self._sums.tally)
            loss = self._step(block[batch], own)
            count = batch.stop - batch.start
            self._sums.rows += count
            self._sums.loss += loss * count

    def _step(self, data: TrainingData, masks: Masks) -> float:
        self._parameters.gradient.zero_()
        x = data.x
        if self._derives_inputs:
            x = x.map(lambda rows: rows.detach().requires_grad_())
        outputs = evaluate(
            self.graph,
            self._weights,
            x.values,
            sites=self._masks.sites,
            draw=lambda site, shape: self._masks.mask(site, shape, masks, self._parameters.views),
            wanted=self._wanted,
        )
        terms = self._terms.values(outputs, data.targets, data.weights)
        if len(terms) > 1:
            for label, own in zip(self._terms.labels, terms, strict=True):
                add(self._sums.shares, label, own.item() * len(x))
        loss = torch.stack(terms).sum() if len(terms) > 1 else terms[0]
        for index, penalty in self._penalties:
            term = penalty.loss(self._parameters.views, outputs, x.values)
            add(self._sums.terms, str(index), term.item() * len(x))
            loss = loss + term
        for index, concrete in self._concrete.items():
            term = concrete.loss(index, self._parameters.views)
            add(self._sums.terms, str(index), term.item() * len(x))
            loss = loss + term
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(
                f"the training loss became {value} in epoch {self.epoch + 1}; a smaller "
                "`learning_rate`, a `gradient_clip` or smaller regularizer weights would help",
                pointer="#/optimizer/learning_rate",
            )
        for monitor in self._monitors:
            source = self._parameters.views if monitor.is_parameter else outputs
            for label, share in monitor.shares(source[monitor.name]):
                add(self._sums.shares, label, share * len(x))
        self._optimizer.differentiate(loss)
        if self.spec.monitor_gradients:
            for label, size in gradient_sizes(self._parameters.views).items():
                add(self._sums.shares, label, size * len(x))
        if self.spec.gradient_clip is not None:
            norm = torch.linalg.vector_norm(self._parameters.gradient)
            limit = self.spec.gradient_clip
            self._parameters.gradient.mul_(limit / norm.clamp_min(limit))
        self._optimizer.step()
        return value

    def _end_epoch(self, epoch: int) -> EpochEnd:
        sums = self._sums
        train = {"loss": sums.loss / sums.rows}
        train |= {label: total / sums.rows for label, total in sums.shares.items()}
        valid = {} if self._valid is None else self._measure(self._valid)
        regularizers = [self._log_of(index) for index in range(len(self.regularizers))]
        self.epoch = epoch
        self._row = 0
        self._sums = EpochSums()
        is_best = self._keep_if_best(epoch, train, valid)
        return EpochEnd(
            epoch=epoch, train=train, valid=valid, regularizers=regularizers, is_best=is_best
        )

    def _log_of(self, index: int) -> dict[str, Any]:
        sums = self._sums
        rates = sums.tally.rates(index, self.regularizers[index].matched)
        if index in self._concrete:
            rates = self._rates(self._parameters)[index]
        loss = sums.terms.get(str(index), 0.0) / sums.rows
        return {"index": index, "loss": loss, "rates": rates}

    def _keep_if_best(self, epoch: int, train: dict[str, float], valid: dict[str, float]) -> bool:
        best = self._best
        # Without validation rows nothing says which epoch is best: the last one is kept.
        loss = valid.get("loss", -math.inf)
        if not math.isfinite(loss) and valid:
            raise DivergedError(
                f"the validation loss became {loss} in epoch {epoch}; a smaller "
                "`learning_rate` or a `gradient_clip` would help",
                pointer="#/optimizer/learning_rate",
            )
        is_best = loss < best.loss or not valid
        if is_best:
            best.epoch = epoch
            best.loss = loss
            best.record = {"train": train, "valid": valid}
            self._best_flat.copy_(self._parameters.flat)
        margin = self.spec.min_improvement * abs(best.reference)
        if math.isinf(best.reference) or loss < best.reference - margin:
            best.reference = loss
            best.waited = 0
        else:
            best.waited += 1
        return is_best

    # -- measuring ---------------------------------------------------------------------------------

    def _measure(self, data: TrainingData) -> dict[str, float]:
        """Return the metrics of one deterministic pass."""
        last = self.graph.last
        monitored = [monitor.name for monitor in self._monitors if not monitor.is_parameter]
        wanted = tuple(dict.fromkeys((last.out, *self._plain_terms.outputs, *monitored)))
        pieces: dict[str, list[Tensor]] = {name: [] for name in wanted}
        with torch.no_grad():
            for start in range(0, data.rows, self._evaluation_rows):
                x = data.x[start : start + self._evaluation_rows]
                values = evaluate(self.graph, self._weights, x.values, wanted=wanted)
                for name, value in values.items():
                    pieces[name].append(value)
            outputs = {name: torch.cat(parts) for name, parts in pieces.items()}
            targets = [target[:] for target in data.targets]  # windows become tensors
            weights = None if data.weights is None else data.weights[:]
            terms = self._plain_terms.values(
                outputs, targets, weights, batch_size=self.spec.batch_size
            )
            metrics = {"loss": torch.stack(terms).sum().item()}
            if len(terms) > 1:
                named = zip(self._plain_terms.labels, terms, strict=True)
                metrics |= {label: term.item() for label, term in named}
        metrics |= deterministic_metrics(
            self.graph,
            outputs[last.out].cpu().numpy(),
            targets[0].cpu().numpy(),
            target_scale=self.target_scale,
        )
        for monitor in self._monitors:
            if not monitor.is_parameter:
                metrics |= dict(monitor.shares(outputs[monitor.name]))
        return metrics

    # -- what is kept ------------------------------------------------------------------------------

    @property
    def kept_epoch(self) -> int:
        """The epoch whose parameters are kept: the best on the validation rows, else the last."""
        return self._best.epoch

    @property
    def kept_metrics(self) -> dict[str, Any]:
        """`train` and `valid` metrics of the kept epoch."""
        return self._best.record

    def kept_parameters(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return a copy of the parameters of the kept epoch, by name."""
        values = self._kept().to_numpy()
        return {name: values[name] for name in self.graph.parameters}

    def kept_rates(self) -> dict[int, dict[str, float]]:
        """Return the dropout rates learnt by the kept epoch, by regularizer and output."""
        return self._rates(self._kept())

    def _kept(self) -> Parameters:
        shapes = {name: tuple(view.shape) for name, view in self._parameters.views.items()}
        holder = Parameters(shapes, device=self._best_flat.device)
        holder.flat.copy_(self._best_flat)
        return holder

    def _rates(self, parameters: Parameters) -> dict[int, dict[str, float]]:
        return {
            index: {
                output: rate_of(parameters[regularizer.parameter(index, output)].detach()).item()
                for output in regularizer.matched
            }
            for index, regularizer in self._concrete.items()
        }

    # -- exact resume ------------------------------------------------------------------------------

    def state(self) -> bytes:
        """Return everything that changes in training, as one safetensors file."""
        tensors = {
            "parameters": self._parameters.flat.detach().cpu(),
            "best": self._best_flat.detach().cpu(),
        }
        for name, value in self._optimizer.state().items():
            tensors[f"optimizer.{name}"] = value.cpu()
        progress = {
            "epoch": self.epoch,
            "row": self._row,
            "sums": {**vars(self._sums), "tally": vars(self._sums.tally)},
            "best": vars(self._best),
        }
        return safetensors.torch.save(tensors, metadata={"training": json.dumps(progress)})

    def restore(self, state: bytes) -> None:
        """Go on from what `state` returned; raises ArtifactError where it is not of this run."""
        try:
            tensors = safetensors.torch.load(state)
            header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
            progress = json.loads(header["__metadata__"]["training"])
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise ArtifactError("the checkpoint cannot be read") from error
        flat = self._parameters.flat
        if tensors["parameters"].shape != flat.shape or tensors["best"].shape != flat.shape:
            raise ArtifactError("the checkpoint belongs to another network")
        flat.copy_(tensors["parameters"])
        self._best_flat.copy_(tensors["best"])
        memory = {
            name.removeprefix("optimizer."): value
            for name, value in tensors.items()
            if name.startswith("optimizer.")
        }
        self._optimizer.restore(memory)
        self.epoch = progress["epoch"]
        self._row = progress["row"]
        tally = Tally(**progress["sums"].pop("tally"))
        self._sums = EpochSums(**progress["sums"], tally=tally)
        self._best = Best(**progress["best"])
