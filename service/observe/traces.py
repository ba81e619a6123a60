"""Traces: a span a request, sent where OpenTelemetry's own variables say, or not made at all."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import get_current_span

__all__ = ["SERVICE_NAME", "name_request", "name_route", "telemetry"]

SERVICE_NAME = "bernoulli"
"""What the service is called in traces, unless `OTEL_SERVICE_NAME` says otherwise."""
_TRACED = "fastapi.telemetry"
_PROBES = ("/health/", "/metrics")

_Scope = MutableMapping[str, Any]


def telemetry() -> TelemetryConfig:
    """Return how FastAPI makes spans: of all but probes, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set.

    Its metrics stay off, since `/metrics` has them, and its logs, since they carry the messages of
    errors, in which a caller's rows may be.
    """
    return {"auto_configure": True, "metrics": False, "logs": False, "exclude": _is_probe}


def name_request(scope: _Scope, request_id: str) -> None:
    """Tell the span of a request, if there is one, by which id log lines and the answer know it."""
    if scope.get(_TRACED) is not None:
        get_current_span().set_attribute("bernoulli.request_id", request_id)


def name_route(scope: _Scope, path: str) -> None:
    """Name the span of a request that is answered ahead of the routes as its route would."""
    if scope.get(_TRACED) is not None:
        span = get_current_span()
        span.update_name(f"{scope['method']} {path}")
        span.set_attribute("http.route", path)


def _is_probe(scope: _Scope) -> bool:
    return str(scope["path"]).startswith(_PROBES)
