"""Learning rates that are found: told, kept with the model, kept when a job is resumed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.conftest import Api, assert_problem
from tests.service.test_resumption import TABLE, resumed, trained, weights

FIND = {"form": "adam", "learning_rate": "find"}


def events(api: Api, job: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    told = api.get(f"/jobs/{job['id']}/events").json()["data"]
    return [event["data"] for event in told if event["type"] == kind]


def test_a_rate_that_is_found_is_told_and_trained_with(api: Api) -> None:
    dataset = api.upload(TABLE)
    job = trained(api, dataset, epochs=3, batch_size=8, optimizer=FIND)
    assert job["status"] == "succeeded", job["error"]
    (told,) = events(api, job, "learning_rate")
    rate = told["learning_rate"]
    assert rate == min(told["steepest"], told["tenth"])
    assert 10 < len(told["curve"]) <= 100
    assert any(f"learning rate {rate:.3g}" in line["message"] for line in events(api, job, "log"))
    assert {line["train"]["learning_rate"] for line in events(api, job, "epoch")} == {rate}
    assert job["metrics"]["train"]["learning_rate"] == rate
    assert job["spec"]["optimizer"]["learning_rate"] == "find"
    model = api.get(f"/models/{job['model']}").json()
    assert model["spec"]["optimizer"]["learning_rate"] == rate
    given = {"form": "adam", "learning_rate": rate}
    same = trained(api, dataset, epochs=3, batch_size=8, optimizer=given)
    assert weights(api, same) == weights(api, job)


def test_a_resumed_job_keeps_the_rate_or_takes_another(api: Api) -> None:
    dataset = api.upload(TABLE)
    whole = trained(api, dataset, epochs=5, batch_size=8, optimizer=FIND)
    part = trained(api, dataset, epochs=2, batch_size=8, optimizer=FIND)
    rest = resumed(api, part, epochs=3)
    assert weights(api, rest) == weights(api, whole)
    assert events(api, rest, "learning_rate") == []
    other = resumed(api, part, epochs=3, learning_rate=1e-4)
    assert other["spec"]["optimizer"]["learning_rate"] == 1e-4
    assert weights(api, other) != weights(api, whole)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"training": {"form": "layerwise"}, "network": {"layers": [None, 5, 4, None]}}, "stages"),
        ({"search": {"grid": {"hidden_dropout": [0.1, 0.2]}}}, "variants"),
    ],
)
def test_where_there_are_several_networks_none_is_found(
    spec: dict[str, Any], said: str, api: Api
) -> None:
    body = {"dataset": api.upload(TABLE), "network": {"layers": [None, 5, None]}}
    answer = api.post("/train", json={**body, "optimizer": FIND, **spec})
    problem = assert_problem(answer, 422)
    assert problem["errors"][0]["pointer"] == "#/optimizer/learning_rate"
    assert said in problem["errors"][0]["detail"]


@pytest.mark.parametrize("rate", ["fnd", -1, True, None])
def test_what_is_no_rate_is_refused(rate: Any, api: Api) -> None:
    body = {"dataset": api.upload(TABLE), "network": {"layers": [None, 5, None]}}
    optimizer = {"form": "adam", "learning_rate": rate}
    answer = api.post("/train", json={**body, "optimizer": optimizer})
    problem = assert_problem(answer, 422)
    assert problem["errors"][0]["pointer"] == "#/optimizer/learning_rate"
