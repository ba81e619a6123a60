"""Searches that are killed, stopped or cancelled on a real server."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any, Literal

import httpx
import pytest

from tests.e2e.servers import Mortal, Server, Victim, csv_of, wait_for

pytestmark = pytest.mark.processes

SPEC: dict[str, Any] = {
    "network": {"layers": [None, 40, 40, None]},
    "epochs": 800,
    "batch_size": 8,
    "checkpoint_every": {"seconds": 0.1},
    "search": {"grid": {"hidden_dropout": [0.05, 0.2, 0.4]}},
}
Outcome = tuple[bytes, Any, Any]


def outcome(server: Server, job_id: str) -> Outcome:
    job = server.finished(job_id)
    assert job["status"] == "succeeded", job
    models = server.client.get("/models", params={"limit": 1000}).json()["data"]
    assert [model["id"] for model in models if model["job"] == job_id] == [job["model"]]
    variants = server.client.get(f"/jobs/{job_id}/variants").json()["data"]
    assert [variant["status"] for variant in variants] == ["succeeded"] * 3
    return server.weights(job["model"]), job["metrics"], variants


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> Outcome:
    return outcome(server, server.train(dataset=server.upload(csv_of()), **SPEC)["id"])


def seen(server: Server, job_id: str, type_: str) -> int:
    events = server.client.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
    return sum(event["type"] == type_ for event in events)


def has_come_to(
    server: Server, job_id: str, phase: str, *, attempts: int, checkpoints: int
) -> bool:
    """Tell whether this attempt of a search is in a phase, and more checkpoints have been made."""
    try:
        job = server.client.get(f"/jobs/{job_id}").json()
    except httpx.TransportError:
        return False
    assert not job["terminal"], job
    assert job["attempts"] <= attempts
    is_running = job["status"] == "running" and job["attempts"] == attempts
    is_there = is_running and (job["progress"] or {}).get("phase") == phase
    return bool(is_there and seen(server, job_id, "checkpoint") > checkpoints)


@pytest.mark.timeout(600)
def test_a_search_disturbed_again_and_again_ends_with_the_same_variants_and_model(
    mortal: Mortal, undisturbed: Outcome, pytestconfig: pytest.Config
) -> None:
    """`nobody` is killed: the server is stopped, by Ctrl-C. `make kills` does all in each phase."""
    disturbances: list[tuple[str, Victim | Literal["nobody"]]]
    disturbances = [("searching", "worker"), ("searching", "nobody"), ("refitting", "server")]
    if pytestconfig.getoption("kills") > 4:
        others: list[Victim | Literal["nobody"]] = ["worker", "nobody", "server"]
        disturbances = [
            (phase, victim) for phase in ("searching", "refitting") for victim in others
        ]
    server = mortal.server
    job_id = server.train(dataset=server.upload(csv_of()), **SPEC)["id"]
    before = 0
    for attempt, (phase, victim) in enumerate(disturbances, start=1):
        reach = partial(has_come_to, mortal.server, job_id, phase)
        wait_for(partial(reach, attempts=attempt, checkpoints=before))
        before = seen(mortal.server, job_id, "checkpoint")
        if victim == "nobody":
            assert mortal.server.stop(signal.SIGINT) == 0
        else:
            mortal.kill(victim)
    assert outcome(mortal.server, job_id) == undisturbed


def test_a_cancelled_search_keeps_its_best_so_far(server: Server) -> None:
    variants = [{"epochs": 2}, {"epochs": 1_000_000}, {"epochs": 1_000_000}]
    spec = SPEC | {"search": {"variants": variants}, "hidden_dropout": 0.1}
    job_id = server.train(dataset=server.upload(csv_of()), **spec)["id"]
    wait_for(lambda: seen(server, job_id, "variant") >= 4)
    listed = f"/jobs/{job_id}/variants"
    wait_for(lambda: server.client.get(listed).json()["data"][1]["epochs"] > 2)
    server.client.post(f"/jobs/{job_id}/cancel", json={"keep": True})
    job = server.finished(job_id)
    assert job["status"] == "cancelled"
    assert job["metrics"]["search"]["variant"] == 0
    found = server.client.get(f"/jobs/{job_id}/variants").json()["data"]
    assert [v["status"] for v in found][:2] == ["succeeded", "stopped"]
    assert server.predict(model=job["model"], inputs=[[0, 0, 0]])["outputs"]["prediction"]
