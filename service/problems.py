"""Problems: the one table from errors to statuses, and the one body of every error answer."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path

from engine.errors import EngineError
from service import errors
from service.pointers import located
from service.store.room import is_full

__all__ = ["MEDIA_TYPE", "Problem", "install", "problem_response", "problems"]

logger = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

_TABLE: Mapping[type[Exception], tuple[int, str, str]] = {
    errors.Malformed: (400, "malformed", "The request cannot be read"),
    errors.Unauthorized: (401, "unauthorized", "A key is needed"),
    errors.Forbidden: (403, "forbidden", "The key does not allow this"),
    errors.NotFound: (404, "not-found", "There is no such thing"),
    errors.NotAcceptable: (406, "not-acceptable", "No such format can be sent"),
    errors.TooSlow: (408, "too-slow", "The request came too slowly"),
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
    if isinstance(error, errors.QueueFull | errors.Unavailable | errors.Corrupt):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, errors.TooSlow):
        headers["Connection"] = "close"  # there is no telling where the next request would begin
    if isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    has_place = status in (413, 422) or error.pointer != "#"
    found = [{"pointer": error.pointer, "detail": error.detail}] if has_place else []
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
        headers["Allow"] = ", ".join(_methods(request, headers.get("Allow", "GET")))
    detail = details.get(error.status_code, str(error.detail))
    slug = phrase.lower().replace(" ", "-")
    return problem_response(
        _request_id(request), error.status_code, slug, phrase, detail, headers=headers
    )


def _methods(request: Request, of_route: str) -> list[str]:
    """Return the methods of every operation at the request's path.

    The framework says those `of_route`, of one route among several; pages have no others.
    """
    documented = {
        method.upper()
        for template, operations in request.app.openapi()["paths"].items()
        if compile_path(template)[0].match(request.scope["path"])
        for method in operations
    }
    return sorted(documented or of_route.split(", "))


_POINTER = 200
"""Characters of a pointer that are repeated in the sentence for people."""


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
    # A pointer is as long as the names that were sent; to read it, its beginning is enough.
    detail = "; ".join(f"{item['pointer']:.{_POINTER}}: {item['detail']}" for item in listed[:5])
    return problem_response(
        _request_id(request),
        422,
        "invalid",
        "The request cannot be met as it is",
        detail,
        found=listed,
    )


_NOT_NOW = {
    errno.EMFILE: "the server has too many files open",
    errno.ENFILE: "the server's machine has too many files open",
    errno.EROFS: "the server's folder cannot be written: it is read-only",
    errno.EACCES: "the server's folder cannot be written: it is not accessible",
    errno.EPERM: "the server's folder cannot be written: it is not accessible",
    errno.EIO: "the server's disk fails to read or write",
}


def _of_system(request: Request, error: Exception) -> Response:
    """Answer what the machine refuses: its trouble, not the caller's, and perhaps over soon."""
    assert isinstance(error, OSError)
    if is_full(error):
        return _ours(
            request,
            errors.StorageFull(
                "the server's disk is full; nothing was stored. Have room made on"
                " it, and send this again"
            ),
        )
    if error.errno in _NOT_NOW:
        # Without the traceback, whose source files might not be opened either.
        logger.error("the machine refuses", path=request.url.path, reason=error.strerror)
        detail = f"{_NOT_NOW[error.errno]}; nothing was changed"
        return _ours(request, errors.Unavailable(detail, retry_after_s=10))
    return _unexpected(request, error)


def _of_disconnect(request: Request, _error: Exception) -> Response:
    """Nobody reads this answer; it only keeps a broken connection out of the error log."""
    detail = "the connection was closed before the whole body had come"
    return _ours(request, errors.Malformed(detail))


def _unexpected(request: Request, error: Exception) -> Response:
    request_id = _request_id(request)
    route = getattr(request.scope.get("route"), "path", "none")
    logger.error("unexpected error", route=route, request=request_id, exc_info=error)
    return problem_response(
        request_id,
        500,
        "internal",
        "An internal error",
        "something went wrong inside; it has been logged under this request's id",
        # This answer is made outside of the middleware that gives all others these.
        headers={"X-Request-Id": request_id, "X-Content-Type-Options": "nosniff"},
    )


def problem_of(request: Request, error: Exception) -> Response:
    """Return the answer to an error that came after another answer had begun."""
    if isinstance(error, errors.ServiceError | EngineError):
        return _ours(request, error)
    if isinstance(error, OSError):
        return _of_system(request, error)
    return _unexpected(request, error)


def install(app: FastAPI) -> None:
    """Have every error of `app` answered as a problem."""
    app.add_exception_handler(errors.ServiceError, _ours)
    app.add_exception_handler(EngineError, _ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(ClientDisconnect, _of_disconnect)
    app.add_exception_handler(OSError, _of_system)
    app.add_exception_handler(Exception, _unexpected)
