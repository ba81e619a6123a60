"""The OpenAPI document: every operation named and described, every refusal told.

That the running service keeps to it is tested by `tests/e2e/test_openapi.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.auth import is_open
from tests.service.conftest import Api


@pytest.fixture
def document(shared: Api) -> dict[str, Any]:
    body: dict[str, Any] = shared.get("/openapi.json").json()
    return body


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_the_exported_document_is_the_served_one(document: dict[str, Any]) -> None:
    exported = Path(__file__).parents[2] / "openapi" / "openapi.json"
    assert json.loads(exported.read_text()) == document


def test_every_operation_has_a_readable_name_and_says_what_it_does(
    document: dict[str, Any],
) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)*", name) for name in names)
    for _, _, operation in operations(document):
        assert operation["description"].endswith((".", "if none."))
        assert operation["tags"]


def test_every_refusal_is_a_problem(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        refusals = {s: a for s, a in operation["responses"].items() if int(s) >= 400}
        for status, answer in refusals.items():
            (media_type,) = answer["content"]
            assert media_type == "application/problem+json", (path, method, status)
            schema = answer["content"][media_type]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}
        assert "422" in refusals
        assert ("401" in refusals) != is_open(path)
        if method != "get" and path not in (
            "/predict",
            "/evaluate",
            "/rank",
        ):  # it changes the store
            assert {"503", "507"} <= set(refusals), path
        if "{" in path and path != "/aliases/{name}":
            assert "404" in refusals, path
        if "requestBody" in operation:
            assert {"400", "413", "415"} <= set(refusals), path


def test_headers_that_a_caller_acts_upon_are_told(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status in ("429", "503"):
                assert "Retry-After" in answer["headers"]
    for path in ("/datasets", "/train", "/models"):
        answers = document["paths"][path]["post"]["responses"]
        assert "Location" in answers.get("201", answers.get("202"))["headers"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert found <= set(document["components"]["schemas"])
