"""Predictions: one pass, or many and their statistics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import StoppedError
from service.accept import preferred
from service.answer_tables import STREAM
from service.arrow_requests import read_arrow_request
from service.bodies import StrictRoute, media_type_of, parse_json, read_as, validated
from service.deps import State
from service.errors import Invalid, NotAcceptable
from service.observe.traces import name_route
from service.predictor import Predictor
from service.prepared import INLINE_BYTES, PredictRequest, Prepared
from service.problems import problem_of, problems
from service.routes.wanted import CLIENT_CLOSED, Gone, while_wanted
from service.schemas.predictions import PredictionView
from service.scopes import caller_of, viewer_of

__all__ = ["Shortcut", "router"]

_JSON, _EVENTS = "application/json", "text/event-stream"
_OFFERED = (_JSON, _EVENTS, STREAM)
_PREPARED = "bernoulli.prepared"
"""Where a scope has a request that was read already."""
_TELLING = {
    b"content-type": (b"application/json",),
    b"accept": (b"*/*", b"application/json"),
    b"content-encoding": (),
}
"""Headers that say how to answer, and what they say in plain requests."""
_OF_ONE_ANSWER = frozenset({"model", "inputs", "seed", "row_offset"})
"""What plans do not depend on."""


async def _answered(request: Request) -> Response:
    arrived = time.monotonic()
    accept = request.headers.get("accept", "*/*")
    # Most callers say nothing, or take anything.
    kind = _JSON if accept in ("*/*", _JSON) else preferred(accept, _OFFERED)
    if kind is None:
        raise NotAcceptable(f"answers are {' or '.join(_OFFERED)}; `Accept` is {accept[:80]!r}")
    content = await request.body()
    caller = caller_of(request.scope)
    viewer, owner = (None, None) if caller is None else (caller.viewer, caller.id)
    predictor: Predictor = request.state.predictor
    ready: Prepared | None = request.scope.get(_PREPARED)
    try:
        if ready is None:
            body, raw = await predictor.parse(len(content), partial(_read, request, content))
            if kind == _EVENTS:
                events = await predictor.estimates(
                    body, size=len(content), arrived=arrived, viewer=viewer, owner=owner
                )
                return await _streamed(request, events)
            ready = await predictor.prepare(body, size=len(content), key=_key(raw), viewer=viewer)
        if kind == STREAM:
            ready = replace(ready, media_type=STREAM)
        if ready.is_small:
            answer = predictor.at_once(ready)
        else:
            answer = await while_wanted(request, predictor.in_turn(ready, arrived, owner=owner))
        return Response(answer, media_type=kind)
    except (Gone, StoppedError):
        return Response(status_code=CLIENT_CLOSED)  # nobody reads it


def _read(request: Request, content: bytes) -> tuple[PredictRequest, dict[str, Any]]:
    """Return the request, and its fields as they were, of rows as long as they are JSON."""
    fields = request.query_params.get("request") if request.scope["query_string"] else None
    if media_type_of(request) == STREAM:
        limit = request.state.settings.max_body_bytes
        return read_arrow_request(content, fields, max_bytes=limit)
    if fields is not None:
        raise Invalid(
            "`request` goes with an Arrow stream; JSON has all fields in its body",
            pointer="#/query/request",
        )
    return read_as(PredictRequest, content)


def _key(raw: dict[str, Any]) -> Hashable:
    """Return what requests have in common that differ in nothing but rows and seed."""
    return orjson.dumps({name: raw[name] for name in raw if name not in _OF_ONE_ANSWER})


async def _streamed(request: Request, events: AsyncGenerator[tuple[str, bytes], None]) -> Response:
    """Answer by events, the first of which is waited for: until then there may be a status."""
    first = await while_wanted(request, anext(events))
    return StreamingResponse(
        _frames(request, first, events),
        media_type=_EVENTS,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _frames(
    request: Request, first: tuple[str, bytes], events: AsyncGenerator[tuple[str, bytes], None]
) -> AsyncGenerator[bytes, None]:
    try:
        yield _frame(*first)
        async for name, content in events:
            yield _frame(name, content)
    except Exception as error:
        yield _frame("error", bytes(problem_of(request, error).body))
    finally:
        await events.aclose()


def _frame(name: str, content: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + content + b"\n\n"


class _DirectRoute(StrictRoute):
    """Hands request and body to `_answered`: what FastAPI would work out anew costs as much."""

    others = (STREAM,)

    def answers(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return _answered


router = APIRouter(tags=["predictions"], route_class=_DirectRoute)


@router.post(
    "/predict",
    operation_id="predict",
    summary="Predict with a model, and say how sure it is",
    response_model=PredictionView,
    responses={
        **problems(400, 404, 406, 413, 415, 422, 503),
        200: {
            "content": {
                _EVENTS: {
                    "schema": {"type": "string"},
                    "example": 'event: estimate\ndata: {"num_samples": 64, …}\n\n'
                    'event: result\ndata: {"num_samples": 1000, …}\n\n',
                },
                STREAM: {"schema": {"type": "string", "format": "binary"}},
            }
        },
    },
    openapi_extra={
        "requestBody": {"content": {STREAM: {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def predict(
    body: PredictRequest,
    request: Annotated[
        str | None,
        Query(
            description="With an Arrow stream as the body: all fields but `inputs`, as JSON.",
            examples=['{"model": "mdl_…", "num_samples": 100}'],
        ),
    ] = None,
) -> Any:
    """Answer with one deterministic pass, one stochastic pass, or the statistics of many.

    The same request with the same `seed` gives the same numbers, to the bit. A caller that
    disconnects ends the work. With `Accept: text/event-stream` the answer for the passes so far
    comes as an event `estimate` after 64, 128, 256, … passes, and the whole one last, as `result`;
    what goes wrong after the first of them comes as `error`, a problem.

    The rows may come as an Arrow IPC stream, columns by name, with the other fields as JSON in the
    parameter `request` or in the schema's metadata `bernoulli.request`. With `Accept:
    application/vnd.apache.arrow.stream` the answer is a table, a row for each input row and a
    column for each statistic and target, with the rest as JSON in the schema's metadata
    `bernoulli.answer`.
    """
    raise NotImplementedError(body, request)  # `_answered` does it


class Shortcut:
    """Answers plain requests ahead of the routes, which take longer than a small network does.

    Plain is JSON in one piece and JSON out. All else goes to the route, and whatever is wrong does:
    it decides, and it alone says so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        (self._route,) = router.routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_plain(scope):
            await self._app(scope, receive, send)
            return
        message = await receive()
        predictor: Predictor = scope["state"]["predictor"]
        ready = answer = None
        # Whatever is wrong, the route meets it again, and answers it.
        with contextlib.suppress(Exception):
            content = _whole(scope["state"], message)
            raw = None if content is None else parse_json(content)
            if isinstance(raw, dict):
                key = _key(raw)
                viewer = viewer_of(scope)
                answer = predictor.repeats.answer(raw, key, viewer)
                if answer is None:
                    ready = predictor.prepare_at_once(validated(PredictRequest, raw), key, viewer)
                    answer = predictor.at_once(ready) if ready and ready.is_small else None
        if answer is None:
            scope[_PREPARED] = ready
            await self._app(scope, _again(message, receive), send)
            return
        scope["route"] = self._route
        name_route(scope, "/predict")
        length = str(len(answer)).encode()
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _is_plain(self, scope: Scope) -> bool:
        if scope["path"] != "/predict" or scope["method"] != "POST" or scope["query_string"]:
            return False
        is_json = False
        for name, value in scope["headers"]:
            if name in _TELLING:
                if value not in _TELLING[name]:
                    return False
                is_json = is_json or name == b"content-type"
        return is_json


def _whole(state: State, message: Message) -> bytes | None:
    """Return a whole body, if it is short."""
    content: bytes = message.get("body", b"")
    if message["type"] != "http.request" or message.get("more_body", False):
        return None
    most = min(INLINE_BYTES, state["settings"].max_body_bytes)
    return content if len(content) <= most else None


def _again(message: Message, receive: Receive) -> Receive:
    """Return what gives a message again, before those that follow it."""
    given = [message]

    async def again() -> Message:
        return given.pop() if given else await receive()

    return again
