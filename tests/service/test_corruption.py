"""Bytes that rot on the disk: whatever was stored is served as it was, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.service.conftest import Api, Serve, assert_problem

SPEC: dict[str, Any] = {"epochs": 1, "hidden_dropout": 0.1}


def rot(api: Api, folder: str, suffix: str = "") -> None:
    """Flip the lowest bit in the middle of every blob of a folder."""
    files = [
        path for path in (api.state["blobs"].root / folder).rglob(f"*{suffix}") if path.is_file()
    ]
    assert files
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def refused(api: Api, method: str, path: str, **options: Any) -> str:
    """Check that a request is refused for damage; return what it is told."""
    answer = api.request(method, path, **options)
    problem = assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
    assert problem["type"] == "urn:bernoulli:problem:corrupt"
    return str(problem["detail"])


@pytest.fixture
def world(api: Api) -> tuple[Api, str, str]:
    """An app with a data set, and a model that was trained on it."""
    dataset = api.upload()
    job = api.train(dataset, **SPEC)
    api.work()
    return api, dataset, api.get(f"/jobs/{job['id']}").json()["model"]


def test_a_damaged_data_set_is_never_served(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    rot(api, "datasets")
    inputs = {"dataset": dataset}
    plan = {"dataset": dataset, "network": {"layers": [None, 2, None]}}
    for told in (
        refused(api, "GET", f"/datasets/{dataset}/content"),
        refused(api, "GET", f"/datasets/{dataset}/preview"),
        refused(api, "POST", "/predict", json={"model": model, "inputs": inputs}),
        refused(api, "POST", "/predictions", json={"model": model, "inputs": inputs}),
        refused(api, "POST", "/evaluate", json={"model": model, "dataset": dataset}),
        refused(api, "POST", "/rank", json={"model": model, "dataset": dataset, "by": "std"}),
        refused(api, "POST", "/train", json=plan),
    ):
        assert "damaged" in told
        assert "backup" in told
    assert api.get(f"/datasets/{dataset}").status_code == 200  # what is known of it
    assert api.post("/predict", json={"model": model, "inputs": [[1]]}).status_code == 200


def test_damaged_weights_are_never_served(world: tuple[Api, str, str]) -> None:
    api, dataset, model = world
    rot(api, "models")
    refused(api, "GET", f"/models/{model}/weights")
    refused(api, "GET", f"/models/{model}/bundle")
    refused(api, "POST", "/predict", json={"model": model, "inputs": [[1]]})
    refused(api, "POST", "/evaluate", json={"model": model, "dataset": dataset})
    api.delete(f"/models/{model}")
    assert_problem(api.get(f"/models/{model}/weights"), 404)


def test_what_was_looked_at_is_looked_at_again_where_it_has_changed(
    world: tuple[Api, str, str],
) -> None:
    api, dataset, _ = world
    path = f"/datasets/{dataset}/content"
    assert api.get(path).status_code == 200
    rot(api, "datasets")
    refused(api, "GET", path)
    rot(api, "datasets")  # back to what it was
    assert api.get(path).status_code == 200


def test_a_model_that_is_deleted_while_it_is_read_is_gone_and_not_damaged(
    world: tuple[Api, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, dataset, model = world
    loaded = api.state["predictor"].loaded
    get = loaded.get

    def deleted_meanwhile(stored: Any) -> Any:
        assert api.state["models"].delete(model)
        rot(api, "models")
        return get(stored)

    monkeypatch.setattr(loaded, "get", deleted_meanwhile)
    body = {"model": model, "inputs": {"dataset": dataset}}
    assert_problem(api.post("/predictions", json=body), 404)


@pytest.mark.parametrize("damage", [rot, lambda api, folder: remove(api, folder)])
@pytest.mark.parametrize(("kind", "folder"), [("train", "datasets"), ("predict", "models")])
def test_a_job_whose_data_or_model_is_damaged_fails_and_says_so(
    serve: Serve, kind: str, folder: str, damage: Callable[[Api, str], None]
) -> None:
    api = serve()
    dataset = api.upload()
    job = api.train(dataset, **SPEC)
    if kind == "predict":
        api.work()
        model = api.get(f"/jobs/{job['id']}").json()["model"]
        body = {"model": model, "inputs": {"dataset": dataset}}
        job = api.post("/predictions", json=body).json()
    damage(api, folder)
    api.work()
    ended = api.get(f"/jobs/{job['id']}").json()
    assert (ended["status"], ended["error"]["kind"]) == ("failed", "infrastructure")
    assert "damaged" in ended["error"]["detail"] or "cannot be found" in ended["error"]["detail"]


def remove(api: Api, folder: str) -> None:
    for path in (api.state["blobs"].root / folder).rglob("*"):
        if path.is_file():
            path.unlink()


def test_a_damaged_state_is_not_gone_on_from(world: tuple[Api, str, str]) -> None:
    api, _, _ = world
    (job,) = api.get("/jobs").json()["data"]
    rot(api, "checkpoints")
    problem = assert_problem(api.post(f"/jobs/{job['id']}/resume", json={"epochs": 1}), 409)
    assert "no state" in problem["detail"]
