"""Precisions: listed by device, refused where the device has no units for them, told by the job."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.mixed_precision import precisions_of
from tests.service.conftest import Api, assert_problem

CPU = precisions_of(torch.device("cpu"))
BODY: dict[str, Any] = {"network": {"layers": [None, 3, None]}, "device": "cpu", "epochs": 2}


def test_capabilities_list_the_precisions_of_each_device(api: Api) -> None:
    found = api.get("/capabilities").json()
    assert found["precisions"]["cpu"] == list(CPU)
    assert found["precisions"].keys() == set(found["devices"])


@pytest.mark.parametrize("precision", [p for p in ("bfloat16", "float16") if p not in CPU])
@pytest.mark.parametrize("validate_only", [True, False])
def test_what_the_device_has_no_units_for_is_refused(
    precision: str, validate_only: bool, api: Api
) -> None:
    body = BODY | {"dataset": api.upload(), "precision": precision}
    params = {"validate_only": validate_only}
    problem = assert_problem(api.post("/train", json=body, params=params), 422)
    (error,) = problem["errors"]
    assert error["pointer"] == "#/precision"
    assert f"it takes: {', '.join(CPU)}" in error["detail"]
    searched = BODY | {"dataset": body["dataset"], "search": {"grid": {"precision": [precision]}}}
    problem = assert_problem(api.post("/train", json=searched), 422)
    assert problem["errors"][0]["pointer"] == "#/search/grid/precision/0"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_job_says_what_it_was_trained_in(
    precision: str, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.routes.training.precisions_of", lambda _: ("float32", precision))
    job = api.train(api.upload(), **BODY, precision=precision)
    api.work()
    job = api.get(f"/jobs/{job['id']}").json()
    assert job["status"] == "succeeded", job["error"]
    events = api.get(f"/jobs/{job['id']}/events").json()["data"]
    said = next(event["data"]["message"] for event in events if event["type"] == "log")
    assert f"it is trained in {precision}" in said
    assert api.get(f"/models/{job['model']}").json()["spec"]["precision"] == precision
    answer = api.post("/predict", json={"model": job["model"], "inputs": [[1.0]]})
    assert answer.status_code == 200


def test_second_derivatives_need_all_bits(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.routes.training.precisions_of", lambda _: ("float32", "bfloat16"))
    body = BODY | {"dataset": api.upload(), "precision": "bfloat16", "optimizer": "esgd"}
    problem = assert_problem(api.post("/train", json=body), 422)
    assert problem["errors"][0]["pointer"] == "#/precision"
