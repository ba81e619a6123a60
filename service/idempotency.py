"""Answering a POST that creates something once, however often it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from service.store.idempotency import (
    Answer,
    Idempotency,
    IdempotencyKeys,
    InFlight,
    Remember,
)

__all__ = ["answer_once", "created"]

T = TypeVar("T")


def created(view: BaseModel, location: str, status: int = 201) -> Answer:
    """Return the answer that shows what was created and where it is."""
    body = orjson.dumps(view.model_dump(mode="json"))
    return Answer(status, {"Location": location, "Content-Type": "application/json"}, body)


def answer_once(
    request: Request,
    key: str | None,
    content: Any,
    create: Callable[[Remember[T] | None], T],
    answer: Callable[[T], Answer],
) -> Response:
    """Create something and answer, or repeat the first answer to the same key.

    `content` is the parsed content of the request, its parameters included. Raises
    IdempotencyMismatch where the key came with other content before, and IdempotencyInFlight while
    the first request is going on.
    """
    if key is None:
        return _response(answer(create(None)))
    state = request.state
    keys: IdempotencyKeys = state.idempotency
    in_flight: InFlight = state.in_flight
    described = [request.method, request.url.path, content]
    canonical = orjson.dumps(described, option=orjson.OPT_SORT_KEYS)
    fingerprint = hashlib.sha256(canonical).hexdigest()
    owner = request.scope.get("bernoulli.owner")
    idempotency = Idempotency(key, owner, fingerprint)
    with in_flight.hold(idempotency):
        first = keys.lookup(idempotency)
        if first is not None:
            return _response(first)
        return _response(answer(create(Remember(idempotency, answer))))


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, headers=dict(answer.headers))
