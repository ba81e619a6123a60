"""Jobs of any kind, their events, regularizers and variants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, Strict

from engine.spec import Spec
from service.schemas.views import View
from service.store.jobs import EventText, Job, Status

__all__ = ["CancelRequest", "EventView", "JobView", "RegularizerLogView", "VariantView"]


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
    def written(cls, event: EventText) -> bytes:
        """Return the view of an event as JSON, with its data as they are stored."""
        data = orjson.Fragment(event.data)
        view = {"id": event.id, "type": event.type, "at": event.at, "data": data}
        return orjson.dumps(view, option=orjson.OPT_UTC_Z)


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
