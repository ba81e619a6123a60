"""Kills: a prediction job that is killed anywhere ends with one data set, of the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.servers import Mortal, Server, csv_of, npz_of, wait_for
from tests.e2e.test_durability import reached

pytestmark = pytest.mark.processes

ROWS = 3000


def prepared(server: Server) -> tuple[str, str]:
    """Return a data set and a model of it."""
    dataset = server.upload(csv_of(ROWS))
    spec = {"network": {"layers": [None, 40, 40, None]}, "hidden_dropout": 0.2, "epochs": 1}
    job = server.finished(server.train(dataset=dataset, seed=1, **spec)["id"])
    return dataset, str(job["model"])


def posted(server: Server, dataset: str, model: str, **changes: Any) -> str:
    """Queue a prediction that takes some seconds."""
    body = {
        "model": model,
        "inputs": {"dataset": dataset},
        "num_samples": 4000,
        "seed": 5,
        "checkpoint_every": {"seconds": 0.1},
        **changes,
    }
    answer = server.client.post("/predictions", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def result(server: Server, job_id: str) -> dict[str, Any]:
    job = server.finished(job_id)
    assert job["status"] == "succeeded", job
    listed = server.client.get("/datasets", params={"limit": 1000}).json()["data"]
    made = [dataset for dataset in listed if dataset["job"] == job_id]
    assert [dataset["id"] for dataset in made] == [job["result"]["dataset"]]
    assert made[0]["rows"] == ROWS
    return dict(made[0])


@pytest.fixture(scope="module")
def made(server: Server) -> tuple[str, str]:
    """A data set and a model of it, on the server that is left alone."""
    return prepared(server)


@pytest.fixture(scope="module")
def undisturbed(server: Server, made: tuple[str, str]) -> str:
    """The hash of the result of a run that nobody disturbs."""
    return str(result(server, posted(server, *made))["sha256"])


def test_worker_and_server_compute_the_same_numbers(server: Server, made: tuple[str, str]) -> None:
    dataset, model = made
    job_id = posted(server, dataset, model, num_samples=50)
    stored = result(server, job_id)["id"]
    asked = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 50, "seed": 5}
    outputs = server.predict(**asked)["outputs"]
    headers = {"Accept": "application/json"}
    answer = server.client.get(f"/datasets/{stored}/content", headers=headers)
    for name in ("mean", "std", "standard_error"):
        assert [row[name] for row in answer.json()] == [row[0] for row in outputs[name]]
    for quantile, values in outputs["quantiles"].items():
        column = [row[f"quantile_{quantile}"] for row in answer.json()]
        assert column == [row[0] for row in values]


def retries(server: Server, job_id: str) -> list[dict[str, Any]]:
    events = server.client.get(f"/jobs/{job_id}/events", params={"limit": 1000}).json()["data"]
    return [event["data"] for event in events if event["type"] == "retried"]


def test_a_killed_prediction_ends_with_one_data_set_of_the_same_bytes(
    mortal: Mortal, undisturbed: str
) -> None:
    """The worker is killed, and then the server."""
    job_id = posted(mortal.server, *prepared(mortal.server))
    reached(mortal.server, job_id, "checkpoint", row=1)
    mortal.kill("worker")
    wait_for(lambda: len(retries(mortal.server, job_id)) == 1)
    (first,) = retries(mortal.server, job_id)
    reached(mortal.server, job_id, "checkpoint", row=first["from_row"] + 1)
    mortal.kill("server")
    assert result(mortal.server, job_id)["sha256"] == undisturbed
    _, second = retries(mortal.server, job_id)
    assert 0 < first["from_row"] < second["from_row"] <= ROWS
    wait_for(lambda: parts(mortal.server) == [])  # they go once the job has ended


def test_sigterm_keeps_the_rows_that_are_done(mortal: Mortal, undisturbed: str) -> None:
    dataset, model = prepared(mortal.server)
    job_id = posted(mortal.server, dataset, model, checkpoint_every={"seconds": 600})

    def begun() -> bool:
        progress = mortal.server.client.get(f"/jobs/{job_id}").json()["progress"]
        return progress is not None and progress["completed"] > 0

    wait_for(begun)
    assert mortal.server.stop() == 0
    assert result(mortal.server, job_id)["sha256"] == undisturbed
    (retried,) = retries(mortal.server, job_id)
    assert retried["from_row"] > 0


def parts(server: Server) -> list[Path]:
    """Return the files of unfinished results that are kept."""
    artifacts = server.data / "artifacts"
    return [*artifacts.glob("parts/*/*"), *artifacts.glob("temporary/*")]


def test_a_cancelled_prediction_ends_soon_and_leaves_nothing(
    server: Server, made: tuple[str, str]
) -> None:
    job_id = posted(server, *made, num_samples=1_000_000)
    reached(server, job_id, "started")
    assert server.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert server.finished(job_id)["status"] == "cancelled"
    listed = server.client.get("/datasets", params={"limit": 1000}).json()["data"]
    assert [dataset for dataset in listed if dataset["job"] == job_id] == []
    assert parts(server) == []


def test_a_limit_ends_a_prediction_within_a_row(server: Server, made: tuple[str, str]) -> None:
    job_id = posted(server, *made, num_samples=10_000_000, limits={"seconds": 1})
    job = server.finished(job_id)
    assert (job["status"], job["error"]["kind"]) == ("failed", "timeout")


def test_memory_does_not_grow_with_the_rows(server: Server) -> None:
    """Answers for another 2 million rows are 80 MB; the worker may not hold them at any time."""
    model = _imported(server)
    few, many = (_peak_of(server, model, rows) for rows in (1_000_000, 3_000_000))
    assert many - few < 40 * 2**20


def _peak_of(server: Server, model: str, rows: int) -> int:
    """Predict for so many rows; return the most memory that the worker had as its own, in bytes."""
    x = np.random.default_rng(0).standard_normal((rows, 2))
    dataset = server.upload(npz_of(x=x), "application/x-npz")
    body = {"model": model, "inputs": {"dataset": dataset}, "input_dropout": 0.1, "seed": 1}
    body |= {"num_samples": 2, "statistics": ["mean", "std", "quantiles"]}
    answer = server.client.post("/predictions", json=body)
    assert answer.status_code == 202, answer.text
    (pid,) = server.children("worker")
    peak = 0

    def has_ended() -> bool:
        nonlocal peak
        peak = max(peak, _own_memory(pid))
        return bool(server.client.get(f"/jobs/{answer.json()['id']}").json()["terminal"])

    wait_for(has_ended, 100)
    job = server.finished(answer.json()["id"])
    assert job["status"] == "succeeded", job
    view = server.client.get(f"/datasets/{job['result']['dataset']}").json()
    assert (view["rows"], len(view["columns"])) == (rows, 5)
    return peak


def _own_memory(pid: int) -> int:
    """Return the memory that is the process' own, not that of mapped files, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def _imported(server: Server) -> str:
    weights = {"out.w": np.ones((2, 1), np.float32), "out.b": np.zeros(1, np.float32)}
    spec = {"network": {"layers": [2, 1]}, "name": "sum"}
    files: Any = {
        "spec": (None, json.dumps(spec), "application/json"),
        "weights": ("sum.safetensors", safetensors.numpy.save(weights)),
    }
    return str(server.client.post("/models", files=files).json()["id"])
