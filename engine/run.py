"""A run: one plan's network in training, then measured on the validation rows, then an artifact."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from engine.artifact import Model, document_of, weights_of
from engine.block_order import Blocking
from engine.calibrating import Calibrating
from engine.data.dataset import Data
from engine.data.division import validation_rows
from engine.data.inputs import Inputs
from engine.data.scratch import Scratch
from engine.data.windows import Windows
from engine.encoded_copy import EncodedCopy
from engine.evaluation import Evaluation, evaluate_on_validation, given_precision
from engine.mapped_rows import MappedInputs, MappedRows
from engine.network import Network
from engine.plan import TrainingPlan
from engine.pretraining import StagedTraining
from engine.regularizers import learnt
from engine.spec.optimizers import with_rate
from engine.training import Training
from engine.training_data import TrainingData, TrainingRows

__all__ = ["EncodedRows", "Outcome", "TrainingRun", "artifact_of", "calibrating", "encode_rows"]

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rows that measure a network."""

    x: Inputs | MappedInputs
    truth: Callable[[Rows], Any]
    """What `Encoding.encode_truth` says of some of them, by their positions."""
    row_ids: Rows


@dataclass(frozen=True, kw_only=True)
class EncodedRows:
    """A plan's rows as its network reads them; shared by all who train on the same."""

    device: torch.device
    train: TrainingRows
    valid: TrainingRows | None
    measured: Measured | None
    """The validation rows again, on the host."""
    are_copied: bool = False
    """Whether those that are read by blocks are encoded once, into a file."""


def encode_rows(
    plan: TrainingPlan,
    data: Data,
    other: Data | None,
    device: torch.device,
    *,
    scratch: Scratch | None = None,
) -> EncodedRows:
    """Encode a plan's rows, or say how to where they are read by blocks.

    `other` is the data set that the plan's validation names, if it names one. What is read by
    blocks is encoded once, and kept in `scratch`, where it has room for all.
    """
    encoding = plan.encoding
    valid_data = data if other is None else other
    valid_rows = plan.split.valid if other is None else validation_rows(encoding, other)
    if plan.loading.blocking is None or (scratch and scratch.bytes < plan.loading.encoded_bytes):
        scratch = None
    copied = scratch is not None
    source = _Source(plan, data, device, scratch)
    train = source.rows(plan.split.train)
    if valid_rows is None or not len(valid_rows):
        return EncodedRows(device=device, train=train, valid=None, measured=None, are_copied=copied)
    valid_source = _Source(plan, valid_data, device, scratch, unseen="zeros")
    measured, valid = valid_source.measured(valid_rows)
    return EncodedRows(
        device=device, train=train, valid=valid, measured=measured, are_copied=copied
    )


class _Source:
    """A data set that a plan's rows are read from."""

    def __init__(
        self,
        plan: TrainingPlan,
        data: Data,
        device: torch.device,
        scratch: Scratch | None,
        *,
        unseen: Literal["refuse", "zeros"] = "refuse",
    ) -> None:
        self._encoding = plan.encoding
        self._blocking = plan.loading.blocking
        self._data = data
        self._device = device
        self._scratch = scratch
        self._unseen: Literal["refuse", "zeros"] = unseen

    def rows(self, numbers: Rows) -> TrainingRows:
        """Return rows to train on."""
        if self._blocking is None:
            return self._resident(numbers)
        return self._mapped(numbers, self._blocking)

    def measured(self, numbers: Rows) -> tuple[Measured, TrainingRows]:
        """Return rows to measure by, on the host and on the device; few are held in any case."""
        data, encoding, blocking = self._data, self._encoding, self._blocking
        if blocking is not None and len(numbers) <= blocking.pool_rows:
            blocking = None
        x: Inputs | MappedInputs
        valid: TrainingRows
        if blocking is None:
            x = self._inputs(numbers)
            valid = self._resident(numbers, x=x)
            whole = encoding.encode_truth(data, numbers)
            truth = partial(_some, whole)
        else:
            x = MappedInputs(self._inputs, numbers)
            valid = self._mapped(numbers, blocking)
            truth = partial(_some_read, partial(encoding.encode_truth, data), numbers)
        return Measured(x=x, truth=truth, row_ids=np.asarray(numbers, dtype=np.int64)), valid

    def _mapped(self, numbers: Rows, blocking: Blocking) -> MappedRows:
        def encoded(places: Rows) -> TrainingData:
            return self._encoded(numbers[places])

        read = encoded
        if self._scratch is not None:
            read = EncodedCopy(encoded, len(numbers), folder=self._scratch.folder)
        return MappedRows(
            lambda places: read(places).to(self._device),
            len(numbers),
            blocking=blocking,
            device=self._device,
        )

    def _inputs(self, numbers: Rows) -> Inputs:
        return self._encoding.encode_inputs(self._data, numbers, unseen=self._unseen)

    def _resident(self, numbers: Rows, *, x: Inputs | None = None) -> TrainingData:
        return self._encoded(numbers, x=x).to(self._device)

    def _encoded(self, numbers: Rows, *, x: Inputs | None = None) -> TrainingData:
        """Return rows on the host."""
        encoding, data = self._encoding, self._data
        # That they are not all 0 has been looked at, where it is of all rows that this is said.
        weights = encoding.encode_weights(data, numbers, some=self._blocking is not None)
        auxiliary: Sequence[Array | Windows] = [
            target.encode_targets(data, numbers) for target in encoding.auxiliary
        ]
        return TrainingData(
            x=(self._inputs(numbers) if x is None else x).map(_tensor),
            y=_tensors(encoding.encode_targets(data, numbers)),
            weights=None if weights is None else _tensors(weights),
            auxiliary=tuple(map(_tensors, auxiliary)),
        )


