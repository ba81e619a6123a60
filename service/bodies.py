"""Bodies: read strictly, within limits, before anything else looks at them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import MultipartParseError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.errors import Invalid, Malformed, TooLarge, UnsupportedMedia
from service.json_pieces import read_pieces

__all__ = [
    "MAX_DEPTH",
    "StrictRoute",
    "declared_length",
    "limited_stream",
    "media_type_of",
    "parse_json",
    "read_as",
    "read_form",
    "validated",
]

Model = TypeVar("Model", bound=BaseModel)


MAX_DEPTH = 254
"""Levels of lists and objects within each other; orjson writes no more."""
_LONG = 2**18
"""Bytes of a body that take some milliseconds to read."""


def parse_json(content: bytes) -> Any:
    """Read JSON that is just JSON: no NaN, no infinity, no broken text, no endless depth.

    Raises json.JSONDecodeError.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, "", 0) from error
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH:
        _require_shallow(value)
    return value


class _StrictRequest(Request):
    """A request whose JSON is just JSON: no NaN, no infinity, no broken text, no endless depth."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            limit = self.state.settings.max_body_bytes
            _require_length(self, limit)
            chunks: list[bytes] = []
            size, more = 0, True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise _too_large(limit)
                more = message.get("more_body", False)
            self._body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        return parse_json(await self.body())


class StrictRoute(APIRoute):
    """A route that refuses unknown or repeated parameters, other media types and sloppy JSON."""

    others: Sequence[str] = ()
    """Media types that are read besides JSON."""

    def answers(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request once it has been looked at."""
        return super().get_route_handler()

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = self.answers()
        known = {
            parameter.alias
            for dependant in _with_dependencies(self.dependant)
            for parameter in dependant.query_params
        }
        reads_json = self.body_field is not None

        async def strictly(request: Request) -> Response:
            if request.scope["query_string"]:
                _require_known(request, known)
                _require_single(request)
            _require_plain(request)
            request = _StrictRequest(request.scope, request.receive)
            if reads_json and await request.body():
                _require_media_type(request, self.others)
            return await handle(request)

        return strictly


def read_as(kind: type[Model], content: bytes) -> tuple[Model, dict[str, Any]]:
    """Return a JSON body as a model, and as it was; raises RequestValidationError.

    A body whose `inputs` are a long list is read so that others can go on meanwhile.
    """
    if not content:
        missing = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}
        raise RequestValidationError([missing])
    try:
        value = None
        if len(content) > _LONG:
            value = read_pieces(content, "inputs", parse_json)
        if value is None:
            value = parse_json(content)
    except json.JSONDecodeError as error:
        broken = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([broken | {"ctx": {"error": error.msg}}]) from error
    return validated(kind, value), value


def validated(kind: type[Model], value: Any) -> Model:
    """Return parsed JSON as a model; raises RequestValidationError."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError(
            [{**item, "loc": ("body", *item["loc"])} for item in found], body=value
        ) from error


def _require_shallow(value: Any) -> None:
    """Refuse what nests so deeply that code which follows it down would run out of stack."""
    try:
        orjson.dumps(value)  # gives up at this very depth, and costs no more than the reading did
    except orjson.JSONEncodeError as error:
        message = f"more than {MAX_DEPTH} lists and objects within each other"
        raise json.JSONDecodeError(message, "", 0) from error


def _with_dependencies(dependant: Any) -> list[Any]:
    found = [dependant]
    for dependency in dependant.dependencies:
        found += _with_dependencies(dependency)
    return found


def _require_known(request: Request, known: Collection[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        there = f"there are {', '.join(sorted(known))}" if known else "none is taken"
        raise RequestValidationError(
            [
                {
                    "type": "unknown_parameter",
                    "loc": ("query", name),
                    "msg": f"unknown query parameter; {there}",
                }
                for name in unknown
            ]
        )


def _require_single(request: Request) -> None:
    """Refuse a query parameter that comes twice: none here is a list, and one would be ignored."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    repeated = [name for name, count in given.items() if count > 1]
    if repeated:
        raise RequestValidationError(
            [
                {
                    "type": "repeated_parameter",
                    "loc": ("query", name),
                    "msg": f"the query parameter is given {given[name]} times; give it once",
                }
                for name in repeated
            ]
        )


def _require_plain(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMedia(f"the body's Content-Encoding is {encoding!r}; send it as it is")


def media_type_of(request: Request) -> str:
    """Return the media type of a request's body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require_media_type(request: Request, others: Sequence[str]) -> None:
    media_type = media_type_of(request)
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    if not is_json and media_type not in others:
        taken = "` or `".join(("application/json", *others))
        raise UnsupportedMedia(
            f"the body's Content-Type is {media_type or 'missing'!r}; send `{taken}`"
        )


async def limited_stream(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body's pieces; raises TooLarge as soon as it is certain to be too large."""
    _require_length(request, max_bytes)
    count = 0
    async for chunk in Request.stream(request):
        count += len(chunk)
        if count > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def declared_length(request: Request) -> int:
    """Return the bytes that a body is said to have; 0 where that is left out."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


def _require_length(request: Request, max_bytes: int) -> None:
    if declared_length(request) > max_bytes:
        raise _too_large(max_bytes)


async def read_form(request: Request, max_bytes: int, *names: str) -> FormData:
    """Read a multipart body that has each named part once and nothing else; close the form.

    Raises TooLarge, Malformed where it is no multipart body, and Invalid for other parts.
    """
    limited = _with_limit(request, max_bytes)
    try:
        form = await limited.form(max_files=8, max_fields=8, max_part_size=2**20)
    except (HTTPException, MultipartParseError) as error:
        raise Malformed(
            "the multipart body cannot be read, has more than 8 parts, or one over 1 MiB without "
            "a file name"
        ) from error
    try:
        _require_parts([name for name, _ in form.multi_items()], names)
    except Invalid:
        await form.close()
        raise
    return form


def _require_parts(given: Sequence[str], names: Sequence[str]) -> None:
    for name in given:
        if name not in names:
            raise Invalid(
                f"unknown part `{name[:80]}`; the form takes `{'` and `'.join(names)}`",
                pointer=f"#/{name[:80].replace('~', '~0').replace('/', '~1')}",
            )
    for name in names:
        if given.count(name) != 1:
            raise Invalid(
                f"the form has the part `{name}` {given.count(name)} times; send it once",
                pointer=f"#/{name}",
            )


def _with_limit(request: Request, max_bytes: int) -> Request:
    """Return the request with a limit on its body, for parsers that read it themselves."""
    count = 0

    async def receive() -> Message:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > max_bytes:
            raise _too_large(max_bytes)
        return message

    return Request(request.scope, receive)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is larger than {max_bytes} bytes, the most that is taken here")
