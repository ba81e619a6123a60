"""Schedules of the learning rate, as they are asked for and told over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.conftest import Api, assert_problem


def request_of(dataset: str, optimizer: dict[str, Any]) -> dict[str, Any]:
    network = {"layers": [None, 3, None]}
    return {"dataset": dataset, "network": network, "optimizer": optimizer, "epochs": 3}


def test_epochs_tell_the_rate_of_their_schedule(api: Api) -> None:
    schedule = {"form": "exponential", "gamma": 0.5}
    optimizer = {"form": "adam", "learning_rate": 0.5, "schedule": schedule}
    job = api.post("/train", json=request_of(api.upload(), optimizer)).json()
    assert job["spec"]["optimizer"]["schedule"]["gamma"] == 0.5
    api.work()
    events = api.get(f"/jobs/{job['id']}/events").json()["data"]
    epochs = [event["data"]["train"] for event in events if event["type"] == "epoch"]
    assert [epoch["learning_rate"] for epoch in epochs] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("optimizer", "pointer"),
    [
        ({"form": "rprop", "schedule": {"form": "step", "step_size": 1}}, "#/optimizer/schedule"),
        ({"form": "adam", "schedule": {"form": "cosin"}}, "#/optimizer/schedule/form"),
        ({"form": "adam", "schedule": "cosine"}, "#/optimizer/schedule"),
        ({"form": "adam", "schedule": {"form": "step"}}, "#/optimizer/schedule/step_size"),
        ({"form": "adam", "schedule": {"form": "plateau"}}, "#/optimizer/schedule/form"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(
    optimizer: dict[str, Any], pointer: str, api: Api
) -> None:
    answer = api.post("/train", json=request_of(api.upload(), optimizer) | {"validation": None})
    assert [error["pointer"] for error in assert_problem(answer, 422)["errors"]] == [pointer]


def test_a_search_varies_schedules_and_a_refit_keeps_to_the_span(api: Api) -> None:
    body = request_of(api.upload(), {"form": "adam"}) | {"validation": 0.5}
    schedules = [None, {"form": "cosine"}, {"form": "step", "step_size": 1}]
    body["search"] = {"grid": {"optimizer.schedule": schedules}, "refit": True}
    answer = api.post("/train", json=body)
    assert answer.status_code == 202, answer.text
    api.work()
    job = api.get(f"/jobs/{answer.json()['id']}").json()
    assert job["status"] == "succeeded", job["error"]
    assert len(api.get(f"/jobs/{job['id']}/variants").json()["data"]) == 3
    body["search"]["grid"]["optimizer.schedule"] = [{"form": "plateau"}]
    problem = assert_problem(api.post("/train", json=body), 422)
    assert "refit" in problem["detail"]
