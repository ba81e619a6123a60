"""Training jobs: a run, what is said of its progress, and the model that it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch

import engine
from engine.data.dataset import Data
from engine.descriptions import describe_regularizer
from engine.errors import DivergedError
from engine.layers import shown
from engine.plan import TrainingPlan, plan_training
from engine.pretraining import StageEvent
from engine.rate_finding import RateFound
from engine.run import EncodedRows, Outcome, TrainingRun, artifact_of, encode_rows
from engine.spec import TrainSpec, ValidationSpec
from engine.training import BlockEnd, EpochEnd, Training
from service.model_calibration import ModelCalibration, progress
from service.steps import NewModel, Step, TaskContext, TaskResult, attend
from service.store.jobs import Job

__all__ = [
    "JobData",
    "NewEvent",
    "device_of",
    "event_of",
    "job_data",
    "new_model",
    "opening_events",
    "patiently",
    "resident_bytes",
    "train",
    "train_spec",
]

Prepared = TypeVar("Prepared")
NewEvent = tuple[str, dict[str, Any]]
"""Its type, and its data."""


def train_spec(job_spec: Mapping[str, Any]) -> TrainSpec:
    """Return the engine's part of a training job's spec."""
    return TrainSpec.model_validate(
        {name: job_spec[name] for name in TrainSpec.model_fields if name in job_spec}
    )


@dataclass(frozen=True, kw_only=True)
class JobData:
    """The data sets of a training job."""

    own: Data
    validation: Data | None
    """Another one that validates."""
    calibration: Data | None
    """Another one that calibrates."""


def job_data(job: Job, spec: TrainSpec, context: TaskContext) -> JobData:
    """Return the data sets of a training job."""

    def other(dataset_id: str | None) -> Data | None:
        return None if dataset_id is None else context.data(dataset_id)

    validation = spec.validation
    return JobData(
        own=context.data(job.spec["dataset"]),
        validation=other(validation.dataset) if isinstance(validation, ValidationSpec) else None,
        calibration=None if spec.calibrate is None else other(spec.calibrate.dataset),
    )


def resident_bytes(job: Job) -> int | None:
    """Return the most bytes of encoded rows that a job holds in memory, as it was queued."""
    limit: int | None = (job.spec.get("limits") or {}).get("resident_bytes")
    return limit


def patiently(prepare: Callable[[], Prepared]) -> Generator[Step, None, Prepared]:
    """Return what `prepare` makes, yielding every now and then while that takes long."""
    with ThreadPoolExecutor(1) as thread:
        return (yield from attend(thread, lambda _stop: prepare(), Step))


def device_of(spec: TrainSpec) -> torch.device:
    """Return the device that a spec asks for."""
    if spec.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(spec.device)


def new_model(job: Job, plan: TrainingPlan, outcome: Outcome) -> NewModel:
    """Return the model that a job leaves."""
    document, weights = artifact_of(plan, outcome, version=engine.__version__)
    document["dataset"] = job.spec["dataset"]
    return NewModel(name=job.name, document=document, weights=weights)


def opening_events(
    plan: TrainingPlan, device: torch.device, run: TrainingRun | None
) -> Iterator[NewEvent]:
    """Say what is about to be trained: the regularizer log, the rows, the plan's warnings.

    `run` is what takes the steps, where that is known.
    """
    path = None if run is None else run.staged.path
    graph = plan.graph
    shape = "-".join(shown(layer.shape).replace(" ", "") for layer in graph.layers)
    rows = len(plan.split.train)
    message = (
        f"network {shape}: {graph.parameter_count} parameters, {rows} training and "
        f"{plan.valid_rows} validation rows, on {device.type}"
    ) + ("" if path is None else f", {path}")
    yield "log", {"message": message}
    told = plan.loading.told
    if plan.loading.blocking is not None and run is not None:
        often = "once, into a file" if run.rows.are_copied else "in each epoch anew"
        told += f"; encoded {often}"
    yield "log", {"message": told, "loading": plan.loading.describe()}
    for index, regularizer in enumerate(plan.regularizers):
        description = describe_regularizer(index, regularizer)
        yield "log", {"message": description["log"], "regularizer": description}
    for text in plan.warnings:
        yield "log", {"message": f"warning: {text}"}


def event_of(event: RateFound | StageEvent | BlockEnd | EpochEnd) -> tuple[NewEvent, ...]:
    """Return what training has to say: a rate that was found, something at the end of an epoch."""
    if isinstance(event, RateFound):
        return _told_of(event)
    if isinstance(event, EpochEnd):
        data = {
            "epoch": event.epoch,
            "train": event.train,
            "valid": event.valid,
            "regularizers": event.regularizers,
            "best": event.is_best,
        }
        return (("epoch", data),)
    if isinstance(event, StageEvent) and isinstance(event.event, EpochEnd):
        data = {
            "stage": event.stage,
            "stages": event.stages,
            "layers": list(event.layers),
            "epoch": event.event.epoch,
            "train": event.event.train,
            "valid": event.event.valid,
        }
        return (("pretrain", data),)
    return ()


def _told_of(found: RateFound) -> tuple[NewEvent, ...]:
    rate = found.learning_rate
    message = f"learning rate {rate:.3g}, "
    if found.steepest is None or found.tenth is None:
        message += "the optimizer's default: none of those tried lowered the loss"
    else:
        message += f"found by {len(found.curve)} steps at rates from {found.curve[0][0]:.0e} on"
    return ("learning_rate", found.told()), ("log", {"message": message})


def train(job: Job, context: TaskContext) -> Iterator[Step]:
    """Train a network on the job's data set, from its checkpoint if there is one."""
    spec = train_spec(job.spec)
    data = job_data(job, spec, context)
    plan, rows = yield from patiently(partial(_prepared, job, spec, data, context))
    run = _TrainingJob(job, plan, rows, data, context)
    is_inherited = job.resumed_from is not None and job.checkpoint_attempt == 0
    if context.checkpoint is not None:
        run.restore(context.checkpoint, anew=is_inherited)
    if context.checkpoint is None or is_inherited:
        yield Step(events=tuple(opening_events(run.plan, run.device, run.run)))
    try:
        for event in run.staged:
            run.hear(event)
            if context.wants_step(at_epoch=isinstance(event, EpochEnd)):
                yield run.step()
    except DivergedError:
        yield run.recovered()
        raise
    yield run.trained()
    for done in run.evaluate():
        yield run.evaluating(done)
    yield from run.calibrate()
    yield Step(
        events=(("log", {"message": run.closing_message()}),),
        progress=run.progress("training", completed=run.training.epoch),
        metrics=run.metrics(),
        epoch=run.training.epoch,
        snapshot=run.snapshot,
        is_resumable=True,
        result=run.result,
    )


