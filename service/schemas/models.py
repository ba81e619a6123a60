"""Models and their names, and how a model is calibrated or shared."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, Strict

from engine.spec import Index, ScoreSpec, Spec
from service.job_options import Limits, Name, Tags
from service.schemas.views import View
from service.store.aliases import AliasMove
from service.store.models import Alias, Model

__all__ = [
    "AliasRequest",
    "AliasView",
    "CalibrateRequest",
    "ModelSummary",
    "ModelView",
    "SharingRequest",
]


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
