"""Training requests: checked as a whole, then queued, or told as a plan."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
import torch
from starlette.requests import Request
from starlette.types import Message

from service.routes.queueing import pause_s, wait_for_change, wait_for_end
from service.store.jobs import Status
from tests.service.conftest import Api, Serve, assert_problem


def test_a_job_is_queued_as_it_was_asked_for(api: Api) -> None:
    dataset = api.upload()
    body = {
        "dataset": dataset,
        "network": {"layers": [None, [5, "tanh"], None]},
        "dropout": {"hid1:out": 0.1},
        "epochs": 7,
        "name": "seven",
        "tags": {"of": "tests"},
    }
    answer = api.post("/train", json=body)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["terminal"]) == ("train", "queued", False)
    assert (job["name"], job["tags"]) == ("seven", {"of": "tests"})
    assert (job["attempts"], job["model"], job["result"], job["error"]) == (0, None, None, None)
    assert job["metrics"] == {"train": {}, "valid": {}}
    spec = job["spec"]
    assert (spec["dataset"], spec["epochs"], spec["dropout"]) == (dataset, 7, {"hid1:out": 0.1})
    assert spec["network"]["layers"][1]["activation"] == "tanh"
    assert spec["checkpoint_every"]["seconds"] == 30
    assert api.get(answer.headers["location"]).json() == job


@pytest.mark.parametrize("given", [None, {}, {"seconds": None, "epochs": None}])
def test_a_job_shows_how_often_it_is_kept_though_nothing_was_said(api: Api, given: Any) -> None:
    job = api.train(api.upload(), checkpoint_every=given)
    assert job["spec"]["checkpoint_every"] == {"seconds": 30.0, "epochs": None}


def test_a_job_kept_by_epochs_is_not_kept_by_seconds(api: Api) -> None:
    job = api.train(api.upload(), checkpoint_every={"epochs": 2})
    assert job["spec"]["checkpoint_every"] == {"seconds": None, "epochs": 2}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/train?validate_only=true&validate_only=false"),
        ("POST", "/datasets?name=a&name=b"),
        ("GET", "/jobs?status=queued&limit=1&status=running"),
        ("GET", "/models?limit=1&limit=1"),
    ],
)
def test_a_query_parameter_that_comes_twice_is_refused(api: Api, method: str, path: str) -> None:
    name = path.rsplit("&", 1)[1].partition("=")[0]
    problem = assert_problem(api.request(method, path), 422, f"#/query/{name}")
    assert "2 times; give it once" in problem["detail"]


def test_the_plan_is_told_and_nothing_queued(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}, "hidden_dropout": 0.2}
    answer = api.post("/train", params={"validate_only": True}, json=body)
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["parameter_count"] == 3 + 3 + 3 + 1
    assert plan["regularizers"][0]["matched"] == ["hid1:out"]
    assert set(plan["outputs"]) >= {"in:out", "hid1:pre", "hid1:out", "out:out"}
    assert api.get("/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"dropout": {"hid9:out": 0.1}}, "#/dropout/hid9:out", "in:out, hid1:pre, hid1:out"),
        ({"targets": ["z"]}, "#/targets/0", "y"),
        ({"rows": [0, 4]}, "#/rows/1", "0 to 3"),
        ({"validation": {"rows": [9]}}, "#/validation/rows/0", "0 to 3"),
        ({"network": {"layers": [7, 3, None]}}, "#/network/layers/0/size", "7"),
        (
            {"network": {"layers": [None, 3, None], "loss": "mae"}, "optimizer": "esgd"},
            "#/optimizer/form",
            "second derivatives",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("validate_only", [True, False])
def test_what_the_data_cannot_meet_is_refused_before_it_is_queued(
    api: Api, validate_only: bool, change: dict[str, Any], pointer: str, words: str
) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}, **change}
    answer = api.post("/train", params={"validate_only": validate_only}, json=body)
    assert words in assert_problem(answer, 422, pointer)["detail"]
    assert api.get("/jobs").json()["data"] == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}, "device": "cuda"}
    assert "`cpu`" in assert_problem(api.post("/train", json=body), 422, "#/device")["detail"]


def test_a_validation_data_set_is_another_one_that_exists(api: Api) -> None:
    dataset = api.upload()
    body: dict[str, Any] = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
    for other, status in (("ds_none", 404), (dataset, 422)):
        body["validation"] = {"dataset": other}
        assert_problem(api.post("/train", json=body), status, "#/validation/dataset")
    body["validation"] = {"dataset": api.upload(b"x,y\n5,10\n6,12\n")}
    assert api.post("/train", json=body).status_code == 202


def test_a_full_queue_says_when_to_come_again(serve: Serve) -> None:
    api = serve(max_queued_jobs=2)
    dataset = api.upload()
    for _ in range(2):
        api.train(dataset)
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
    answer = api.post("/train", json=body)
    assert_problem(answer, 503)
    assert int(answer.headers["retry-after"]) > 0


def test_wait_holds_the_answer_until_the_job_ends(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    jobs = api.state["jobs"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.post, "/train", json=body, headers={"Prefer": "wait=30"})
        while (job := jobs.claim("w")) is None:
            assert not waiting.done()
        jobs.finish(job, Status.SUCCEEDED)
        answer = waiting.result()
    assert (answer.status_code, answer.json()["status"]) == (202, "succeeded")
    assert answer.headers["preference-applied"] == "wait=30"
    assert answer.headers["location"] == f"/jobs/{job.id}"


@pytest.mark.parametrize("prefer", ["wait=0", "respond-async, wait=0", 'wait="0"', "WAIT = 0"])
def test_a_wait_that_is_up_answers_what_there_is(api: Api, prefer: str) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    answer = api.post("/train", json=body, headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=0"


def test_other_preferences_are_not_said_to_be_applied(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    for prefer in ("respond-async", "await=0", "return=minimal", "wait=x"):
        answer = api.post("/train", json=body, headers={"Prefer": prefer})
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers


def test_a_stop_of_the_server_ends_the_wait(api: Api) -> None:
    job = api.train(api.upload())
    with ThreadPoolExecutor(1) as pool:
        path = f"/jobs/{job['id']}"
        waiting = pool.submit(api.get, path, headers={"Prefer": "wait=60"})
        api.state["shutdown"].begin()
        answer = waiting.result(timeout=20)
    assert answer.json()["status"] == "queued"


def test_a_wait_ends_with_its_caller(api: Api) -> None:
    """Callers who hang up and ask again shall not add up to work that nobody reads."""
    job = api.train(api.upload())

    async def hang_up() -> Message:
        return {"type": "http.disconnect"}

    async def wait() -> Status:
        request = Request({"type": "http", "state": dict(api.state)}, hang_up)
        with anyio.fail_after(20):
            return (await wait_for_end(request, api.state["jobs"], job["id"], 60.0)).status

    assert anyio.run(wait) is Status.QUEUED


def test_who_waits_for_a_change_hears_of_any_and_of_none_when_the_time_is_up(api: Api) -> None:
    jobs, shutdown = api.state["jobs"], api.state["shutdown"]

    async def wait(version: int | None, seconds: float) -> bool:
        now = time.monotonic()
        with anyio.fail_after(20):
            return await wait_for_change(jobs, shutdown, version, news_at=now, until=now + seconds)

    before = jobs.version()
    assert before is not None
    assert not anyio.run(wait, before, 0.1)
    assert jobs.version() == before
    api.train(api.upload())
    assert jobs.version() != before
    assert not anyio.run(wait, before, 60.0)
    shutdown.begin()
    assert anyio.run(wait, jobs.version(), 60.0)


def test_who_waits_long_asks_seldom_and_hears_of_it_little_later() -> None:
    quiet = [step / 10 for step in range(600)]
    pauses = [pause_s(seconds) for seconds in quiet]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.025, 0.5)
    assert all(p <= max(0.025, s / 20) for p, s in zip(pauses, quiet, strict=True))


def test_who_follows_steady_news_asks_at_their_pace_but_not_much_later_than_they_come() -> None:
    assert pause_s(0.0, 0.01) == 0.025
    assert pause_s(0.0, 0.12) == 0.06
    assert pause_s(0.0, 0.25) == pause_s(0.0, 60.0) == 0.1
    assert pause_s(60.0, 0.25) == 0.5
