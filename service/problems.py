"""Problems: the one table from errors to statuses, and the one body of every error answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from engine.errors import EngineError
from service import errors
from service.pointers import located

__all__ = ["MEDIA_TYPE", "Problem", "install", "problem_response", "problems"]

logger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_TABLE: Mapping[type[Exception], tuple[int, str, str]] = {
    errors.Malformed: (400, "malformed", "The request cannot be read"),
    errors.Unauthorized: (401, "unauthorized", "A key is needed"),
    errors.Forbidden: (403, "forbidden", "The key does not allow this"),
    errors.NotFound: (404, "not-found", "There is no such thing"),
    errors.NotAcceptable: (406, "not-acceptable", "No such format can be sent"),
    errors.IdempotencyInFlight: (409, "idempotency-in-flight", "The first request is still going"),
    errors.Conflict: (409, "conflict", "The present state forbids this"),
    errors.PreconditionFailed: (412, "precondition-failed", "It has changed meanwhile"),
    errors.TooLarge: (413, "too-large", "Larger than the limit"),
    errors.UnsupportedMedia: (415, "unsupported-media-type", "This content type is not read"),
    errors.IdempotencyMismatch: (422, "idempotency-mismatch", "The key had other content"),
    errors.Invalid: (422, "invalid", "The request cannot be met as it is"),
    errors.QuotaExceeded: (429, "quota-exceeded", "This key has too much waiting"),
    errors.QueueFull: (503, "queue-full", "The server has too much waiting"),
    errors.Unavailable: (503, "unavailable", "Not possible just now"),
    errors.Corrupt: (503, "corrupt", "Stored content is damaged"),
    errors.StorageFull: (507, "storage-full", "No room is left"),
    errors.LeaseLost: (409, "conflict", "The present state forbids this"),
    EngineError: (422, "invalid", "The request cannot be met as it is"),
}  # fmt: skip


class ProblemError(BaseModel):
    """One thing that is wrong with the input."""

    pointer: str = Field(examples=["#/network/layers/1/size"])
    """Where: a JSON pointer into the body, or `#/query/…`, `#/path/…`, `#/header/…`."""
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["urn:bernoulli:problem:invalid"])
    title: str
    status: int
    detail: str
    instance: str = Field(examples=["urn:bernoulli:request:4f1c0d6f9b7e4f0c"])
    errors: list[ProblemError] | None = None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers of a route, for FastAPI's `responses`."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def problem_response(
    request_id: str,
    status: int,
    slug: str,
    title: str,
    detail: str,
    *,
    found: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer that says what is wrong."""
    body: dict[str, Any] = {
        "type": f"urn:bernoulli:problem:{slug}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": f"urn:bernoulli:request:{request_id}",
    }
    if found:
        body["errors"] = list(found)
    return Response(orjson.dumps(body), status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def _request_id(request: Request) -> str:
    return str(request.scope.get("bernoulli.request_id", "unknown"))


def _ours(request: Request, error: Exception) -> Response:
    """Answer one of our own errors by its nearest listed ancestor."""
    assert isinstance(error, errors.ServiceError | EngineError)
    status, slug, title = next(_TABLE[cls] for cls in type(error).__mro__ if cls in _TABLE)
    headers: dict[str, str] = {}
    if isinstance(error, errors.QueueFull | errors.Unavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    found = [{"pointer": error.pointer, "detail": error.detail}] if status in (413, 422) else []
    return problem_response(
        _request_id(request), status, slug, title, error.detail, found=found, headers=headers
    )


def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {
        404: f"there is nothing at {request.url.path[:200]!r}; see /docs",
        405: f"{request.method} is not possible here; see /docs",
    }
    phrase = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    detail = details.get(error.status_code, str(error.detail))
    slug = phrase.lower().replace(" ", "-")
    return problem_response(
        _request_id(request), error.status_code, slug, phrase, detail, headers=headers
    )


def _methods(request: Request) -> list[str]:
    """Return the methods that some route takes at the request's path."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


def _of_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = list(error.errors())
    if any(item["type"] == "json_invalid" for item in found):
        reason = found[0].get("ctx", {}).get("error", "")
        detail = f"the body is not valid JSON: {reason}".rstrip(": ")
        return problem_response(
            _request_id(request), 400, "malformed", "The request cannot be read", detail
        )
    listed = located(found, error.body)
    detail = "; ".join(f"{item['pointer']}: {item['detail']}" for item in listed[:5])
    return problem_response(
        _request_id(request),
        422,
        "invalid",
        "The request cannot be met as it is",
        detail,
        found=listed,
    )


def _unexpected(request: Request, error: Exception) -> Response:
    logger.error("unexpected error", path=request.url.path, exc_info=error)
    return problem_response(
        _request_id(request),
        500,
        "internal",
        "An internal error",
        "something went wrong inside; it has been logged under this request's id",
    )


def install(app: FastAPI) -> None:
    """Have every error of `app` answered as a problem."""
    app.add_exception_handler(errors.ServiceError, _ours)
    app.add_exception_handler(EngineError, _ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _unexpected)
