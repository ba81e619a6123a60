"""Resumed jobs: from where another ended, to the bytes of one that never ended."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from engine.dense_training import DenseSteps
from tests.service.at_once import AtOnce
from tests.service.conftest import Api, assert_problem

ROWS = np.random.default_rng(4).standard_normal((40, 3))
TABLE = ("a,b,y\n" + "\n".join(",".join(f"{v:.4f}" for v in row) for row in ROWS)).encode()
NETWORK = {"layers": [None, [6, "tanh"], None]}


def trained(api: Api, dataset: str, **spec: Any) -> dict[str, Any]:
    job = api.train(dataset, **({"network": NETWORK, "dropout": {"*:out": 0.2}} | spec))
    api.work()
    return dict(api.get(f"/jobs/{job['id']}").json())


def resumed(api: Api, job: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = api.post(f"/jobs/{job['id']}/resume", json=body)
    assert answer.status_code == 202, answer.text
    made = answer.json()
    assert answer.headers["location"] == f"/jobs/{made['id']}"
    assert made["resumed_from"] == job["id"]
    api.work()
    return dict(api.get(f"/jobs/{made['id']}").json())


def weights(api: Api, job: dict[str, Any]) -> bytes:
    return bytes(api.get(f"/models/{job['model']}/weights").content)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"optimizer": {"form": "rmsprop", "momentum": 0.5}},
        {"validation": None, "batch_size": 7},
        {
            "training": {"form": "layerwise"},
            "network": {"layers": [None, 6, 5, None]},
            "validation": 0,
        },
        {"noise": {"hid1:out": 0.1}, "optimizer": "esgd"},
        {"optimizer": {"form": "adam", "schedule": {"form": "cosine", "epochs": 6}}},
        {"optimizer": {"form": "adam", "schedule": {"form": "plateau", "patience": 0}}},
    ],
)
def test_some_epochs_resumed_for_others_are_all_of_them(api: Api, spec: dict[str, Any]) -> None:
    dataset = api.upload(TABLE)
    whole = trained(api, dataset, epochs=7, **(spec | _staged(spec, 4)))
    part = trained(api, dataset, epochs=4, **spec)
    rest = resumed(api, part, epochs=3)
    assert rest["status"] == "succeeded", rest["error"]
    assert weights(api, rest) == weights(api, whole) != weights(api, part)
    assert rest["metrics"] == whole["metrics"]
    assert rest["spec"]["epochs"] == 7
    history = [api.get(f"/jobs/{job['id']}/events").json()["data"] for job in (whole, rest)]
    epochs = [[e["data"] for e in events if e["type"] == "epoch"] for events in history]
    assert epochs[1] == epochs[0][4:]
    log = api.get(f"/jobs/{rest['id']}/regularizers").json()["data"]
    assert [line["epoch"] for entry in log for line in entry["history"][:1]] == [5] * len(log)
    assert len(log) > 0


def _staged(spec: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Stages take as many epochs as the job that began with them has."""
    return {"training": {**spec["training"], "epochs": epochs}} if "training" in spec else {}


def test_a_chain_of_resumed_jobs_outlives_those_before(api: Api) -> None:
    dataset = api.upload(TABLE)
    whole = trained(api, dataset, epochs=6)
    job = trained(api, dataset, epochs=2)
    for _ in range(2):
        following = api.post(f"/jobs/{job['id']}/resume", json={"epochs": 2}).json()
        assert api.delete(f"/jobs/{job['id']}").status_code == 204
        api.work()
        job = api.get(f"/jobs/{following['id']}").json()
    assert weights(api, job) == weights(api, whole)


def test_by_default_as_many_epochs_again(api: Api) -> None:
    job = trained(api, api.upload(TABLE), epochs=3)
    answer = api.post(f"/jobs/{job['id']}/resume")
    assert answer.json()["spec"]["epochs"] == 6


def test_patience_that_had_run_out_is_given_anew(api: Api) -> None:
    spec = {"epochs": 200, "patience": 2, "optimizer": {"form": "sgd", "learning_rate": 0.5}}
    job = trained(api, api.upload(TABLE), **spec)
    stopped = job["progress"]["completed"]
    assert stopped < 200
    rest = resumed(api, job, epochs=5)
    assert stopped + 2 <= rest["progress"]["completed"] <= stopped + 5


