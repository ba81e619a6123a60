"""What goes over the wire beside the engine's specs: requests and views."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from engine.data.schema import Array, Column
from engine.spec import Index, Positive, ScoreSpec, SearchSpec, Spec, TrainSpec
from service.job_options import CheckpointEvery, Limits, Name, Tags, TrainLimits, often_enough
from service.store.aliases import AliasMove
from service.store.datasets import Dataset
from service.store.jobs import Event, Job, Status
from service.store.models import Alias, Model

__all__ = [
    "MAX_EPOCHS",
    "AliasRequest",
    "AliasView",
    "CalibrateRequest",
    "CancelRequest",
    "DatasetView",
    "EventView",
    "JobView",
    "ListView",
    "ModelSummary",
    "ModelView",
    "PlanView",
    "PredictionView",
    "PreviewView",
    "RegularizerLogView",
    "ResumeRequest",
    "SharingRequest",
    "TrainRequest",
    "VariantView",
]


T = TypeVar("T")

MAX_EPOCHS = 10_000_000
"""Of a job, those of the jobs that it goes on from included."""


class View(BaseModel):
    """Base of what is answered."""

    model_config = ConfigDict(frozen=True)


class ListView(View, Generic[T]):
    """A part of a list, newest first; `after` the last entry's id gives what follows."""

    data: list[T]
    has_more: bool


# -- data sets -------------------------------------------------------------------------------------


class DatasetView(View):
    """A stored data set."""

    id: str = Field(examples=["ds_01k9t3v5rqk2m8xw4c7h1n6b0e"])
    name: str | None
    kind: Literal["table", "arrays"]
    rows: int
    columns: list[Column]
    arrays: list[Array]
    bytes: int
    """Size of what was uploaded."""
    sha256: str
    """Hash of what was uploaded."""
    job: str | None
    """The job that made it, whose size and hash are those of what is stored; null for an upload."""
    shared: bool
    """Every key sees it; else its own and admins do."""
    created_at: datetime

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetView:
        return cls(
            id=dataset.id,
            name=dataset.name,
            kind=dataset.kind,
            rows=dataset.rows,
            columns=dataset.schema["columns"],
            arrays=dataset.schema["arrays"],
            bytes=dataset.bytes,
            sha256=dataset.sha256,
            job=dataset.job,
            shared=dataset.shared,
            created_at=dataset.created_at,
        )


class PreviewView(View):
    """The first rows of a data set: records of a table, or lists by array."""

    rows: list[dict[str, Any]] | dict[str, list[Any]]


# -- training --------------------------------------------------------------------------------------


class TrainRequest(TrainSpec):
    """A training job: data, network, regularizers and optimizer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "dataset": "ds_01k9t3v5rqk2m8xw4c7h1n6b0e",
                    "network": {"layers": [None, 64, 64, None]},
                    "dropout": {"hid[12]:out": 0.1, "in:out": 0.05},
                    "epochs": 100,
                    "patience": 10,
                }
            ]
        }
    )

    dataset: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the data set to train on."""
    name: Name | None = None
    """Name of the job and of its model."""
    tags: Tags = Field(default_factory=dict)
    checkpoint_every: Annotated[CheckpointEvery | None, AfterValidator(often_enough)] = (
        CheckpointEvery(seconds=30.0)
    )
    """Every 30 seconds where neither is given."""
    limits: TrainLimits | None = None
    search: SearchSpec | None = None
    """Train many variants of this job, and keep the best."""

    def spec(self) -> TrainSpec:
        """Return the engine's part of the request."""
        return TrainSpec.model_construct(
            **{name: getattr(self, name) for name in TrainSpec.model_fields}
        )


