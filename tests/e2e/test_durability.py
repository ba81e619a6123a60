"""Kills: a job whose worker, server or both are killed ends with one model, of the same bytes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import Server, csv_of, serving, wait_for

pytestmark = pytest.mark.processes

SPEC: dict[str, Any] = {
    "network": {"layers": [None, 200, 200, None]},
    "hidden_dropout": 0.2,
    "input_dropout": 0.1,
    "epochs": 150,
    "batch_size": 8,
    "checkpoint_every": {"epochs": 5},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Any]]:
    """The weights and metrics of a run that nobody disturbs."""
    with serving(tmp_path_factory.mktemp("calm") / "data") as server:
        dataset = server.upload(csv_of())
        job = server.finished(server.train(dataset=dataset, **SPEC)["id"])
        assert job["status"] == "succeeded", job
        return server.weights(job["model"]), job["metrics"]


def reached(server: Server, job_id: str, type_: str, epoch: int = 0, row: int = 0) -> None:
    """Wait until an event of the type has been recorded, of this epoch or row or a later one."""

    def seen() -> bool:
        events = server.client.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
        return any(
            event["type"] == type_
            and event["data"].get("epoch", epoch) >= epoch
            and event["data"].get("row", row) >= row
            for event in events
        )

    wait_for(seen)


@pytest.mark.parametrize("victim", ["worker", "http", "server", "everything"])
def test_a_killed_job_ends_with_one_model_of_the_same_bytes(
    victim: str, tmp_path: Path, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        dataset = server.upload(csv_of())
        job_id = server.train(dataset=dataset, **SPEC)["id"]
        reached(server, job_id, "checkpoint")
        if victim == "worker":
            (pid,) = server.children("worker")
            os.kill(pid, signal.SIGKILL)
        elif victim == "http":
            (pid,) = [p for p in server.children() if p not in server.children("worker")]
            os.kill(pid, signal.SIGKILL)
        elif victim == "everything":
            for pid in server.children():
                os.kill(pid, signal.SIGKILL)
            server.kill()
        else:
            server.kill()
        if victim in ("worker", "http"):
            check(server, job_id, undisturbed)
            return
    with serving(data) as server:
        check(server, job_id, undisturbed)


def check(server: Server, job_id: str, undisturbed: tuple[bytes, dict[str, Any]]) -> None:
    job = server.finished(job_id)
    assert job["status"] == "succeeded", job
    models = server.client.get("/models").json()["data"]
    assert [model["id"] for model in models] == [job["model"]]
    assert server.weights(job["model"]) == undisturbed[0]
    assert job["metrics"] == undisturbed[1]
    log = server.client.get(f"/jobs/{job_id}/regularizers").json()["data"]
    assert [entry["epoch"] for entry in log[0]["history"]] == list(range(1, 151))


@pytest.mark.timeout(1800)
def test_a_job_killed_again_and_again_ends_with_the_same_bytes(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """At random epochs, the worker or all there is; `make kills` does it 20 times."""
    kills = pytestconfig.getoption("kills")
    spec = SPEC | {"epochs": 150 * kills}
    with serving(tmp_path / "calm") as server:
        dataset = server.upload(csv_of())
        job = server.finished(server.train(dataset=dataset, **spec)["id"], 600)
        calm = (server.weights(job["model"]), job["metrics"])
    rng = random.Random(kills)
    data = tmp_path / "data"
    job_id = ""
    for number in range(kills):
        with serving(data) as server:
            job_id = job_id or server.train(dataset=server.upload(csv_of()), **spec)["id"]
            trained_to(server, job_id, 150 * number + rng.randrange(1, 120))
            if rng.random() < 0.5:
                (pid,) = server.children("worker")
                os.kill(pid, signal.SIGKILL)
                trained_to(server, job_id, 150 * number + rng.randrange(1, 120))
            server.kill()
    with serving(data) as server:
        job = server.finished(job_id, 600)
        assert job["status"] == "succeeded", job
        assert job["attempts"] > kills
        assert (server.weights(job["model"]), job["metrics"]) == calm
        log = server.client.get(f"/jobs/{job_id}/regularizers").json()["data"]
        assert [entry["epoch"] for entry in log[0]["history"]] == list(range(1, 150 * kills + 1))


def trained_to(server: Server, job_id: str, epoch: int) -> None:
    """Wait until a job that is not at its end has come to an epoch."""

    def is_there() -> bool:
        job = server.client.get(f"/jobs/{job_id}").json()
        assert not job["terminal"], job
        return bool(job["progress"] and job["progress"]["completed"] >= epoch)

    wait_for(is_there, 60)


def test_sigterm_checkpoints_the_job_and_the_next_start_goes_on(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        dataset = server.upload(csv_of())
        job_id = server.train(dataset=dataset, **SPEC | {"checkpoint_every": {"seconds": 600}})[
            "id"
        ]
        reached(server, job_id, "epoch", epoch=5)
        assert server.stop() == 0
    with serving(data) as server:
        check(server, job_id, undisturbed)
        events = server.client.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
        (retried,) = [event for event in events if event["type"] == "retried"]
        assert retried["data"]["from_epoch"] >= 5


def test_a_cancel_survives_a_kill(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        dataset = server.upload(csv_of())
        job_id = server.train(dataset=dataset, **SPEC | {"epochs": 1_000_000})["id"]
        reached(server, job_id, "epoch")
        server.client.post(f"/jobs/{job_id}/cancel")
        server.kill()
    with serving(data) as server:
        assert server.finished(job_id)["status"] == "cancelled"


def test_what_was_acknowledged_is_there_after_a_kill(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, workers=0) as server:
        dataset = server.upload(csv_of())
        headers = {"Idempotency-Key": "one"}
        body = {"dataset": dataset, "network": {"layers": [None, 5, None]}}
        first = server.client.post("/train", json=body, headers=headers)
        server.kill()
    with serving(data, workers=0) as server:
        again = server.client.post("/train", json=body, headers=headers)
        assert again.status_code == first.status_code == 202
        assert again.content == first.content
        other = server.client.post("/train", json={**body, "epochs": 2}, headers=headers)
        assert other.status_code == 422
        assert len(server.client.get("/jobs").json()["data"]) == 1
        assert server.client.get(f"/datasets/{dataset}").status_code == 200
