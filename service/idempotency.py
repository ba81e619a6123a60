"""Answering a POST that creates something once, however often it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from service.scopes import caller_of
from service.store.idempotency import (
    Answer,
    Idempotency,
    IdempotencyKeys,
    InFlight,
    Remember,
)

__all__ = ["answer_once", "created"]

T = TypeVar("T")


def created(view: BaseModel, location: str, status: int = 201, **headers: str) -> Answer:
    """Return the answer that shows what was created and where it is."""
    body = orjson.dumps(view.model_dump(mode="json"))
    headers = {"Location": location, "Content-Type": "application/json", **headers}
    return Answer(status, headers, body)


async def answer_once(
    request: Request,
    key: str | None,
    content: Any,
    create: Callable[[Remember[T] | None], Awaitable[T]],
    answer: Callable[[T], Answer],
    *,
    later: Callable[[T], Awaitable[Answer]] | None = None,
) -> Response:
    """Create something and answer, or repeat the first answer to the same key.

    `content` is the parsed content of the request, its parameters included. `later` gives the
    answer instead of `answer` where that takes time after the creation; until then the request
    counts as going on. Raises IdempotencyMismatch where the key came with other content before, and
    IdempotencyInFlight while the first request is going on.
    """
    if key is None:
        made = await create(None)
        return _response(answer(made) if later is None else await later(made))
    keys: IdempotencyKeys = request.state.idempotency
    in_flight: InFlight = request.state.in_flight
    idempotency = await run_in_threadpool(_identify, request, key, content)
    with in_flight.hold(idempotency):
        first = await run_in_threadpool(keys.lookup, idempotency)
        if first is None:
            made = await create(Remember(idempotency, answer))
            first = answer(made)
            if later is not None:
                # A kill until here leaves the answer that was stored with what was created.
                first = await later(made)
                await run_in_threadpool(keys.replace, idempotency, first)
    return _response(first)


def _identify(request: Request, key: str, content: Any) -> Idempotency:
    described = [request.method, request.url.path, content]
    canonical = orjson.dumps(described, option=orjson.OPT_SORT_KEYS)
    fingerprint = hashlib.sha256(canonical).hexdigest()
    caller = caller_of(request.scope)
    return Idempotency(key, None if caller is None else caller.id, fingerprint)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, headers=dict(answer.headers))