def test_another_learning_rate_is_taken(api: Api) -> None:
    job = trained(api, api.upload(TABLE), epochs=2)
    one, two = (resumed(api, job, epochs=2, learning_rate=rate) for rate in (1e-3, 1e-2))
    assert one["spec"]["optimizer"]["learning_rate"] == 1e-3
    assert weights(api, one) != weights(api, two)


def test_the_same_key_resumes_once(api: Api) -> None:
    job = trained(api, api.upload(TABLE), epochs=1)
    key = {"Idempotency-Key": "once"}
    path = f"/jobs/{job['id']}/resume"
    first, again = (api.post(path, json={"epochs": 1}, headers=key).json() for _ in range(2))
    assert first == again
    assert_problem(api.post(path, json={"epochs": 2}, headers=key), 422)


def test_what_cannot_go_on_is_a_conflict(api: Api) -> None:
    dataset = api.upload(TABLE)
    waiting = api.train(dataset, network=NETWORK)
    assert_problem(api.post(f"/jobs/{waiting['id']}/resume"), 409)
    api.post(f"/jobs/{waiting['id']}/cancel")
    problem = assert_problem(api.post(f"/jobs/{waiting['id']}/resume"), 409)
    assert "no state" in problem["detail"]
    job = trained(api, dataset, epochs=1)
    assert api.delete(f"/datasets/{dataset}").status_code == 204
    problem = assert_problem(api.post(f"/jobs/{job['id']}/resume"), 409)
    assert "data set" in problem["detail"]
    assert_problem(api.post("/jobs/job_none/resume"), 404)


@pytest.mark.parametrize("body", [{"epochs": 0}, {"epochs": 10**7}, {"epoch": 1}, {"epochs": "2"}])
def test_what_is_asked_for_is_checked(api: Api, body: dict[str, Any]) -> None:
    job = trained(api, api.upload(TABLE), epochs=1)
    assert_problem(api.post(f"/jobs/{job['id']}/resume", json=body), 422)


def cancelled_after(api: Api, steps: int, spec: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """Queue a job, cancel it after so many of its steps, and return it."""
    given = {"network": NETWORK, "dropout": {"*:out": 0.2}} | spec
    job = api.train(api.upload(TABLE), **given)
    taken = itertools.count(2)

    def cancel() -> None:
        # A busy machine may take some steps before the first that the log tells of.
        events = api.get(f"/jobs/{job['id']}/events").json()["data"]
        has_begun = any(event["type"] == "log" for event in events)
        if has_begun and next(taken) == steps:
            answer = api.post(f"/jobs/{job['id']}/cancel", json={"keep": keep})
            assert answer.status_code == 202

    # The clock goes by a second a step: what is asked of the job is seen at each.
    worker = api.worker(tick=cancel, clock=itertools.count().__next__, recording=AtOnce())
    worker.work_once()
    return dict(api.get(f"/jobs/{job['id']}").json())


def best_epoch(api: Api, job: dict[str, Any]) -> int:
    events = api.get(f"/jobs/{job['id']}/events").json()["data"]
    return int(
        [e["data"]["epoch"] for e in events if e["type"] == "epoch" and e["data"]["best"]][-1]
    )


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_cancelled_job_keeps_its_best_epoch_whether_or_not_within_another(
    blocks: int, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenseSteps, "block_rows", lambda _: -(-36 // blocks))
    spec = {"epochs": 50, "batch_size": 6, "optimizer": {"form": "sgd", "learning_rate": 0.3}}
    job = cancelled_after(api, 17, spec, keep=True)
    assert job["status"] == "cancelled"
    assert job["result"] == {"model": job["model"]}
    monkeypatch.undo()
    best = trained(api, job["spec"]["dataset"], **(spec | {"epochs": best_epoch(api, job)}))
    assert weights(api, job) == weights(api, best)
    assert job["metrics"] == best["metrics"]
    answer = api.post("/predict", json={"model": job["model"], "inputs": [[0.1, 0.2]]})
    assert answer.status_code == 200
    whole = trained(api, job["spec"]["dataset"], **spec)
    assert weights(api, resumed(api, job)) == weights(api, whole)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"training": {"form": "layerwise"}, "network": {"layers": [None, 6, 5, None]}},
    ],
)
def test_before_the_first_epoch_has_ended_there_is_nothing_to_keep_and_the_log_says_so(
    spec: dict[str, Any], api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenseSteps, "block_rows", lambda _: 12)
    job = cancelled_after(api, 2, {"epochs": 3, "batch_size": 6, **spec}, keep=True)
    assert (job["status"], job["model"], job["result"]) == ("cancelled", None, None)
    events = api.get(f"/jobs/{job['id']}/events").json()["data"]
    assert "nothing to keep" in [e["data"] for e in events if e["type"] == "log"][-1]["message"]
    rest = resumed(api, job)
    staged = _staged(spec, 3)
    whole = trained(api, job["spec"]["dataset"], epochs=3, batch_size=6, **(spec | staged))
    assert weights(api, rest) == weights(api, whole)