class PlanView(View):
    """A training request resolved: what would be trained, on what, at which cost."""

    model_config = ConfigDict(extra="allow")

    spec: dict[str, Any]
    network: dict[str, Any]
    layers: list[dict[str, Any]]
    parameters: dict[str, Any]
    parameter_count: int
    outputs: dict[str, Any]
    inputs: list[str]
    """Columns (arrays)."""
    input_names: list[str]
    """What the network reads of them, at most 1000: `x`, `city=Paris`, `age is missing`, `x[0]`."""
    input_count: int
    """How many it reads."""
    targets: list[str]
    sequence: dict[str, Any] | None
    """How rows become sequences, all keys resolved; null where they do not."""
    classes: list[Any] | None
    losses: list[dict[str, Any]]
    """The terms of the loss: `form`, `weight`, the `output` compared, and its `targets`."""
    regularizers: list[dict[str, Any]]
    loading: dict[str, Any]
    """How rows come to the network: `form` is `resident` where all are encoded and held in memory,
    or `blocks`; `encoded_bytes` of all, `resident_bytes` that may be held, and of blocks the
    `block_rows` that are read and the `pool_rows` that are shuffled together."""
    rows: dict[str, int]
    steps_per_epoch: int
    estimated_memory_bytes: int
    estimated_seconds: float
    warnings: list[str]
    search: dict[str, Any] | None = None
    """Of a search: its `variants`, the metric that decides, the `rungs` of its halving; the rest of
    the plan is then the first variant's, but for memory, time and warnings, which are of all."""


# -- jobs ------------------------------------------------------------------------------------------


class JobView(View):
    """A job."""

    id: str = Field(examples=["job_01k9t3v5rqk2m8xw4c7h1n6b0e"])
    kind: str
    status: Status
    terminal: bool
    """Nothing will happen to it any more."""
    progress: dict[str, Any] | None
    """`phase`, `completed`, `total`, `unit`, `rows_per_second`, `eta_seconds`; of a search in phase
    `searching` also `running`, the epochs done by each variant that has begun, by its number."""
    metrics: dict[str, Any]
    """`train` and `valid`, of the parameters kept so far; `calibration` where that was asked for;
    `search` of a search."""
    model: str | None
    result: dict[str, Any] | None
    attempts: int
    error: dict[str, Any] | None
    """Why it failed; `kind` is user, memory, timeout or infrastructure."""
    spec: dict[str, Any]
    name: str | None
    tags: dict[str, Any]
    resumed_from: str | None
    shared: bool
    """Every key sees it, and what it leaves; else its own and admins do."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobView:
        fields = {name: getattr(job, name) for name in JobView.model_fields if name != "metrics"}
        return cls(metrics={"train": {}, "valid": {}} | job.metrics, **fields)


class ResumeRequest(Spec):
    """How to go on."""

    epochs: Annotated[int, Strict(), Field(ge=1, le=MAX_EPOCHS)] | None = None
    """More epochs; by default those that the job left undone, or if none as many as it had."""
    learning_rate: Positive | None = None
    """Another learning rate than the job's, such as a smaller one where its loss became NaN."""


class CalibrateRequest(ScoreSpec):
    """What to calibrate a model by."""

    dataset: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of a data set with the columns or arrays that the model reads, and its targets."""
    rows: Annotated[tuple[Index, ...], Field(min_length=1, fail_fast=True)] | None = None
    """Numbers of its rows; of windows of series their last ones. All by default."""
    noise_precision: Literal["fit"] | None = None
    """`fit`: the precision of the noise is fitted anew, too, by the same rows; else it stays."""
    name: Name | None = None
    """Name of the job and of the model that it leaves; by default the model's own."""
    tags: Tags = Field(default_factory=dict)
    limits: Limits | None = None


class CancelRequest(Spec):
    """How to cancel."""

    keep: Annotated[bool, Strict()] = False
    """Keep the best so far as a model; of a prediction, the rows that are done as a data set."""


class EventView(View):
    """Something that happened to a job; ids count from 1."""

    id: int
    type: str
    at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> EventView:
        return cls(**vars(event))


class RegularizerHistory(View):
    epoch: int
    loss: float | None
    """The weighted term that it added to the training loss, the mean over the epoch."""
    rates: dict[str, float]
    """The share of each output's elements that were really dropped."""


