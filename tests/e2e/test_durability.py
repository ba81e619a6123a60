"""Kills: a job whose worker, server or both are killed ends with one model, of the same bytes."""

from __future__ import annotations

import random
import threading
from typing import Any, get_args

import httpx
import pytest

from tests.e2e.servers import Mortal, Server, Victim, csv_of, wait_for

pytestmark = pytest.mark.processes

SPEC: dict[str, Any] = {
    "network": {"layers": [None, 200, 200, None]},
    "hidden_dropout": 0.2,
    "input_dropout": 0.1,
    "epochs": 150,
    "batch_size": 8,
    "checkpoint_every": {"epochs": 5},
}


def undisturbed(server: Server, spec: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Return the weights and metrics of a run that nobody disturbs."""
    job = server.finished(server.train(dataset=server.upload(csv_of()), **spec)["id"], 600)
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


def check(server: Server, job_id: str, calm: tuple[bytes, dict[str, Any]]) -> dict[str, Any]:
    """Fail unless a job has ended with one model, of the same bytes as those of `calm`."""
    job = server.finished(job_id, 600)
    assert job["status"] == "succeeded", job
    models = server.client.get("/models", params={"limit": 1000}).json()["data"]
    assert [model["id"] for model in models if model["job"] == job_id] == [job["model"]]
    assert (server.weights(job["model"]), job["metrics"]) == calm
    log = server.client.get(f"/jobs/{job_id}/regularizers").json()["data"]
    epochs = [entry["epoch"] for entry in log[0]["history"]]
    assert epochs == list(range(1, job["spec"]["epochs"] + 1))
    return job


@pytest.mark.timeout(1800)
def test_a_job_killed_again_and_again_ends_with_one_model_of_the_same_bytes(
    mortal: Mortal, server: Server, pytestconfig: pytest.Config
) -> None:
    """At random epochs, a process or all there are; `make kills` does it 20 times."""
    kills = pytestconfig.getoption("kills")
    rng = random.Random(kills)
    all_victims: tuple[Victim, ...] = get_args(Victim)
    victims = [*all_victims, *rng.choices(all_victims, k=kills)][:kills]
    spec = SPEC | {"epochs": 150 * kills}
    calm = undisturbed(server, spec)
    job_id = mortal.server.train(dataset=mortal.server.upload(csv_of()), **spec)["id"]
    attempts = 1
    for number, victim in enumerate(victims):
        trained_to(mortal.server, job_id, 150 * number + rng.randrange(1, 120), attempts)
        mortal.kill(victim)
        attempts += victim != "http"
    assert check(mortal.server, job_id, calm)["attempts"] == attempts


def trained_to(server: Server, job_id: str, epoch: int, attempts: int) -> None:
    """Wait until an attempt of a job that is not at its end has come to an epoch."""

    def is_there() -> bool:
        try:
            job = server.client.get(f"/jobs/{job_id}").json()
        except httpx.TransportError:  # the HTTP process has been killed
            return False
        assert not job["terminal"], job
        assert job["attempts"] <= attempts
        return bool(
            job["status"] == "running"
            and job["attempts"] == attempts
            and job["progress"]
            and job["progress"]["completed"] >= epoch
        )

    wait_for(is_there, 600)


def test_sigterm_ends_streams_checkpoints_the_job_and_the_next_start_goes_on(
    mortal: Mortal, server: Server
) -> None:
    calm = undisturbed(server, SPEC)
    dataset = mortal.server.upload(csv_of())
    spec = SPEC | {"checkpoint_every": {"seconds": 600}}
    job_id = mortal.server.train(dataset=dataset, **spec)["id"]
    opened = threading.Event()

    def follow(url: str) -> None:
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("GET", url, headers=headers, timeout=60) as stream:
            for _ in stream.iter_raw():
                opened.set()

    events = f"/jobs/{job_id}/events"
    follower = threading.Thread(target=follow, args=[mortal.server.url + events])
    follower.start()
    assert opened.wait(60)
    reached(mortal.server, job_id, "epoch", epoch=5)
    assert mortal.server.stop() == 0
    follower.join(60)
    assert not follower.is_alive()
    check(mortal.server, job_id, calm)
    told = mortal.server.client.get(events, params={"limit": 1000}).json()["data"]
    (retried,) = [event for event in told if event["type"] == "retried"]
    assert retried["data"]["from_epoch"] >= 5


def test_what_was_acknowledged_is_there_after_a_kill(mortal: Mortal) -> None:
    """A data set, a job, the answer to its key, and that another one is to be cancelled."""
    server = mortal.server
    dataset = server.upload(csv_of())
    endless = server.train(dataset=dataset, **SPEC | {"epochs": 1_000_000})["id"]
    reached(server, endless, "epoch")
    key = {"Idempotency-Key": "acknowledged"}
    body = {"dataset": dataset, "network": {"layers": [None, 5, None]}}
    first = server.client.post("/train", json=body, headers=key)
    jobs = [job["id"] for job in server.client.get("/jobs").json()["data"]]
    # The supervisor, what its children are copies of, HTTP, the worker, and what parses uploads.
    assert len(server.processes()) == 5
    assert server.client.post(f"/jobs/{endless}/cancel").status_code == 202
    mortal.kill("server")
    server = mortal.server
    again = server.client.post("/train", json=body, headers=key)
    assert again.status_code == first.status_code == 202
    assert again.content == first.content
    other = server.client.post("/train", json={**body, "epochs": 2}, headers=key)
    assert other.status_code == 422
    assert [job["id"] for job in server.client.get("/jobs").json()["data"]] == jobs
    assert server.client.get(f"/datasets/{dataset}").status_code == 200
    assert server.finished(endless)["status"] == "cancelled"
    assert server.finished(first.json()["id"])["status"] == "succeeded"