def test_a_job_whose_patience_runs_out_has_nothing_left_to_do(api: Api) -> None:
    job = trained(
        api,
        api.upload(TABLE),
        epochs=100_000,
        patience=1,
        optimizer={"form": "adam", "learning_rate": 0.3},
    )
    assert job["progress"]["completed"] < 100_000
    assert job["progress"]["eta_seconds"] == 0


def diverged(api: Api, dataset: str, **spec: Any) -> dict[str, Any]:
    """Train at a rate that is far too large, and return the job that has failed."""
    job = trained(api, dataset, **spec)
    assert job["status"] == "failed"
    assert job["error"]["kind"] == "user"
    assert "in epoch " in job["error"]["detail"]
    assert "learning_rate" in job["error"]["detail"]
    assert job["error"]["errors"][0]["pointer"] == "#/optimizer/learning_rate"
    checkpoint = api.state["jobs"].get(job["id"]).checkpoint
    assert checkpoint is not None
    kept = [key for key, _ in api.state["blobs"].keys(f"checkpoints/{job['id']}")]
    assert kept == [checkpoint.key]
    return job


@pytest.mark.parametrize("checkpoint_every", [None, {"epochs": 1}])
@pytest.mark.parametrize("rate", [3.0, 1e9])
@pytest.mark.parametrize("validation", [0.1, None])
def test_a_job_whose_loss_became_nan_goes_on_at_a_smaller_rate(
    validation: float | None, rate: float, checkpoint_every: dict[str, int] | None, api: Api
) -> None:
    """With a checkpoint at the brink of infinity, or before any."""
    given = {"network": {"layers": [None, None]}, "epochs": 100, "batch_size": 40}
    job = diverged(
        api,
        api.upload(TABLE),
        **given,
        optimizer={"form": "sgd", "learning_rate": rate},
        checkpoint_every=checkpoint_every,
        validation=validation,
    )
    rest = resumed(api, job, learning_rate=0.1)
    assert rest["status"] == "succeeded", rest["error"]
    assert rest["spec"]["epochs"] == 100
    assert rest["spec"]["optimizer"]["learning_rate"] == 0.1
    assert rest["metrics"]["train"]["loss"] < 2
    events = api.get(f"/jobs/{rest['id']}/events").json()["data"]
    first = next(event["data"] for event in events if event["type"] == "epoch")
    told = api.get(f"/jobs/{job['id']}/events").json()["data"]
    place = [event["data"]["message"] for event in told if event["type"] == "log"][-1]
    assert ("from the beginning" in place) == (first["epoch"] == 1)
    assert first["epoch"] <= 2


def test_a_job_that_diverges_after_good_epochs_keeps_what_it_had_learnt(api: Api) -> None:
    dataset = api.upload(TABLE)
    slow = {"form": "sgd", "learning_rate": 0.05}
    good = trained(api, dataset, epochs=5, optimizer=slow)
    answer = api.post(f"/jobs/{good['id']}/resume", json={"epochs": 50, "learning_rate": 40.0})
    api.work()
    job = api.get(f"/jobs/{answer.json()['id']}").json()
    assert job["status"] == "failed"
    rest = resumed(api, job, epochs=5, learning_rate=0.05)
    whole = trained(api, dataset, epochs=10, optimizer=slow)
    assert weights(api, rest) == weights(api, whole)


def test_a_stage_that_diverges_can_be_resumed(api: Api) -> None:
    spec = {"network": {"layers": [None, 5, 4, None]}, "training": {"form": "layerwise"}}
    job = diverged(
        api, api.upload(TABLE), epochs=3, optimizer={"form": "sgd", "learning_rate": 1e9}, **spec
    )
    assert resumed(api, job, learning_rate=0.01)["status"] == "succeeded"
