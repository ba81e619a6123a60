"""What a job runs: iterators of steps that the worker records and can stop anywhere."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import engine
from engine.artifact import describe_regularizer, document_of, weights_of
from engine.data.division import validation_rows
from engine.data.inputs import Inputs
from engine.data.windows import Windows
from engine.evaluation import Evaluation, evaluate_on_validation, given_precision
from engine.layers import shown
from engine.network import Network
from engine.plan import TrainingPlan, plan_training
from engine.pretraining import StagedTraining, StageEvent
from engine.regularizers import learnt
from engine.spec import TrainSpec, ValidationSpec
from engine.training import EpochEnd, Training, TrainingData
from service.prediction_job import predict
from service.steps import NewModel, Step, Task, TaskContext, TaskResult
from service.store.jobs import Job

__all__ = ["TASKS", "train", "train_spec", "warm"]

Array = npt.NDArray[Any]


def train_spec(job_spec: Mapping[str, Any]) -> TrainSpec:
    """Return the engine's part of a training job's spec."""
    return TrainSpec.model_validate(
        {name: job_spec[name] for name in TrainSpec.model_fields if name in job_spec}
    )


def train(job: Job, context: TaskContext) -> Iterator[Step]:
    """Train a network on the job's data set, from its checkpoint if there is one."""
    spec = train_spec(job.spec)
    run = _TrainingRun(job, spec, context)
    if context.checkpoint is None:
        yield Step(events=run.opening_events())
    else:
        run.restore(context.checkpoint)
    for event in run.staged:
        if isinstance(event, StageEvent):
            yield run.stage_step(event)
        else:
            yield run.step(event if isinstance(event, EpochEnd) else None)
    yield run.trained()
    for done in run.evaluate():
        yield run.evaluating(done)
    yield Step(
        events=(("log", {"message": run.closing_message()}),),
        progress=run.progress("training", completed=run.training.epoch),
        metrics=run.metrics(),
        epoch=run.training.epoch,
        snapshot=run.staged.state,
        result=run.result,
    )