def _prepared(
    job: Job, spec: TrainSpec, data: JobData, context: TaskContext
) -> tuple[TrainingPlan, EncodedRows]:
    """Plan a job's training, and encode the rows that it holds."""
    plan = plan_training(
        spec,
        data.own,
        data.validation,
        calibration_data=data.calibration,
        schema=context.schema(job.spec["dataset"]),
        resident_bytes=resident_bytes(job),
    )
    rows = encode_rows(plan, data.own, data.validation, device_of(spec), scratch=context.scratch)
    return plan, rows


class _TrainingJob:
    """One attempt at a training job: its run, and what is said of its progress."""

    def __init__(
        self,
        job: Job,
        plan: TrainingPlan,
        rows: EncodedRows,
        data: JobData,
        context: TaskContext,
    ) -> None:
        self._job = job
        self._spec = plan.spec
        self.plan = plan
        self.run = TrainingRun(plan, rows, threads=context.threads)
        self._calibration = ModelCalibration(data.own, data.calibration, threads=context.threads)
        self.staged = self.run.staged
        self._started = time.monotonic()
        self._rows_before = 0
        self._unsaid: list[NewEvent] = []
        """What the next step says."""

    def restore(self, checkpoint: bytes, *, anew: bool) -> None:
        """Go on from an earlier attempt's checkpoint, or anew from an earlier job's."""
        self.staged.restore(checkpoint)
        if anew:
            self.staged.be_patient()
        self._rows_before = self.staged.rows_done

    @property
    def device(self) -> torch.device:
        return self.run.rows.device

    @property
    def training(self) -> Training:
        """The whole network's training, which follows the stages."""
        return self.run.training

    def snapshot(self) -> Callable[[], bytes]:
        """Copy all that changes in training; see `Snapshot`."""
        return self.staged.snapshot().to_bytes

    # -- what is told ------------------------------------------------------------------------------

    def closing_message(self) -> str:
        training = self.training
        early = " early" if training.epoch < self._spec.epochs else ""
        return f"stopped{early} after epoch {training.epoch}; kept epoch {training.kept_epoch}"

    def hear(self, event: RateFound | StageEvent | BlockEnd | EpochEnd) -> None:
        """Keep what there is to say of an event for the next step."""
        self._unsaid.extend(event_of(event))

    def _say(self) -> tuple[NewEvent, ...]:
        said, self._unsaid = tuple(self._unsaid), []
        return said

    def step(self) -> Step:
        """Describe where training stands, after a block or at the end of an epoch."""
        if self.staged.whole is None:
            return self._stage_step()
        return Step(
            events=self._say(),
            progress=self.progress("training", completed=self.training.epoch),
            metrics=self.training.kept_metrics or None,
            epoch=self.training.epoch,
            snapshot=self.snapshot,
            is_resumable=True,
            result=self.result if self.training.epoch else None,
        )

    def _stage_step(self) -> Step:
        """Describe where a stage before the whole network's training stands."""
        done, total = self.staged.stage_epochs
        return Step(
            events=self._say(),
            progress=self.progress("pretraining", completed=done, total=total),
            snapshot=self.snapshot,
            is_resumable=True,
        )

    def recovered(self) -> Step:
        """Go back to before the loss diverged, and describe what jobs that go on begin with."""
        self.staged.go_back()
        epoch = self.staged.epochs
        place = f"epoch {epoch}, the best before" if epoch else "the beginning"
        if self.staged.whole is None:
            place = f"before, at the stage that stood at epoch {self.staged.stage_epochs[0]} of all"
        message = f"the loss diverged; a resumed job goes on from {place}, with a new optimizer"
        return Step(
            events=(*self._say(), ("log", {"message": message})),
            epoch=epoch,
            snapshot=self.snapshot,
            is_resumable=True,
            is_last_good=True,
            result=self.result if epoch else None,
        )

    def trained(self) -> Step:
        """Describe the end of training: worth keeping before what follows."""
        return replace(self.step(), is_milestone=True)

    def evaluating(self, done: float) -> Step:
        """Describe where the evaluation stands; what is kept and left is that of training."""
        percent = round(100 * done)
        progress = self.progress("evaluating", completed=percent, total=100, unit="%")
        return replace(self.step(), progress=progress)

    def calibrating(self, done: int, total: int) -> Step:
        """Describe where the calibration stands; what is kept and left is that of training."""
        return replace(self.step(), progress=progress(done, total))

    def progress(
        self, phase: str, *, completed: int, total: int | None = None, unit: str = "epoch"
    ) -> dict[str, Any]:
        """Return the job's progress; the rate is that of this attempt."""
        done = self.staged.rows_done
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (done - self._rows_before) / elapsed
        epochs = self.staged.stage_epochs[1] + self._spec.epochs
        left = epochs * len(self.plan.split.train) - done if self._goes_on else 0
        training = phase in ("pretraining", "training")
        return {
            "phase": phase,
            "completed": completed,
            "total": self._spec.epochs if total is None else total,
            "unit": unit,
            "rows_per_second": round(rate, 1) if training else None,
            "eta_seconds": round(left / rate, 1) if training and rate > 0 else None,
        }

    @property
    def _goes_on(self) -> bool:
        """Whether there are steps to come: patience may have run out before the epochs."""
        return not self.run.is_finished

    def metrics(self) -> dict[str, Any]:
        """Return the metrics of the kept parameters."""
        return self.run.metrics()

    def evaluate(self) -> Iterator[float]:
        """Measure the kept parameters on the validation rows, yielding the share that is done."""
        return self.run.evaluate()

    def calibrate(self) -> Iterator[Step]:
        """Calibrate the kept parameters, if that is asked for."""
        if self._spec.calibrate is None:
            return
        model = new_model(self._job, self.plan, self.run.outcome())
        yield from self._calibration.steps(model, self.plan, self.calibrating)

    def result(self) -> TaskResult:
        """Return the model of the kept parameters, measured and calibrated."""
        outcome = self.run.outcome()
        model = self._calibration.of(new_model(self._job, self.plan, outcome), self.plan)
        return TaskResult(metrics=model.document["metrics"], model=model)
