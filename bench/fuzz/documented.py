"""Schemathesis: requests made from the OpenAPI document, as it says and as it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urlsplit

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks

from bench.fuzz.exploration import explore
from bench.fuzz.figures import Figures
from bench.fuzz.requests import Answer, Request
from bench.fuzz.subject import Subject
from bench.fuzz.verdict import faults
from bench.fuzz.world import World

__all__ = ["Documented"]

PART = "schemathesis"
_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
_WAITING = ("prefer", "Prefer")
"""A caller that asks to wait is not kept waiting by a fault."""
_ROUND = 20
"""Cases of one operation at a time."""


class Documented:
    """All operations in turn, half of the cases about things that exist."""

    def __init__(self, subject: Subject, world: World, figures: Figures) -> None:
        self._subject = subject
        self._world = world
        self._figures = figures
        self._turns = self._strategies(subject.document())
        self._turn = 0

    def _strategies(self, document: dict[str, Any]) -> list[st.SearchStrategy[Any]]:
        schema = schemathesis.openapi.from_dict(document)
        made = []
        for operation in schema.get_all_operations():
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                cases = cast(Any, operation).ok().as_strategy(mode)
                made.append(st.tuples(cases, st.booleans()))
        return made

    def run(self, cases: int, draw: int) -> None:
        """Try about so many cases, with the operations that are next."""
        end = self._figures.cases[PART] + cases
        while self._figures.cases[PART] < end:
            strategy = self._turns[self._turn % len(self._turns)]
            self._turn += 1
            count = min(_ROUND, end - self._figures.cases[PART])
            explore(PART, count, draw + self._turn, strategy, self._check, self._figures)

    def _check(self, drawn: tuple[Any, bool]) -> tuple[Request, Answer, list[str]]:
        case, is_about_something = drawn
        if is_about_something:
            self._point(case)
        sent = case.as_transport_kwargs(base_url="http://localhost")
        for name in _WAITING:
            sent["headers"].pop(name, None)
        prepared = requests.Request(
            **{name: value for name, value in sent.items() if name not in ("timeout", "verify")}
        ).prepare()
        body = prepared.body or b""
        parts = urlsplit(prepared.url or "/")
        request = Request(
            prepared.method or "GET",
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            body.encode() if isinstance(body, str) else cast(bytes, body),
            {
                name: value if isinstance(value, str) else value.decode("latin-1")
                for name, value in prepared.headers.items()
                if name.lower() != "content-length"
            },
        )
        answer = self._subject.send(request)
        wrong = [*faults(request, answer), *_undocumented(case, prepared, answer)]
        self._keep_clean(answer)
        return request, answer, wrong

    def _point(self, case: Any) -> None:
        """Have a case name what exists, but for deletions of what others need."""
        world = self._world
        ids = {
            "dataset_id": world.datasets["table"],
            "model_id": world.models["regressor"],
            "job_id": world.jobs["regressor"],
            "name": world.alias,
        }
        named = case.path_parameters or {}
        is_final = case.method == "DELETE" and ("job_id" in named or "dataset_id" in named)
        for name in ids if not is_final else ():
            if name in named:
                case.path_parameters[name] = ids[name]
        if isinstance(case.body, dict):
            for name, known in (("dataset", "dataset_id"), ("model", "model_id")):
                if name in case.body:
                    case.body[name] = ids[known]

    def _keep_clean(self, answer: Answer) -> None:
        """Take away what was made, and put back what was named."""
        location = answer.headers.get("location", "")
        if answer.status in (201, 202) and location.startswith(
            ("/datasets/", "/jobs/", "/models/")
        ):
            if location.endswith("/feedback"):
                return
            if location.startswith("/jobs/"):
                self._subject.send(Request("POST", f"{location}/cancel"))
            self._subject.send(Request("DELETE", location))


def _undocumented(case: Any, prepared: requests.PreparedRequest, answer: Answer) -> Iterator[str]:
    """Yield in which way an answer is not one that the document tells of."""
    response = Response(
        status_code=answer.status,
        headers={name: [value] for name, value in answer.headers.items()},
        content=answer.body,
        request=prepared,
        elapsed=answer.seconds,
        verify=False,
    )
    try:
        case.validate_response(response, checks=_CHECKS)
    except FailureGroup as group:
        for error in group.exceptions:
            yield _first_line(error)
    except Failure as error:
        yield _first_line(error)


def _first_line(error: BaseException) -> str:
    title = getattr(error, "title", type(error).__name__)
    return f"not as documented: {title}: {str(error)[:200]!r}"
