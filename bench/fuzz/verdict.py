"""What is wrong with an answer, whatever was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from bench.fuzz.requests import HANG_S, Answer, Request

__all__ = ["faults"]

PROBLEM = "application/problem+json"
_TYPE = re.compile(r"urn:bernoulli:problem:[a-z-]+")
_INSIDE = re.compile(
    r"Traceback|File \"|0x[0-9a-f]{8,}|site-packages|/tmp/|/dev/shm/|\bsqlalchemy\b|\bpydantic\b"
    r"|\bpyarrow\b|<class '|numpy\.|torch\."
)
"""What an error must not tell: places and names of the inside."""
_PLACES = ("query", "path", "header")
_NOWHERE = object()


def faults(request: Request, answer: Answer, *, may_be: tuple[int, ...] = ()) -> Iterator[str]:
    """Yield what is wrong with an answer; a 5xx is wrong unless it `may_be`, or is not for ever."""
    if answer.seconds > HANG_S:
        yield f"took more than {HANG_S:g} s"
    status = answer.status
    if status == 503 and "retry-after" not in answer.headers:
        yield "503 without Retry-After"
    elif status >= 500 and status not in (503, *may_be):
        yield f"a {status}"
    if status < 200:
        yield "no status"
    if "x-request-id" not in answer.headers:
        yield "no X-Request-Id"
    if status >= 400 and status != 499:
        yield from _of_problem(request, answer)
    elif status != 204 and answer.headers.get("content-type", "").startswith("application/json"):
        try:
            orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            yield f"a {status} with JSON that is none"


def _of_problem(request: Request, answer: Answer) -> Iterator[str]:
    status = answer.status
    if answer.headers.get("content-type") != PROBLEM:
        yield f"a {status} that is no problem+json"
        return
    if request.method == "HEAD":
        return
    try:
        body = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        yield f"a {status} whose problem is no JSON"
        return
    if body.get("status") != status or not _TYPE.fullmatch(str(body.get("type"))):
        yield f"a {status} whose problem has another status, or no type"
    for name in ("title", "detail", "instance"):
        if not body.get(name):
            yield f"a {status} without {name}"
    errors = body.get("errors")
    if status in (413, 422) and not errors and "idempotency" not in body["type"]:
        yield f"a {status} without errors"
    yield from _of_words(request, status, body)


def _of_words(request: Request, status: int, body: dict[str, Any]) -> Iterator[str]:
    """Look at the sentences and pointers of a problem."""
    errors = body.get("errors")
    told = [body.get("detail"), *(error.get("detail") for error in errors or ())]
    sent = request.raw().decode("utf-8", "replace")
    for text in told:
        if not text:
            yield f"a {status} with an empty detail"
        found = _INSIDE.search(str(text))
        if found is not None and found.group() not in sent:
            yield f"a {status} that tells {found.group()!r}"
        if len(str(text)) > 20_000:
            yield f"a {status} of {len(str(text))} characters"
    for error in errors or ():
        yield from _of_pointer(request, str(error.get("pointer")))


def _of_pointer(request: Request, pointer: str) -> Iterator[str]:
    """Say where a pointer does not lead to what was sent, or to where it is missing."""
    if pointer != "#" and not pointer.startswith("#/"):
        yield f"a pointer that is none: {pointer[:80]}"
        return
    kind = request.headers.get("Content-Type", "")
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    if not kind.startswith("application/json") or (parts and parts[0] in _PLACES):
        return
    try:
        value: Any = json.loads(request.body)
    except (ValueError, RecursionError):
        return
    for number, part in enumerate(parts):
        value = _step(value, part)
        if value is _NOWHERE:
            if number < len(parts) - 1:
                yield f"a pointer to nowhere: {re.sub(r'[0-9]+', 'N', pointer)[:120]}"
            return


def _step(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part, _NOWHERE)
    if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
        return value[int(part)]
    return _NOWHERE