def _tensor(values: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))


def _tensors(values: Array | Windows) -> torch.Tensor | Windows:
    return values.map(_tensor) if isinstance(values, Windows) else _tensor(values)


def _some(values: Any, rows: Rows) -> Any:
    return values[rows]


def _some_read(read: Callable[[Rows], Any], numbers: Rows, rows: Rows) -> Any:
    return read(numbers[rows])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run leaves: the kept parameters, measured."""

    parameters: Mapping[str, npt.NDArray[np.float32]]
    rates: Mapping[int, Mapping[str, float]]
    """Dropout rates that were learnt, by regularizer and output."""
    kept_epoch: int
    metrics: dict[str, Any]
    noise_precision: dict[str, float] | None
    learning_rate: float | None = None
    """Where it was to be found: what was found."""


class TrainingRun:
    """One plan in training: `staged` to iterate, then `evaluate`, then `outcome`."""

    def __init__(self, plan: TrainingPlan, rows: EncodedRows, *, threads: int = 1) -> None:
        """`threads` are the most that compiled kernels use, and part of what decides last bits."""
        self.plan = plan
        self.rows = rows
        self.threads = threads
        self.staged = StagedTraining(
            plan.graph,
            plan.spec,
            plan.regularizers,
            rows.train,
            rows.valid,
            stages=plan.stages,
            target_scale=None if plan.graph.form == "classifier" else plan.encoding.target_scale,
            threads=threads,
        )
        self._evaluation: Evaluation | None = None
        self._evaluated_epoch = 0

    @property
    def training(self) -> Training:
        """The whole network's training, which follows the stages."""
        assert self.staged.whole is not None
        return self.staged.whole

    @property
    def is_finished(self) -> bool:
        """Whether training is done; not the measuring."""
        return self.staged.whole is not None and self.staged.whole.is_finished

    def evaluate(self) -> Generator[float, None, None]:
        """Measure the kept parameters on the validation rows, yielding the share that is done."""
        measured = self.rows.measured
        if measured is None:
            return
        epoch = self.training.kept_epoch
        self._evaluation = yield from evaluate_on_validation(
            Network(self.plan.graph, self.training.kept_parameters(), device=self.rows.device),
            self.plan.encoding,
            learnt(self.plan.regularizers, self.training.kept_rates()),
            self.plan.spec,
            x=measured.x,
            truth=measured.truth,
            row_ids=measured.row_ids,
        )
        self._evaluated_epoch = epoch

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the kept parameters, with what `evaluate` has found."""
        metrics = {name: dict(values) for name, values in self.training.kept_metrics.items()}
        if self._evaluation is not None:
            metrics["valid"]["log_likelihood"] = self._evaluation.log_likelihood
        return metrics

    def outcome(self) -> Outcome:
        """Return what the run leaves if it ends here, measured."""
        if self._evaluation is None or self._evaluated_epoch != self.training.kept_epoch:
            for _ in self.evaluate():
                pass
        return Outcome(
            parameters=self.training.kept_parameters(),
            rates=self.training.kept_rates(),
            kept_epoch=self.training.kept_epoch,
            metrics=self.metrics(),
            noise_precision=self._noise_precision(),
            learning_rate=self.staged.found_rate,
        )

    def _noise_precision(self) -> dict[str, float] | None:
        if self._evaluation is not None:
            return self._evaluation.noise_precision
        given = self.plan.spec.noise_precision
        if given == "fit" or self.plan.graph.form == "classifier":
            return None
        names = self.plan.encoding.target_names
        return {name: given_precision(given, name) for name in names}


def calibrating(
    plan: TrainingPlan, model: Model, data: Data, other: Data | None, *, threads: int = 1
) -> Calibrating:
    """Return what calibrates the model of a run on the plan's calibration rows.

    `other` is the data set that `spec.calibrate` names, if it names one.
    """
    asked = plan.spec.calibrate
    assert asked is not None
    return Calibrating(
        model,
        asked,
        data if other is None else other,
        plan.split.calibration if other is None else None,
        seed=plan.spec.seed,
        threads=threads,
    )


def artifact_of(
    plan: TrainingPlan, outcome: Outcome, *, version: str
) -> tuple[dict[str, Any], bytes]:
    """Return the JSON document and the safetensors file of what a run has left."""
    weights = weights_of(outcome.parameters)
    spec = plan.spec
    if outcome.learning_rate is not None:
        optimizer = with_rate(spec.optimizer, outcome.learning_rate)
        spec = spec.model_copy(update={"optimizer": optimizer})
    document = document_of(
        plan.graph,
        plan.encoding,
        plan.regularizers,
        weights,
        spec=spec,
        noise_precision=outcome.noise_precision,
        metrics=outcome.metrics,
        kept_epoch=outcome.kept_epoch,
        version=version,
        rates=outcome.rates,
    )
    return document, weights