class RegularizerView(View):
    """One regularizer of a job, and what it did."""

    index: int
    form: str
    pattern: str | None
    """Null where no single glob says which outputs these are: see `matched`."""
    weight: float
    rng: int | None
    reduction: str | None = None
    wrt: str | None = None
    matched: list[str]
    log: str
    history: list[RegularizerHistory]


class RegularizerLogView(View):
    data: list[RegularizerView]


class VariantView(View):
    """One variant of a search, and what it came to."""

    index: int
    overrides: dict[str, Any]
    """What is different in it, by path."""
    status: Literal["queued", "running", "succeeded", "stopped", "failed"]
    """`stopped`: at a rung of the halving, or because its job has ended; `failed`: its loss became
    infinite or NaN."""
    epochs: int
    """Those done; of one that is `running`, lately."""
    kept_epoch: int | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    """`train` and `valid`, of the parameters of the kept epoch: those of this job alone."""
    noise_precision: dict[str, float] | None = None
    error: str | None = None
    selected: bool
    """It is the best."""


# -- models ----------------------------------------------------------------------------------------


class ModelSummary(View):
    """A model, in a list."""

    id: str = Field(examples=["mdl_01k9t3v5rqk2m8xw4c7h1n6b0e"])
    name: str | None
    job: str | None
    dataset: str | None
    form: str
    parameter_count: int
    metrics: dict[str, Any]
    shared: bool
    """Every key sees it; else its own and admins do."""
    created_at: datetime

    @classmethod
    def of(cls, model: Model) -> ModelSummary:
        document = model.document
        return cls(
            id=model.id,
            name=model.name,
            job=model.job,
            dataset=document.get("dataset"),
            form=document["network"]["form"],
            parameter_count=document["parameter_count"],
            metrics=document["metrics"],
            shared=model.shared,
            created_at=model.created_at,
        )


class ModelView(ModelSummary):
    """A model: what it is, what it learnt, how it reads and what it gives."""

    spec: dict[str, Any] | None
    """What it was trained with; null for an imported one."""
    network: dict[str, Any]
    parameters: dict[str, Any]
    outputs: dict[str, Any]
    encoding: dict[str, Any]
    regularizers: list[dict[str, Any]]
    rates: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Dropout rates that were learnt, by the regularizer's index and the output."""
    noise_precision: dict[str, float] | None
    calibration: dict[str, Any] | None = None
    """What `interval` and `set` are made by: `coverage`, `score`, how many `rows` it learnt from,
    `quantiles` by target, and the `way` of predicting that it holds for; a classifier's
    `temperature`. Null where it was not calibrated."""
    calibrated_from: str | None = None
    """The model with the same weights that this one is a new calibration of."""
    kept_epoch: int | None
    version: str
    weights: dict[str, Any]
    """`sha256` and `bytes` of the safetensors file."""
    members: list[dict[str, Any]] | None = None
    """Of an ensemble, the best first: each one's `spec`, `network`, `rates`, `noise_precision`,
    `metrics` and `kept_epoch`. What stands above is then the first member's; `parameters` are all,
    each named by its member's number first, `1.hid1.w`, and `metrics` have those of the choice."""

    @classmethod
    def of(cls, model: Model) -> ModelView:
        summary = ModelSummary.of(model).model_dump()
        document = {name: value for name, value in model.document.items() if name not in summary}
        return cls(**summary, **{k: document[k] for k in cls.model_fields if k in document})


class SharingRequest(Spec):
    """Who is to see it."""

    shared: Annotated[bool, Strict()]
    """Every key; else its own alone, and admins."""


