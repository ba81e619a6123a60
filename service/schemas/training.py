"""Jobs that train: what they are asked for, and what that comes to."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, Strict

from engine.spec import Positive, SearchSpec, Spec, TrainSpec
from service.job_options import CheckpointEvery, Name, Tags, TrainLimits, often_enough
from service.schemas.views import View

__all__ = ["MAX_EPOCHS", "PlanView", "ResumeRequest", "TrainRequest"]

MAX_EPOCHS = 10_000_000
"""Of a job, those of the jobs that it goes on from included."""


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


class ResumeRequest(Spec):
    """How to go on."""

    epochs: Annotated[int, Strict(), Field(ge=1, le=MAX_EPOCHS)] | None = None
    """More epochs; by default those that the job left undone, or if none as many as it had."""
    learning_rate: Positive | None = None
    """Another learning rate than the job's, such as a smaller one where its loss became NaN."""
