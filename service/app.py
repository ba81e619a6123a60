"""The HTTP app: its state, its middleware, its routes."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import engine
from service import problems
from service.auth import KeyMiddleware, is_open
from service.deadlines import DeadlineMiddleware
from service.deps import State, now
from service.examiner import Examiner
from service.health import Health
from service.observe.metrics import Metrics, MetricsMiddleware
from service.observe.traces import name_request, telemetry
from service.parsing import Parsers
from service.predictor import Predictor
from service.routes import (
    aliases,
    audit,
    batches,
    calibration,
    datasets,
    evaluation,
    feedback,
    health,
    jobs,
    models,
    predictions,
    ranking,
    resumption,
    sharing,
    training,
    web,
)
from service.scopes import needed_scopes
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

__all__ = ["create_app"]

DESCRIPTION = """\
Trains neural networks and says how sure it is: upload a data set, `POST /train` a network, follow
the job, and ask `/predict` for answers with Monte-Carlo dropout uncertainty. Dropout is aimed by
glob patterns at named outputs, in training and in prediction alike.

Errors are `application/problem+json` (RFC 9457) with pointers to what is wrong.
"""


_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_CREATING = (
    "/datasets",
    "/train",
    "/predictions",
    "/evaluations",
    "/models",
    "/models/{model_id}/calibrate",
    "/models/{model_id}/feedback",
)
"""Paths that answer with the `Location` of what they created."""


def create_app(
    settings: Settings, *, shutdown: Shutdown | None = None, parsers: Parsers | None = None
) -> FastAPI:
    """Make the app; `shutdown` tells its streams and long waits that the server is to stop.

    `parsers` are processes that others use too: they stay when the app ends.
    """
    stopping = shutdown or Shutdown()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        # Requests run side by side, one thread each; a second thread within one costs more than
        # it gives on work of this size.
        torch.set_num_threads(1)
        database = Database(settings.database_url)
        database.migrate()
        parsing = parsers or Parsers()
        state = _state(settings, database, parsing, stopping)
        try:
            yield state
        finally:
            stopping.begin()
            state["predictor"].close()
            if parsing is not parsers:
                parsing.close()
            database.close()

    app = FastAPI(
        title="Bernoulli",
        version=engine.__version__,
        summary="Neural networks over HTTP, with their uncertainty",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=telemetry(),
        middleware=[
            Middleware(_RequestIdMiddleware),
            Middleware(_HeadMiddleware),
            Middleware(MetricsMiddleware),
            Middleware(DeadlineMiddleware, settings=settings),
            Middleware(KeyMiddleware, settings=settings),
            Middleware(predictions.Shortcut),
        ],
    )
    problems.install(app)
    # Predictions first: routes are tried in order, and these are the most frequent.
    first = (predictions, batches, ranking, evaluation, datasets, training, jobs, resumption)
    for part in (*first, models, calibration, feedback, aliases, sharing, audit, health, web):
        app.include_router(part.router)
    web.mount(app)
    _describe(app)
    return app


def _state(settings: Settings, database: Database, parsers: Parsers, shutdown: Shutdown) -> State:
    blobs = Blobs(settings.artifacts_path, settings.room())
    models_store = Models(database, now, quotas=settings.quotas)
    datasets_store = Datasets(database, now, blobs, quotas=settings.quotas)
    jobs_store = Jobs(
        database,
        now,
        lease_s=settings.lease_s,
        max_failures=settings.max_attempts,
        max_waiting=settings.max_queued_jobs,
        quotas=settings.quotas,
    )
    stored = StoredData(datasets_store, blobs)
    predictor = Predictor(
        models=models_store,
        stored=stored,
        blobs=blobs,
        max_bytes=settings.max_loaded_bytes,
        max_running=os.cpu_count() or 1,
        max_waiting=settings.max_waiting_predictions,
        max_waiting_bytes=settings.max_waiting_bytes,
        max_run_s=settings.max_answer_s,
    )
    readiness = Health(settings)
    records = Feedback(database, now)
    return State(
        settings=settings,
        database=database,
        blobs=blobs,
        datasets=datasets_store,
        jobs=jobs_store,
        models=models_store,
        aliases=Aliases(database, now),
        audit=AuditTrail(database),
        feedback=records,
        keys=ApiKeys(database, now),
        idempotency=IdempotencyKeys(database, now),
        in_flight=InFlight(),
        predictor=predictor,
        examiner=Examiner(predictor=predictor, stored=stored),
        stored=stored,
        parsers=parsers,
        health=readiness,
        metrics=Metrics(
            jobs_store, predictor, readiness, feedback=records, database=database, room=blobs.room
        ),
        shutdown=shutdown,
    )


class _RequestIdMiddleware:
    """Gives every request an id, in the scope and in the answer's `X-Request-Id`.

    And tells browsers to take every answer for what it says it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = random.Random()  # names, not secrets: the system's takes three times as long

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"{self._ids.getrandbits(64):016x}"
        scope["bernoulli.request_id"] = request_id
        name_request(scope, request_id)
        name = request_id.encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                # What is stored is never a page, whatever a browser takes it for.
                message["headers"] = [*message["headers"], (b"x-request-id", name), _NO_SNIFFING]
            await send(message)

        await self._app(scope, receive, named)


class _HeadMiddleware:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]

        async def bodiless(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # Without `Accept` nothing is streamed for as long as a job lasts.
        await self._app({**scope, "method": "GET", "headers": headers}, receive, bodiless)


def _describe(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI cannot know: problems, keys, exact error answers."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            model = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= model.pop("$defs")
            schemas["Problem"] = model
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}, {}]
            _document_errors(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document_errors(document: dict[str, Any]) -> None:
    """Say of every operation how it may be refused whatever it does.

    For want of a key, of its scope or of a known parameter, because the store does not answer in
    time or is damaged, and where it changes the store, for want of room there, for the server or
    for one key.
    """
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = [422] if is_open(path) else [401, 403, 422, 503]
            if method != "get" and path not in ("/predict", "/evaluate", "/rank"):
                statuses += [507]
            if method == "post" and not path.endswith("/cancel"):
                statuses.append(429)
            if "requestBody" in operation:
                statuses.append(408)
            everywhere = {
                str(status): answer for status, answer in problems.problems(*statuses).items()
            }
            # Roles of a bearer's key, as OpenAPI 3.1 has them; `{}` for servers without keys.
            needed = [] if is_open(path) else needed_scopes(method.upper(), path)
            operation["security"] = [{"key": [one]} for one in needed] + ([{}] if needed else [])
            answers = operation["responses"]
            for status, answer in everywhere.items():
                if status not in answers or "HTTPValidationError" in str(answers[status]):
                    answers[status] = answer
            for status, answer in answers.items():
                headers = _headers(path, status)
                if headers:
                    answer["headers"] = {
                        name: {"description": text, "schema": {"type": "string"}}
                        for name, text in headers.items()
                    }


def _headers(path: str, status: str) -> dict[str, str]:
    """Return the headers of an answer that a caller acts upon, with what they say."""
    headers: dict[str, str] = {}
    if status in ("429", "503"):
        headers["Retry-After"] = "Seconds to wait before another try."
    if status == "401":
        headers["WWW-Authenticate"] = "`Bearer`."
    if status in ("201", "202") and path in _CREATING:
        headers["Location"] = "Path of what was created."
    if status in ("200", "201") and path == "/aliases/{name}":
        headers["ETag"] = "Version of the alias, for `If-Match`."
    if status in ("200", "304") and path == "/models/{model_id}/weights":
        headers["ETag"] = "Hash of the weights, for `If-None-Match`."
    return headers