class AliasRequest(Spec):
    model: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the model, or another alias, that the name is to point at."""
    shared: Annotated[bool, Strict()] | None = None
    """Whether every key sees the name; as before where it is left out, of a new one false. What a
    shared name points at is shared, too."""


class AliasMoveView(View):
    version: int
    model: str | None
    """Null where the alias was deleted."""
    at: datetime


class AliasView(View):
    """A name that points at a model."""

    name: str
    model: str
    shared: bool
    version: int
    created_at: datetime
    moved_at: datetime
    history: list[AliasMoveView] | None = None
    """Every move of the name, newest first; only for a single alias."""

    @classmethod
    def of(cls, alias: Alias, history: list[AliasMove] | None = None) -> AliasView:
        moves = None if history is None else [AliasMoveView(**vars(move)) for move in history]
        return cls(**vars(alias), history=moves)


# -- predictions -----------------------------------------------------------------------------------


class OutsideView(View):
    """A row that is unlike those that the model was trained on."""

    row: int
    """Its position in the request, of a stored data set its number there."""
    inputs: list[str]
    """Those outside the range of the training rows; of a sequence or image at any step or pixel."""


class RankedRow(View):
    """A row that a model is unsure of."""

    model_config = ConfigDict(extra="allow")

    row: int
    """Its number in the data set."""
    score: float
    """What it was ranked by; of `batch_bald` what its label adds to those of the rows before it."""
    mutual_information: float | None = None
    """Of `batch_bald`: what its label tells alone."""
    information: float | None = None
    """Of `batch_bald`: what its label and those of the rows before it tell together."""


class RankingView(View):
    """Rows of a data set, the least sure first, and all that is needed to ask for them again."""

    model: str
    dataset: str
    by: str
    rows: int
    """How many were ranked."""
    data: list[RankedRow]
    candidates: int | None
    """Of `batch_bald`: how many rows, those with the largest mutual information, were compared
    with each other."""
    dropout: list[dict[str, Any]]
    noise: list[dict[str, Any]]
    drop_connect: list[dict[str, Any]]
    num_samples: int | None
    seed: int | None
    """Null where nothing random was asked for."""
    masks: Literal["independent", "shared"]
    row_offset: int
    stream: int
    """Version of the random streams."""
    warnings: list[str]


class ExplanationShare(View):
    """Part of the variance over the passes, of each row and target (class)."""

    variance: list[Any]
    """In target units^2; of a classifier that of the probabilities."""
    share: list[Any]
    """Of the variance of all together; null where that is 0."""
    mutual_information: list[Any] | None = None
    """Of a classifier, of each row (step): how much the passes disagree on the label, in nats."""
    mutual_information_share: list[Any] | None = None
    """Of that of all together; null where that is 0."""


class ExplanationSite(ExplanationShare):
    """What one site accounts for: the variance where it alone acts."""

    site: str
    """The output, or the weights, that it acts on."""
    kind: Literal["dropout", "noise", "drop_connect"]
    pattern: str | None
    level: float | None
    """The rate of dropping, or the noise's standard deviation; null where members of an ensemble
    have several."""


class ExplanationView(View):
    """How much of the variance over the passes each site of dropout or noise accounts for."""

    variance: list[Any]
    """Of all sites together."""
    mutual_information: list[Any] | None = None
    """Of a classifier: the same of what the passes disagree on."""
    sites: list[ExplanationSite]
    members: ExplanationShare | None
    """Of an ensemble: what its members differ by where nothing is dropped and no noise added."""
    interaction: ExplanationShare
    """What all these lack of that of all together; below 0 where they exceed it."""


class PredictionView(View):
    """An answer, with all that is needed to ask for the same numbers again."""

    model_config = ConfigDict(extra="allow")

    model: str
    outputs: dict[str, Any]
    """`prediction`, or the statistics of the passes, and the other named outputs asked for."""
    dropout: list[dict[str, Any]]
    """`pattern`, `rate`, `rng`, `steps`, `spatial` and `matched` of what was dropped."""
    drop_connect: list[dict[str, Any]]
    """`pattern`, `rate`, `rng` and `matched` of the weights that were dropped."""
    noise: list[dict[str, Any]]
    """`pattern`, `std`, `rng` and `matched` of the noise that was added."""
    num_samples: int | None
    seed: int | None
    """Null where nothing random was asked for."""
    masks: Literal["independent", "shared"]
    row_offset: int
    stopped_by: str | None
    stream: int
    """Version of the random streams."""
    outside: list[OutsideView]
    """Rows with inputs below or above all those of the training rows; the first 100."""
    explain: ExplanationView | None = None
    """There with `"explain": true`."""
    warnings: list[str]
