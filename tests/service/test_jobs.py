"""Jobs over HTTP: read, listed, cancelled, deleted, and their regularizer log."""

from __future__ import annotations

from typing import Any

import pytest

from service.store.jobs import Checkpoint, Job, Status, job_error
from tests.service.conftest import Api, assert_problem


@pytest.fixture
def dataset(api: Api) -> str:
    return api.upload()


def claimed(api: Api, worker: str = "w") -> Job:
    job = api.state["jobs"].claim(worker)
    assert job is not None
    return job


def test_jobs_are_listed_by_status_and_kind(api: Api, dataset: str) -> None:
    ids = [api.train(dataset)["id"] for _ in range(3)]
    claimed(api)

    def listed(**query: str) -> list[str]:
        return [job["id"] for job in api.get("/jobs", params=query).json()["data"]]

    assert listed() == ids[::-1]
    assert listed(status="running") == ids[:1]
    assert listed(status="queued") == ids[:0:-1]
    assert listed(kind="train") == ids[::-1]
    assert listed(kind="predict") == []
    assert "succeeded" in assert_problem(api.get("/jobs?status=done"), 422)["detail"]


def test_a_list_of_jobs_leaves_long_lists_out_and_says_so(api: Api) -> None:
    dataset = api.upload(b"x,y\n" + b"".join(b"%d,%d\n" % (i, i * i) for i in range(60)))
    rows, valid = list(range(40)), list(range(40, 60))
    job = api.train(dataset, rows=rows, validation={"rows": [*valid, 0]}, inputs=["x"])
    short = api.train(dataset, rows=rows[:20])

    first, second = api.get("/jobs").json()["data"]

    assert first == {**short, "omitted": {}}
    assert second.pop("omitted") == {"#/spec/rows": 40, "#/spec/validation/rows": 21}
    spec = job["spec"]
    del spec["rows"]
    del spec["validation"]["rows"]
    assert second == {**job, "spec": spec}
    assert api.get(f"/jobs/{job['id']}").json()["spec"]["rows"] == rows


def test_a_running_job_shows_what_its_worker_recorded(api: Api, dataset: str) -> None:
    job_id = api.train(dataset)["id"]
    progress = {"phase": "training", "completed": 3, "total": 10, "unit": "epochs"}
    metrics = {"train": {"loss": 0.5}, "valid": {"loss": float("nan")}}
    api.state["jobs"].record(claimed(api), progress=progress, metrics=metrics)
    body = api.get(f"/jobs/{job_id}").json()
    assert (body["status"], body["attempts"], body["progress"]) == ("running", 1, progress)
    assert body["metrics"] == {"train": {"loss": 0.5}, "valid": {"loss": None}}  # no NaN in JSON
    assert body["started_at"] is not None


def test_a_failed_job_says_why(api: Api, dataset: str) -> None:
    job_id = api.train(dataset)["id"]
    error = job_error("memory", "the worker ran out of memory")
    api.state["jobs"].finish(claimed(api), Status.FAILED, error=error)
    body = api.get(f"/jobs/{job_id}").json()
    assert (body["status"], body["terminal"]) == ("failed", True)
    assert body["error"]["kind"] == "memory"
    assert body["error"]["detail"] == "the worker ran out of memory"


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_asked_to_stop(
    api: Api, dataset: str
) -> None:
    running, queued = (api.train(dataset)["id"] for _ in range(2))
    job = claimed(api)
    answer = api.post(f"/jobs/{queued}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    answer = api.post(f"/jobs/{running}/cancel", json={"keep": True})
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert api.state["jobs"].record(job).keep
    assert api.state["jobs"].claim("other") is None


@pytest.mark.parametrize("body", [{"keep": 1}, {"keep": "yes"}, {"kept": True}, []])
def test_a_cancel_that_is_not_understood_cancels_nothing(api: Api, dataset: str, body: Any) -> None:
    job_id = api.train(dataset)["id"]
    assert_problem(api.post(f"/jobs/{job_id}/cancel", json=body), 422)
    assert api.get(f"/jobs/{job_id}").json()["status"] == "queued"


def test_only_a_job_that_has_ended_is_deleted_with_its_checkpoint(api: Api, dataset: str) -> None:
    job_id = api.train(dataset)["id"]
    job = claimed(api)
    key = f"checkpoints/{job_id}/1"
    api.state["blobs"].put_bytes(key, b"state")
    api.state["jobs"].record(job, checkpoint=Checkpoint(key, 1))
    assert "running" in assert_problem(api.delete(f"/jobs/{job_id}"), 409)["detail"]
    api.state["jobs"].finish(job, Status.SUCCEEDED)
    assert api.delete(f"/jobs/{job_id}").status_code == 204
    assert not api.state["blobs"].exists(key)
    for path in ("", "/events", "/regularizers"):
        assert_problem(api.get(f"/jobs/{job_id}{path}"), 404)
    assert_problem(api.delete(f"/jobs/{job_id}"), 404)
    assert_problem(api.post(f"/jobs/{job_id}/cancel"), 404)


def regularizer(index: int) -> dict[str, Any]:
    return {
        "index": index,
        "form": "bernoulli_dropout",
        "pattern": "hid*:out",
        "weight": 0.5,
        "rng": None,
        "matched": ["hid1:out"],
        "log": "regularizer: BernoulliDropout(hid*:out) ~ B(0.5)",
    }


def epoch(number: int, rate: float) -> tuple[str, dict[str, Any]]:
    line = {"index": 0, "loss": 0.0, "rates": {"hid1:out": rate}}
    return "epoch", {"epoch": number, "train": {}, "valid": {}, "regularizers": [line]}


def test_the_regularizer_log_shows_each_epoch_once_by_its_last_attempt(
    api: Api, dataset: str
) -> None:
    job_id = api.train(dataset)["id"]
    jobs = api.state["jobs"]
    path = f"/jobs/{job_id}/regularizers"
    assert api.get(path).json() == {"data": []}

    build = ("log", {"message": "regularizer: …", "regularizer": regularizer(0)})
    first = claimed(api, "first")
    jobs.record(first, events=[("log", {"message": "hello"}), build, epoch(1, 0.1)])
    jobs.record(first, checkpoint=Checkpoint("checkpoints/a/1", 1))
    jobs.record(first, events=[epoch(2, 0.2), epoch(3, 0.3)])
    jobs.release(first)
    second = claimed(api, "second")
    jobs.record(second, events=[build, epoch(2, 0.25)])

    (entry,) = api.get(path).json()["data"]
    history = entry.pop("history")
    assert entry == {**entry, **regularizer(0), "reduction": None}
    assert [(h["epoch"], h["rates"]["hid1:out"]) for h in history] == [(1, 0.1), (2, 0.25)]
