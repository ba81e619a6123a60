"""Health, metrics, capabilities."""

from __future__ import annotations

from typing import Any

import torch
from fastapi import APIRouter, Response

import engine
from engine.data import formats
from engine.plan import MAX_PARAMETERS
from engine.spec import ACTIVATIONS, LAYER_FORMS
from engine.streams import STREAM_VERSION
from engine.summary import statistics_of
from service import predictor
from service.bodies import StrictRoute
from service.deps import SettingsDep, StateDep
from service.errors import Unavailable
from service.problems import problems

__all__ = ["router"]

router = APIRouter(tags=["health"], route_class=StrictRoute)


@router.get("/health/live", operation_id="isLive")
def live() -> dict[str, str]:
    """Answer 200 while the process can answer."""
    return {"status": "live"}


@router.get("/health/ready", operation_id="isReady", responses=problems(503))
def ready(state: StateDep) -> dict[str, str]:
    """Answer 200 once requests and jobs will be served, else 503 with the reason."""
    if state.shutdown.has_begun:
        raise Unavailable("the server is stopping", retry_after_s=5)
    if not state.health.workers_ready():
        raise Unavailable("no worker is alive and warm, so jobs would wait", retry_after_s=2)
    state.jobs.counts()  # the database answers
    return {"status": "ready"}


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
)
def metrics(state: StateDep) -> Response:
    """Give the server's metrics to Prometheus."""
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/capabilities", operation_id="getCapabilities")
def capabilities(settings: SettingsDep) -> dict[str, Any]:
    """Say what this server can do, and up to which limits."""
    return {
        "version": engine.__version__,
        "stream": STREAM_VERSION,
        "forms": {
            "networks": ["regressor", "classifier", "autoencoder"],
            "layers": list(LAYER_FORMS),
            "activations": list(ACTIVATIONS),
            "losses": ["mse", "mae", "xe"],
            "optimizers": ["sgd", "rmsprop", "adam", "adamw"],
            "regularizers": ["bernoulli_dropout", "weight_l2", "weight_l1"],
        },
        "statistics": {
            form: list(statistics_of(form)) for form in ("regressor", "classifier", "autoencoder")
        },
        "formats": {
            "datasets": list(formats.MEDIA_TYPES),
            "content": {kind: list(types) for kind, types in formats.WRITABLE.items()},
        },
        "devices": ["cpu", *(["cuda"] if torch.cuda.is_available() else [])],
        "limits": {
            "max_body_bytes": settings.max_body_bytes,
            "max_upload_bytes": settings.max_upload_bytes,
            "max_queued_jobs": settings.max_queued_jobs,
            "max_parameters": MAX_PARAMETERS,
            "max_prediction_flops": predictor.MAX_FLOPS,
            "max_prediction_samples": predictor.MAX_SAMPLES,
            "max_answer_numbers": predictor.MAX_ANSWER,
        },
    }
