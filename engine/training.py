"""Training: an iterator of events that can be stopped at any of them and resumed to the bit.

`Training` owns everything that changes while a network is trained. Iterating it yields `BlockEnd`
after every few steps and `EpochEnd` after every epoch; stop iterating to stop training. Between two
events `state()` returns all that is needed to go on in another process, and `snapshot()` copies it
to be made into bytes later: masks, permutations and initial weights are functions of the seed (see
`engine.streams`), so only what was learnt is saved.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from engine.autograd import AutogradSteps, diverged_parameters
from engine.dense_training import DenseSteps, UnknownToKernels
from engine.epochs import Best, BlockEnd, EpochEnd, EpochSums, MeasuredMeans
from engine.errors import ArtifactError, DivergedError
from engine.fallback import Fallback
from engine.graph import Graph
from engine.initializers import initial_parameters
from engine.kernels.descent import Descent, descend
from engine.masks import Tally, TrainingMasks
from engine.metrics import DeterministicMetrics, PiecewiseMetrics
from engine.mixed_precision import LossScale
from engine.optimizers import Optimizer
from engine.parameters import Parameters
from engine.regularizers import ConcreteDropout, Regularizer
from engine.regularizers.concrete import rate_of
from engine.schedules import Schedule, schedule_of
from engine.snapshots import Snapshot, copy_of
from engine.spec import TrainSpec
from engine.training_data import Pool, TrainingData, TrainingRows

__all__ = ["BlockEnd", "EpochEnd", "Training", "TrainingData", "descended"]

Event = TypeVar("Event")

JUDGED_ROWS = 4096
"""Training rows that say whether parameters are any good, where none validate."""


class Training:
    """One network in training, on one device."""

    def __init__(
        self,
        graph: Graph,
        spec: TrainSpec,
        regularizers: Sequence[Regularizer],
        train: TrainingRows,
        valid: TrainingRows | None = None,
        *,
        target_scale: npt.NDArray[np.float64] | None = None,
        initial: Mapping[str, npt.NDArray[np.float32]] | None = None,
        threads: int = 1,
        compiled: bool = True,
        tells_rate: bool = False,
    ) -> None:
        """Prepare to train `graph`; `target_scale` takes encoded targets to original units.

        `initial` are parameters, by name, that do not begin as their layers say; `threads` the most
        that compiled kernels use, which is part of what decides the last bits. Without `compiled`
        the general path is taken, whatever the network. `tells_rate` has each epoch tell its
        learning rate, as with a schedule.
        """
        self.graph = graph
        self.spec = spec
        self.regularizers = tuple(regularizers)
        self.target_scale = target_scale
        self._train = train
        self._rows = train.rows
        self._holds_rows = isinstance(train, TrainingData)
        self._shuffled = train.shuffled(seed=spec.seed, batch_size=spec.batch_size)
        self._valid = valid
        self._tells_rate = tells_rate or schedule_of(spec.optimizer) is not None
        device = train.device
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
        self._given = dict(initial or {}) | logits
        self._parameters.assign(initial_parameters(graph, seed=spec.seed) | self._given)
        self._best_flat = self._parameters.flat.clone()
        is_best_kept = valid is not None and spec.restore_best
        self._fallback = None if is_best_kept else Fallback(self._best_flat)
        self._optimizer = Optimizer(spec.optimizer, self._parameters, seed=spec.seed)
        self._masks = TrainingMasks(graph, self.regularizers, seed=spec.seed, device=device)
        parts = (graph, spec, self.regularizers, train)
        learnt: _Learnt = {
            "parameters": self._parameters,
            "optimizer": self._optimizer,
            "masks": self._masks,
        }
        self._steps, self.path = _steps(parts, learnt, threads if compiled else None)
        """What takes the steps, and where these are no compiled kernels why."""
        self._metrics: DeterministicMetrics | None = None
        steps = -(-train.rows // spec.batch_size)
        self._begun = partial(Schedule, spec.optimizer, epochs=spec.epochs, steps=steps)
        self._schedule = self._begun()
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
    def threads(self) -> int:
        """How many threads take the steps."""
        return self._steps.threads

    @property
    def is_compiled(self) -> bool:
        """Whether compiled kernels take them."""
        return isinstance(self._steps, DenseSteps)

    @property
    def rows_done(self) -> int:
        """Rows trained on so far, counted anew in every epoch."""
        return self.epoch * self._rows + self._row

    def __iter__(self) -> Iterator[BlockEnd | EpochEnd]:
        """Train until finished, from wherever this run stands.

        Raises DivergedError when the loss becomes NaN or infinite.
        """
        return descended(self.pieces())

    def pieces(self) -> Iterator[Descent | BlockEnd | EpochEnd]:
        """Train likewise, but yield steps that are prepared for the kernels, for others to take.

        Whoever iterates has `descend` take them before going on to the event that follows.
        """
        block_rows = self._steps.block_rows()
        while not self.is_finished:
            epoch = self.epoch + 1
            pool: Pool | None = None
            for pool in self._shuffled.pools(epoch, self._row):
                if pool is None:  # still being read
                    yield BlockEnd(epoch=epoch, rows_done=self._row)
                    continue
                while self._row < pool.stop:
                    stop = min(self._row + block_rows, pool.stop)
                    yield from self._train_block(pool, stop, epoch)
                    self._row = stop
                    if stop < self._rows:
                        yield BlockEnd(epoch=epoch, rows_done=stop)
            if not self._holds_rows:
                del pool
                self._steps.let_go()
            valid: dict[str, float] = {}
            if self._valid is not None:
                valid = yield from self._measure(self._valid, epoch)
            yield self._end_epoch(epoch, valid)

    def probe(self, rates: Sequence[float]) -> Iterator[Descent | float]:
        """Take a step at each of these learning rates, yielding the losses before the steps.

        With an optimizer that remembers nothing at first, in the order of the batches of the first
        epochs. Nothing is told of it, and nothing but parameters and the optimizer's memory
        changes: the training is then of no more use. Raises DivergedError.
        """
        self._optimizer.forget()
        for rate, (epoch, at, pool) in zip(rates, self._batches(), strict=False):
            order = pool.order[at - pool.first : at - pool.first + self.spec.batch_size]
            sums = EpochSums()
            yield from self._steps.train(
                pool.rows, order, np.array([rate]), epoch=epoch, position=at, sums=sums
            )
            yield sums.loss / sums.rows

    def _batches(self) -> Iterator[tuple[int, int, Pool]]:
        """Yield the epoch, the place in it and the pool of each batch, from the first on."""
        for epoch in itertools.count(1):
            for pool in self._shuffled.pools(epoch, 0):
                if pool is not None:
                    for at in range(pool.first, pool.stop, self.spec.batch_size):
                        yield epoch, at, pool

    def _train_block(self, pool: Pool, stop: int, epoch: int) -> Iterable[Descent]:
        """Take one step per batch of a pool's rows, up to this place in the epoch."""
        order = pool.order[self._row - pool.first : stop - pool.first]
        steps = -(-order.shape[0] // self.spec.batch_size)
        rates = self._schedule.rates(epoch, self._row // self.spec.batch_size, steps)
        return self._steps.train(
            pool.rows, order, rates, epoch=epoch, position=self._row, sums=self._sums
        )

    def _end_epoch(self, epoch: int, valid: dict[str, float]) -> EpochEnd:
        sums = self._sums
        train = {"loss": sums.loss / sums.rows}
        train |= {label: total / sums.rows for label, total in sums.shares.items()}
        if self._tells_rate:
            last = (self._rows - 1) // self.spec.batch_size
            train["learning_rate"] = float(self._schedule.rates(epoch, last, 1)[0])
        regularizers = [self._log_of(index) for index in range(len(self.regularizers))]
        self.epoch = epoch
        self._row = 0
        self._sums = EpochSums()
        is_best = self._keep_if_best(epoch, train, valid)
        self._schedule.end_epoch(valid.get("loss"))
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
        if not valid and not torch.isfinite(self._parameters.flat).all():
            raise diverged_parameters(epoch)
        if self._fallback is not None:
            self._fallback.see(epoch, self._parameters.flat, {"train": train, "valid": valid})
        is_best = loss < best.loss or not valid or not self.spec.restore_best
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

    @property
    def _loss_scale(self) -> LossScale | None:
        return self._steps.loss_scale if isinstance(self._steps, AutogradSteps) else None

    # -- measuring ---------------------------------------------------------------------------------

    def _measure(
        self, data: TrainingRows, epoch: int
    ) -> Generator[BlockEnd, None, dict[str, float]]:
        """Return the metrics of one deterministic pass over the validation rows.

        Yields between the pieces that they are read in, where there are several.
        """
        if isinstance(data, TrainingData):
            measured, outputs = self._steps.measure(data)
            if self._metrics is None:
                self._metrics = DeterministicMetrics(
                    self.graph, data.y[:].cpu().numpy(), target_scale=self.target_scale
                )
            return measured.values | self._metrics.of(outputs)
        metrics = PiecewiseMetrics(self.graph, target_scale=self.target_scale)
        means = MeasuredMeans()
        for piece in data.pieces(self.spec.batch_size):
            measured, outputs = self._steps.measure(piece)
            means.add(measured, piece)
            metrics.add(outputs, piece.y.cpu().numpy())
            yield BlockEnd(epoch=epoch, rows_done=self._row)
        return means.values() | metrics.values()

    # -- what is kept ------------------------------------------------------------------------------

    @property
    def kept_epoch(self) -> int:
        """The epoch whose parameters are kept: the best on the validation rows, or the last.

        The last where there are no such rows, or the best was not to be restored.
        """
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

    # -- after a divergence ------------------------------------------------------------------------

    def go_back(self) -> None:
        """Go back to before the loss diverged, with an optimizer that remembers nothing.

        To the best epoch on the validation rows, or, where the last is kept, to that with the least
        training loss; to the very beginning where the network is no better there than it was then.
        """
        fallback = self._fallback
        epoch = self._best.epoch if fallback is None else fallback.epoch
        flat = self._parameters.flat
        flat.copy_(self._best_flat if fallback is None else fallback.flat)
        reached = self._judge()
        beginning = initial_parameters(self.graph, seed=self.spec.seed) | self._given
        if reached <= self._judge(beginning) and epoch > 0:
            flat.copy_(self._best_flat if fallback is None else fallback.flat)
            self._best = self._best if fallback is None else fallback.best(self._best)
            self._best.waited = 0
        else:
            epoch, self._best, self._schedule = 0, Best(), self._begun()
            self._fallback = None if fallback is None else Fallback(flat)
        self._best_flat.copy_(flat)
        self._optimizer.forget()
        self.epoch, self._row, self._sums = epoch, 0, EpochSums()

    def _judge(self, values: Mapping[str, npt.NDArray[np.float32]] | None = None) -> float:
        """Return the loss of a deterministic pass, of other parameters where they are given."""
        if values is not None:
            self._parameters.assign(values)
        rows = self._valid
        if rows is None:
            rows = self._train.take(np.arange(min(JUDGED_ROWS, self._rows)))
        if isinstance(rows, TrainingData):
            return self._steps.measure(rows)[0].losses["loss"]
        means = MeasuredMeans()
        for piece in rows.pieces(self.spec.batch_size):
            means.add(self._steps.measure(piece)[0], piece)
        return means.values()["loss"]

    # -- exact resume ------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return a copy of everything that changes in training."""
        tensors = {
            "parameters": copy_of(self._parameters.flat),
            "best": copy_of(self._best_flat),
        }
        if self._fallback is not None:
            tensors["fallback"] = copy_of(self._fallback.flat)
        for name, value in self._optimizer.state().items():
            tensors[f"optimizer.{name}"] = value
        progress = {
            "epoch": self.epoch,
            "row": self._row,
            "sums": {**vars(self._sums), "tally": vars(self._sums.tally)},
            "best": vars(self._best),
            "schedule": self._schedule.state(),
            "loss_scale": None if self._loss_scale is None else self._loss_scale.state(),
            "fallback": None if self._fallback is None else self._fallback.state(),
        }
        return Snapshot(tensors=tensors, entry="training", told=json.dumps(progress), parts={})

    def state(self) -> bytes:
        """Return everything that changes in training, as one safetensors file."""
        return self.snapshot().to_bytes()

    def be_patient(self) -> None:
        """Wait anew for an improvement where patience had run out."""
        if self.spec.patience is not None and self._best.waited >= self.spec.patience:
            self._best.waited = 0

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
        self._schedule.restore(progress.get("schedule", {}))
        if self._loss_scale is not None and progress.get("loss_scale") is not None:
            self._loss_scale.restore(progress["loss_scale"])
        if self._fallback is not None and "fallback" in tensors:
            self._fallback.restore(tensors["fallback"], progress["fallback"])


def descended(pieces: Iterable[Descent | Event]) -> Iterator[Event]:
    """Take the steps that are prepared among `pieces` at once; yield the rest."""
    for piece in pieces:
        if isinstance(piece, Descent):
            descend(piece)
        else:
            yield piece


class _Learnt(TypedDict):
    parameters: Parameters
    optimizer: Optimizer
    masks: TrainingMasks


def _steps(
    parts: tuple[Graph, TrainSpec, Sequence[Regularizer], TrainingRows],
    learnt: _Learnt,
    threads: int | None,
) -> tuple[DenseSteps | AutogradSteps, str]:
    """Return what takes the steps, compiled kernels with so many threads where they can."""
    general = partial(AutogradSteps, *parts[:3], rows=parts[3].rows, **learnt, threads=threads)
    if threads is None:
        return general(), "by the general path, as was asked for"
    try:
        dense = DenseSteps(*parts, **learnt, threads=threads)
    except UnknownToKernels as reason:
        return general(), f"by the general path, since {reason}"
    return dense, f"by compiled kernels ({dense.told})"