class _TrainingRun:
    """One attempt at a training job: its data on the device, and what is said of its progress."""

    def __init__(self, job: Job, spec: TrainSpec, context: TaskContext) -> None:
        self._job = job
        self._spec = spec
        data = context.data(job.spec["dataset"])
        validation = spec.validation
        other = (
            context.data(validation.dataset)
            if isinstance(validation, ValidationSpec) and validation.dataset is not None
            else None
        )
        self.plan: TrainingPlan = plan_training(spec, data, other)
        self._device = _device(spec.device)
        encoding = self.plan.encoding
        rows = self.plan.split.train
        self._valid_rows = (
            self.plan.split.valid if other is None else validation_rows(encoding, other)
        )
        self._valid_data = other if other is not None else data
        self._valid: tuple[Inputs, Any] | None = None
        if self._valid_rows is not None and len(self._valid_rows):
            self._valid = (
                encoding.encode_inputs(self._valid_data, self._valid_rows, unseen="zeros"),
                encoding.encode_targets(self._valid_data, self._valid_rows),
            )
        self.staged = StagedTraining(
            self.plan.graph,
            spec,
            self.plan.regularizers,
            self._on_device(
                encoding.encode_inputs(data, rows),
                encoding.encode_targets(data, rows),
                encoding.encode_weights(data, rows),
                [target.encode_targets(data, rows) for target in encoding.auxiliary],
            ),
            None
            if self._valid is None
            else self._on_device(
                *self._valid,
                encoding.encode_weights(self._valid_data, self._valid_rows),
                [
                    target.encode_targets(self._valid_data, self._valid_rows)
                    for target in encoding.auxiliary
                ],
            ),
            stages=self.plan.stages,
            target_scale=None if self.plan.graph.form == "classifier" else encoding.target_scale,
        )
        self._evaluation: Evaluation | None = None
        self._started = time.monotonic()
        self._rows_before = 0

    def restore(self, checkpoint: bytes) -> None:
        """Go on from an earlier attempt's checkpoint."""
        self.staged.restore(checkpoint)
        self._rows_before = self.staged.rows_done

    @property
    def training(self) -> Training:
        """The whole network's training, which follows the stages."""
        assert self.staged.whole is not None
        return self.staged.whole

    def _on_device(
        self,
        x: Inputs,
        y: Array | Windows,
        weights: Array | Windows | None,
        auxiliary: Sequence[Array | Windows],
    ) -> TrainingData:
        def tensor(values: Array) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

        def on_device(values: Array | Windows) -> torch.Tensor | Windows:
            return values.map(tensor) if isinstance(values, Windows) else tensor(values)

        return TrainingData(
            x=x.map(tensor),
            y=on_device(y),
            weights=None if weights is None else on_device(weights),
            auxiliary=tuple(map(on_device, auxiliary)),
        )

    # -- what is told ------------------------------------------------------------------------------

    def opening_events(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Say what is about to be trained: the regularizer log, the rows, the plan's warnings."""
        graph = self.plan.graph
        shape = "-".join(shown(layer.shape).replace(" ", "") for layer in graph.layers)
        rows = len(self.plan.split.train)
        events: list[tuple[str, dict[str, Any]]] = [
            (
                "log",
                {
                    "message": f"network {shape}: {graph.parameter_count} parameters, {rows} "
                    f"training and {self.plan.valid_rows} validation rows, on {self._device.type}"
                },
            )
        ]
        for index, regularizer in enumerate(self.plan.regularizers):
            description = describe_regularizer(index, regularizer)
            events.append(("log", {"message": description["log"], "regularizer": description}))
        events.extend(("log", {"message": f"warning: {text}"}) for text in self.plan.warnings)
        return tuple(events)

    def closing_message(self) -> str:
        training = self.training
        early = " early" if training.epoch < self._spec.epochs else ""
        return f"stopped{early} after epoch {training.epoch}; kept epoch {training.kept_epoch}"

    def step(self, ended: EpochEnd | None) -> Step:
        """Describe where training stands, after a block or at the end of an epoch."""
        events: tuple[tuple[str, dict[str, Any]], ...] = ()
        if ended is not None:
            data = {
                "epoch": ended.epoch,
                "train": ended.train,
                "valid": ended.valid,
                "regularizers": ended.regularizers,
                "best": ended.is_best,
            }
            events = (("epoch", data),)
        return Step(
            events=events,
            progress=self.progress("training", completed=self.training.epoch),
            metrics=self.training.kept_metrics or None,
            epoch=self.training.epoch,
            snapshot=self.staged.state,
            result=self.result if self.training.epoch else None,
        )

    def stage_step(self, event: StageEvent) -> Step:
        """Describe where a stage before the whole network's training stands."""
        events: tuple[tuple[str, dict[str, Any]], ...] = ()
        if isinstance(event.event, EpochEnd):
            data = {
                "stage": event.stage,
                "stages": event.stages,
                "layers": list(event.layers),
                "epoch": event.event.epoch,
                "train": event.event.train,
                "valid": event.event.valid,
            }
            events = (("pretrain", data),)
        done, total = self.staged.stage_epochs
        return Step(
            events=events,
            progress=self.progress("pretraining", completed=done, total=total),
            snapshot=self.staged.state,
        )

    def trained(self) -> Step:
        """Describe the end of training: worth keeping before what follows."""
        return replace(self.step(None), is_milestone=True)

    def evaluating(self, done: float) -> Step:
        """Describe where the evaluation stands; what is kept and left is that of training."""
        percent = round(100 * done)
        progress = self.progress("evaluating", completed=percent, total=100, unit="%")
        return replace(self.step(None), progress=progress)

    def progress(
        self, phase: str, *, completed: int, total: int | None = None, unit: str = "epoch"
    ) -> dict[str, Any]:
        """Return the job's progress; the rate is that of this attempt."""
        done = self.staged.rows_done
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (done - self._rows_before) / elapsed
        epochs = self.staged.stage_epochs[1] + self._spec.epochs
        left = epochs * len(self.plan.split.train) - done
        training = phase in ("pretraining", "training")
        return {
            "phase": phase,
            "completed": completed,
            "total": self._spec.epochs if total is None else total,
            "unit": unit,
            "rows_per_second": round(rate, 1) if training else None,
            "eta_seconds": round(left / rate, 1) if training and rate > 0 else None,
        }

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the kept parameters."""
        metrics = {name: dict(values) for name, values in self.training.kept_metrics.items()}
        if self._evaluation is not None:
            metrics["valid"]["log_likelihood"] = self._evaluation.log_likelihood
        return metrics

    # -- what is left ------------------------------------------------------------------------------

    def evaluate(self) -> Generator[float, None, None]:
        """Measure the kept parameters on the validation rows, yielding the share that is done."""
        if self._valid is None:
            return
        assert self._valid_rows is not None
        self._evaluation = yield from evaluate_on_validation(
            Network(self.plan.graph, self.training.kept_parameters(), device=self._device),
            self.plan.encoding,
            learnt(self.plan.regularizers, self.training.kept_rates()),
            self._spec,
            x=self._valid[0],
            truth=self.plan.encoding.encode_truth(self._valid_data, self._valid_rows),
            row_ids=np.asarray(self._valid_rows, dtype=np.int64),
        )

    def _noise_precision(self) -> dict[str, float] | None:
        if self._evaluation is not None:
            return self._evaluation.noise_precision
        given = self._spec.noise_precision
        if given == "fit" or self.plan.graph.form == "classifier":
            return None
        names = self.plan.encoding.target_names
        return {name: given_precision(given, name) for name in names}

    def result(self) -> TaskResult:
        """Return the model of the kept parameters, measured."""
        if self._evaluation is None:
            for _ in self.evaluate():
                pass
        metrics = self.metrics()
        weights = weights_of(self.training.kept_parameters())
        document = document_of(
            self.plan.graph,
            self.plan.encoding,
            self.plan.regularizers,
            weights,
            spec=self._spec,
            noise_precision=self._noise_precision(),
            metrics=metrics,
            kept_epoch=self.training.kept_epoch,
            version=engine.__version__,
            rates=self.training.kept_rates(),
        )
        document["dataset"] = self._job.spec["dataset"]
        model = NewModel(name=self._job.name, document=document, weights=weights)
        return TaskResult(metrics=metrics, model=model)


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wanted)


def warm() -> None:
    """Pay for the first step before the first job: PyTorch loads much of itself on first use."""
    from engine.graph import build_graph

    spec = TrainSpec.model_validate({"network": {"layers": [2, 2, 1]}, "epochs": 1})
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (2,)}, output_shape=(1,)
    )
    rows = TrainingData(x=Inputs({"in:out": torch.zeros(4, 2)}), y=torch.zeros(4, 1))
    for _ in Training(graph, spec, (), rows, rows):
        pass


TASKS: Mapping[str, Task] = {"train": train, "predict": predict}
