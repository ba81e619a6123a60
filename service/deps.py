"""What routes ask for: the state that the app's lifespan made, by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict

from fastapi import Depends, Header, Path, Query, Request

from service.examiner import Examiner
from service.health import Health
from service.observe.metrics import Metrics
from service.parsing import Parsers
from service.predictor import Predictor
from service.scopes import actor_of, viewer_of
from service.settings import Settings
from service.shutdown import Shutdown
from service.store.aliases import Aliases
from service.store.audit import AuditTrail
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.datasets import Datasets
from service.store.feedback import Feedback
from service.store.idempotency import IdempotencyKeys, InFlight
from service.store.jobs import Jobs
from service.store.keys import ApiKeys
from service.store.models import Models
from service.stored_inputs import StoredData

__all__ = [
    "AfterQuery",
    "AliasesDep",
    "AuditTrailDep",
    "BlobsDep",
    "DatasetsDep",
    "ExaminerDep",
    "FeedbackDep",
    "IdPath",
    "IdempotencyHeader",
    "JobsDep",
    "LimitQuery",
    "ModelsDep",
    "OwnerDep",
    "ParsersDep",
    "PredictorDep",
    "SettingsDep",
    "State",
    "StateDep",
    "StoredDataDep",
    "now",
]


class State(TypedDict):
    """Everything that outlives a request; made once by the lifespan."""

    settings: Settings
    database: Database
    blobs: Blobs
    datasets: Datasets
    jobs: Jobs
    models: Models
    aliases: Aliases
    audit: AuditTrail
    feedback: Feedback
    keys: ApiKeys
    idempotency: IdempotencyKeys
    in_flight: InFlight
    predictor: Predictor
    examiner: Examiner
    stored: StoredData
    parsers: Parsers
    health: Health
    metrics: Metrics
    shutdown: Shutdown


def now() -> datetime:
    """Return the time, in UTC: the service's one clock."""
    return datetime.now(UTC)


# Stores are given as the caller sees them. These are `async` so that they run where they are asked
# for: a thread costs more than a look-up.


async def _state(request: Request) -> Any:
    return request.state


StateDep = Annotated[Any, Depends(_state)]


async def _settings(request: Request) -> Settings:
    settings: Settings = request.state.settings
    return settings


async def _blobs(request: Request) -> Blobs:
    blobs: Blobs = request.state.blobs
    return blobs


async def _datasets(request: Request) -> Datasets:
    datasets: Datasets = request.state.datasets
    return datasets.seen_by(viewer_of(request.scope), actor=actor_of(request.scope))


async def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.state.jobs
    return jobs.seen_by(viewer_of(request.scope), actor=actor_of(request.scope))


async def _models(request: Request) -> Models:
    models: Models = request.state.models
    return models.seen_by(viewer_of(request.scope), actor=actor_of(request.scope))


async def _aliases(request: Request) -> Aliases:
    aliases: Aliases = request.state.aliases
    return aliases.seen_by(viewer_of(request.scope), actor=actor_of(request.scope))


async def _audit(request: Request) -> AuditTrail:
    audit: AuditTrail = request.state.audit
    return audit


async def _feedback(request: Request) -> Feedback:
    feedback: Feedback = request.state.feedback
    return feedback.seen_by(viewer_of(request.scope))


async def _predictor(request: Request) -> Predictor:
    predictor: Predictor = request.state.predictor
    return predictor


async def _examiner(request: Request) -> Examiner:
    examiner: Examiner = request.state.examiner
    return examiner.of_caller(viewer_of(request.scope), actor_of(request.scope))


async def _stored(request: Request) -> StoredData:
    stored: StoredData = request.state.stored
    return stored.seen_by(viewer_of(request.scope))


async def _parsers(request: Request) -> Parsers:
    parsers: Parsers = request.state.parsers
    return parsers


async def _owner(request: Request) -> str | None:
    return actor_of(request.scope)


SettingsDep = Annotated[Settings, Depends(_settings)]
BlobsDep = Annotated[Blobs, Depends(_blobs)]
DatasetsDep = Annotated[Datasets, Depends(_datasets)]
JobsDep = Annotated[Jobs, Depends(_jobs)]
ModelsDep = Annotated[Models, Depends(_models)]
AliasesDep = Annotated[Aliases, Depends(_aliases)]
AuditTrailDep = Annotated[AuditTrail, Depends(_audit)]
ParsersDep = Annotated[Parsers, Depends(_parsers)]
ExaminerDep = Annotated[Examiner, Depends(_examiner)]
FeedbackDep = Annotated[Feedback, Depends(_feedback)]
PredictorDep = Annotated[Predictor, Depends(_predictor)]
StoredDataDep = Annotated[StoredData, Depends(_stored)]
OwnerDep = Annotated[str | None, Depends(_owner)]
"""Id of the caller's key; None where no keys are asked for."""

IdPath = Annotated[str, Path(min_length=1, max_length=64)]
LimitQuery = Annotated[int, Query(ge=1, le=1000, description="Most entries to return.")]
AfterQuery = Annotated[
    str | None,
    Query(
        pattern=r"^[a-z]+_[0-9a-z]{26}$",
        description="Return what follows the entry with this id, a page's last one.",
    ),
]
IdempotencyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern="^[!-~]+$",
        description="The same key with the same content gets the first answer again.",
    ),
]
