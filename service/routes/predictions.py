"""Predictions: one pass, or many and their statistics."""

from __future__ import annotations

import threading
from typing import Any

import anyio
from fastapi import APIRouter, Request, Response

from engine.errors import StoppedError
from service.bodies import StrictRoute
from service.deps import PredictorDep
from service.predictor import PredictRequest
from service.problems import problems
from service.schemas import PredictionView

__all__ = ["router"]

router = APIRouter(tags=["predictions"], route_class=StrictRoute)

_LOOK_S = 0.25
_CLIENT_CLOSED = 499


@router.post(
    "/predict",
    operation_id="predict",
    summary="Predict with a model, and say how sure it is",
    response_model=PredictionView,
    responses=problems(400, 404, 413, 415, 422, 503),
)
async def predict(request: Request, body: PredictRequest, predictor: PredictorDep) -> Any:
    """Answer with one deterministic pass, one stochastic pass, or the statistics of many.

    The same request with the same `seed` gives the same numbers, to the bit. A caller that
    disconnects ends the work.
    """
    stop = threading.Event()
    content = b""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, request, stop, tasks.cancel_scope)
        try:
            content = await predictor.answer(body, stop)
        except Exception as error:  # raised below, outside the group that would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if stop.is_set() or isinstance(failure, StoppedError):
        return Response(status_code=_CLIENT_CLOSED)  # nobody reads it
    if failure is not None:
        raise failure
    return Response(content, media_type="application/json")


async def _watch(request: Request, stop: threading.Event, scope: anyio.CancelScope) -> None:
    """Stop the work when its caller is gone."""
    while not stop.is_set():
        await anyio.sleep(_LOOK_S)
        if await request.is_disconnected():
            stop.set()
            scope.cancel()
