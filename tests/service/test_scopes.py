"""Scopes: each route asks for what it should, and a key that lacks it is told so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.auth import is_open
from service.scopes import Caller, needed_scopes
from service.store.keys import ALL_SCOPES, Scope
from tests.service.conftest import Api, Serve, assert_problem

PREDICTING = {"/predict", "/predictions", "/rank", "/evaluate", "/evaluations"}
BOTH = {("post", "/jobs/{job_id}/cancel"), ("post", "/models/{model_id}/feedback")}
TOLD_TO_ALL = {"/metrics", "/capabilities"}


def with_key(api: Api, *scopes: Scope, **options: Any) -> dict[str, str]:
    _, secret = api.state["keys"].create("tests", scopes=scopes, **options)
    return {"Authorization": f"Bearer {secret}"}


def test_every_route_asks_for_a_scope(shared: Api) -> None:
    paths = shared.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            if is_open(path):
                assert operation["security"] == []
                continue
            needed = set(needed_scopes(method.upper(), path))
            told = {one for entry in operation["security"] for one in entry.get("key", ())}
            assert told == needed
            if path in PREDICTING:
                assert needed == {"predict"}
            elif path in TOLD_TO_ALL:
                assert needed == set(ALL_SCOPES)
            elif path == "/audit":  # it tells of what belongs to every key
                assert needed == {"admin"}
            elif method == "get" or (method, path) in BOTH:
                assert needed == {"predict", "train"}
            else:
                assert needed == {"train"}, (method, path)


@pytest.mark.parametrize("path", ["/nothing", "/predict_", "/", "", "/v3/models", "/Predict"])
def test_a_route_that_nobody_has_listed_needs_admin(path: str) -> None:
    assert needed_scopes("GET", path) == ("admin",)


@pytest.mark.parametrize(
    ("scopes", "method", "path", "status"),
    [
        (("predict",), "POST", "/train", 403),
        (("predict",), "POST", "/datasets", 403),
        (("predict",), "DELETE", "/models/mdl_1", 403),
        (("predict",), "PUT", "/aliases/best", 403),
        (("predict",), "POST", "/jobs/job_1/resume", 403),
        (("predict",), "POST", "/jobs/job_1/cancel", 404),
        (("predict",), "GET", "/models", 200),
        (("predict",), "HEAD", "/models", 200),
        (("predict",), "GET", "/jobs", 200),
        (("predict",), "GET", "/metrics", 200),
        (("predict",), "POST", "/predict", 422),
        (("train",), "POST", "/predict", 403),
        (("train",), "POST", "/predictions", 403),
        (("train",), "POST", "/evaluate", 403),
        (("train",), "POST", "/rank", 403),
        (("train",), "GET", "/models", 200),
        (("train",), "POST", "/train", 422),
        (("train",), "GET", "/nothing", 403),
        (("predict", "train"), "GET", "/nothing", 403),
        (("admin",), "GET", "/nothing", 404),
        (("admin",), "POST", "/train", 422),
        (("admin",), "POST", "/predict", 422),
    ],
)
def test_a_key_does_what_its_scopes_allow_and_no_more(
    api: Api, scopes: tuple[Scope, ...], method: str, path: str, status: int
) -> None:
    headers = with_key(api, *scopes)
    if method == "POST":
        headers["Content-Type"] = "application/json"
    content = b"{}" if method == "POST" else None
    answer = api.request(method, path, headers=headers, content=content)
    assert answer.status_code == status, answer.text
    if status == 403:
        problem = assert_problem(answer, 403)
        assert problem["type"] == "urn:bernoulli:problem:forbidden"
        for needed in needed_scopes(method, path):
            assert f"`{needed}`" in problem["detail"]


def test_what_lacks_its_scope_is_refused_before_the_body_is_read(api: Api) -> None:
    assert_problem(api.post("/train", content=b"{", headers=with_key(api, "predict")), 403)


def test_configured_keys_may_do_everything(serve: Serve) -> None:
    api = serve(keys="first")
    headers = {"Authorization": "Bearer first"}
    assert api.get("/nothing", headers=headers).status_code == 404
    assert_problem(api.post("/train", json={}, headers=headers), 422)
    assert_problem(api.post("/predict", json={}, headers=headers), 422)


def test_admin_stands_for_every_scope() -> None:
    for scope in ALL_SCOPES:
        assert Caller("key_1", ("admin",)).may((scope,))
        assert Caller("key_1", (scope,)).may((scope,))
    assert not Caller("key_1", ("predict", "train")).may(("admin",))


def test_an_expired_key_opens_nothing_to_anybody(api: Api) -> None:
    keys = api.state["keys"]
    soon = datetime.now(UTC) + timedelta(days=1)
    headers = with_key(api, "predict", expires_at=soon)
    assert api.get("/models", headers=headers).status_code == 200
    keys._clock = lambda: soon
    assert_problem(api.get("/models", headers=headers), 401)
    assert_problem(api.get("/models"), 401)
