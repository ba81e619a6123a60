"""Kills: a prediction job that is killed anywhere ends with one data set, of the same bytes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.servers import Server, csv_of, npz_of, serving, wait_for
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
        "num_samples": 6000,
        "seed": 5,
        "checkpoint_every": {"seconds": 0.2},
        **changes,
    }
    answer = server.client.post("/predictions", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def result(server: Server, job_id: str) -> dict[str, Any]:
    job = server.finished(job_id)
    assert job["status"] == "succeeded", job
    made = [d for d in server.client.get("/datasets").json()["data"] if d["job"] is not None]
    assert [dataset["id"] for dataset in made] == [job["result"]["dataset"]]
    assert made[0]["job"] == job_id
    assert made[0]["rows"] == ROWS
    return dict(made[0])


def test_worker_and_server_compute_the_same_numbers(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        dataset, model = prepared(server)
        job_id = posted(server, dataset, model, num_samples=50)
        made = result(server, job_id)["id"]
        asked = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 50, "seed": 5}
        outputs = server.predict(**asked)["outputs"]
        answer = server.client.get(
            f"/datasets/{made}/content", headers={"Accept": "application/json"}
        )
        for name in ("mean", "std", "standard_error"):
            assert [row[name] for row in answer.json()] == [row[0] for row in outputs[name]]
        for quantile, values in outputs["quantiles"].items():
            column = [row[f"quantile_{quantile}"] for row in answer.json()]
            assert column == [row[0] for row in values]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the result of a run that nobody disturbs."""
    with serving(tmp_path_factory.mktemp("calm") / "data") as server:
        return str(result(server, posted(server, *prepared(server)))["sha256"])


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_a_killed_prediction_ends_with_one_data_set_of_the_same_bytes(
    victim: str, tmp_path: Path, undisturbed: str
) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        job_id = posted(server, *prepared(server))
        reached(server, job_id, "checkpoint", row=1)
        if victim == "worker":
            (pid,) = server.children("worker")
            os.kill(pid, signal.SIGKILL)
            assert result(server, job_id)["sha256"] == undisturbed
        else:
            server.kill()
    if victim == "server":
        with serving(data) as server:
            assert result(server, job_id)["sha256"] == undisturbed
            events = server.client.get(f"/jobs/{job_id}/events").json()["data"]
            (retried,) = [event for event in events if event["type"] == "retried"]
            assert 0 < retried["data"]["from_row"] <= ROWS
    assert not list((data / "artifacts" / "parts").glob("*/*"))


def test_sigterm_keeps_the_rows_that_are_done(tmp_path: Path, undisturbed: str) -> None:
    data = tmp_path / "data"
    with serving(data) as server:
        dataset, model = prepared(server)
        job_id = posted(server, dataset, model, checkpoint_every={"seconds": 600})

        def begun() -> bool:
            progress = server.client.get(f"/jobs/{job_id}").json()["progress"]
            return progress is not None and progress["completed"] > 0

        wait_for(begun)
        assert server.stop() == 0
    with serving(data) as server:
        assert result(server, job_id)["sha256"] == undisturbed
        events = server.client.get(f"/jobs/{job_id}/events").json()["data"]
        (retried,) = [event for event in events if event["type"] == "retried"]
        assert retried["data"]["from_row"] > 0


def test_a_cancelled_prediction_ends_soon_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        job_id = posted(server, *prepared(server), num_samples=1_000_000)
        reached(server, job_id, "started")
        assert server.client.post(f"/jobs/{job_id}/cancel").status_code == 202
        assert server.finished(job_id, timeout=20)["status"] == "cancelled"
        assert len(server.client.get("/datasets").json()["data"]) == 1
        assert not list((tmp_path / "data" / "artifacts" / "temporary").iterdir())


def test_a_limit_ends_a_prediction_within_a_row(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        job_id = posted(server, *prepared(server), num_samples=10_000_000, limits={"seconds": 1})
        job = server.finished(job_id, timeout=20)
        assert (job["status"], job["error"]["kind"]) == ("failed", "timeout")


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Answers for another 3 million rows are 120 MB; the worker may not hold them at any time."""
    with serving(tmp_path / "data") as server:
        model = _imported(server)
        few, many = (_peak_of(server, model, rows) for rows in (1_000_000, 4_000_000))
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
