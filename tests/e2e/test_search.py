"""Searches that are killed, stopped or cancelled on a real server."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import Server, csv_of, serving, wait_for

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
    models = server.client.get("/models").json()["data"]
    assert [model["id"] for model in models] == [job["model"]]
    variants = server.client.get(f"/jobs/{job_id}/variants").json()["data"]
    assert [variant["status"] for variant in variants] == ["succeeded"] * 3
    return server.weights(job["model"]), job["metrics"], variants


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    with serving(tmp_path_factory.mktemp("calm") / "data") as server:
        return outcome(server, server.train(dataset=server.upload(csv_of()), **SPEC)["id"])


def seen(server: Server, job_id: str, type_: str) -> int:
    events = server.client.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
    return sum(event["type"] == type_ for event in events)


@pytest.mark.parametrize("victim", ["worker", "server", "nobody"])
@pytest.mark.parametrize("phase", ["searching", "refitting"])
def test_a_disturbed_search_ends_with_the_same_variants_and_model(
    victim: str, phase: str, tmp_path: Path, undisturbed: Outcome
) -> None:
    """`nobody` is killed: the server is stopped, and started again."""
    data = tmp_path / "data"
    with serving(data) as server:
        job_id = server.train(dataset=server.upload(csv_of()), **SPEC)["id"]
        if phase == "refitting":
            wait_for(lambda: seen(server, job_id, "selected"), 60)
        else:
            wait_for(lambda: seen(server, job_id, "checkpoint"), 60)
        if victim == "worker":
            (pid,) = server.children("worker")
            os.kill(pid, signal.SIGKILL)
            assert outcome(server, job_id) == undisturbed
            return
        if victim == "server":
            server.kill()
        else:
            assert server.stop() == 0
    with serving(data) as server:
        assert outcome(server, job_id) == undisturbed


def test_a_cancelled_search_keeps_its_best_so_far(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
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
