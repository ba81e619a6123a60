"""Health, metrics, capabilities."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError

import engine
from engine.data import formats
from engine.kernels import library_name
from engine.mixed_precision import precisions_of
from engine.plan import MAX_PARAMETERS
from engine.spec import ACTIVATIONS, LAYER_FORMS, LOSSES, OPTIMIZERS, REGULARIZERS, SCHEDULES
from engine.streams import STREAM_VERSION
from engine.summary import statistics_of
from service import limits
from service.bodies import StrictRoute
from service.deps import SettingsDep, StateDep
from service.errors import StorageFull, Unavailable
from service.problems import problems
from service.scopes import viewer_of
from service.store.room import is_full

__all__ = ["router"]

router = APIRouter(tags=["health"], route_class=StrictRoute)

_PROBED_BYTES = 2**16


@router.get("/health/live", operation_id="isLive")
async def live() -> dict[str, str]:
    """Answer 200 while the process can answer."""
    return {"status": "live"}


@router.get("/health/ready", operation_id="isReady", responses=problems(503))
def ready(state: StateDep) -> dict[str, str]:
    """Answer 200 once requests and jobs will be served, else 503 with the reason."""
    if state.shutdown.has_begun:
        raise Unavailable("the server is stopping", retry_after_s=5)
    if not state.health.workers_ready():
        raise Unavailable("no worker is alive and warm, so jobs would wait", retry_after_s=2)
    _require_writable(state)
    return {"status": "ready"}


def _require_writable(state: Any) -> None:
    """Raise Unavailable, with the reason, unless database and artifacts can be written."""
    probe = None
    try:
        probe = state.blobs.temporary()
        with state.database.write():
            probe.write_bytes(bytes(_PROBED_BYTES))
    except StorageFull as error:
        raise Unavailable(error.detail, retry_after_s=10) from error
    except OSError as error:
        reason = "its disk is full" if is_full(error) else error.strerror
        raise Unavailable(
            f"the artifact folder cannot be written: {reason}", retry_after_s=10
        ) from error
    except SQLAlchemyError as error:
        raise Unavailable("the database cannot be written", retry_after_s=10) from error
    finally:
        if probe is not None:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


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
def metrics(state: StateDep, request: Request) -> Response:
    """Give the server's metrics to Prometheus."""
    content = state.metrics.text(viewer_of(request.scope))
    return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")


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
            "losses": list(LOSSES),
            "optimizers": list(OPTIMIZERS),
            "schedules": list(SCHEDULES),
            "regularizers": list(REGULARIZERS),
        },
        "statistics": {
            form: list(statistics_of(form)) for form in ("regressor", "classifier", "autoencoder")
        },
        "formats": {
            "datasets": list(formats.MEDIA_TYPES),
            "content": {kind: list(types) for kind, types in formats.WRITABLE.items()},
        },
        "devices": ["cpu", *(["cuda"] if torch.cuda.is_available() else [])],
        "precisions": {
            name: list(precisions_of(torch.device(name)))
            for name in ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))
        },
        "kernels": library_name(),
        "limits": {
            "max_body_bytes": settings.max_body_bytes,
            "max_upload_bytes": settings.max_upload_bytes,
            "max_queued_jobs": settings.max_queued_jobs,
            "max_resident_bytes": settings.resident_bytes,
            "max_job_bytes": settings.max_job_bytes,
            "max_parameters": MAX_PARAMETERS,
            "max_prediction_flops": limits.MAX_FLOPS,
            "max_prediction_samples": limits.MAX_SAMPLES,
            "max_answer_numbers": limits.MAX_ANSWER,
        },
    }
