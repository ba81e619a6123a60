"""Predictions under load: they wait in turn, end with their caller, and keep nobody waiting."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.servers import Server, csv_of, wait_for

pytestmark = pytest.mark.processes

LONG = {"hidden_dropout": 0.5, "statistics": ["mean"]}


@pytest.fixture(scope="module")
def model(server: Server) -> str:
    dataset = server.upload(csv_of(60))
    job = server.train(dataset=dataset, network={"layers": [None, 50, None]}, epochs=1)
    return str(server.finished(job["id"])["model"])


def cpu_seconds(server: Server) -> float:
    """Return the processor time of the HTTP process so far."""
    (pid,) = server.children("http_process")
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_waiting_predictions_keep_nobody_else_waiting(server: Server, model: str) -> None:
    rows = np.zeros((500, 3)).tolist()
    statuses: list[int] = []

    def ask(**request: Any) -> None:
        body = {"model": model, **request}
        try:
            statuses.append(httpx.post(f"{server.url}/predict", json=body, timeout=60).status_code)
        except httpx.TimeoutException:
            statuses.append(0)

    long = {"inputs": rows, "num_samples": 100_000, **LONG}
    threads = [threading.Thread(target=ask, kwargs=long) for _ in range(2)]
    shorter = {"inputs": rows, "num_samples": 200, **LONG}
    threads += [threading.Thread(target=ask, kwargs=shorter) for _ in range(60)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        started = time.monotonic()
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/jobs").status_code == 200
        assert time.monotonic() - started < 5
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert statuses == [200] * 62


def test_a_caller_that_disconnects_ends_its_prediction(server: Server, model: str) -> None:
    rows = np.zeros((1000, 3)).tolist()
    body = {"model": model, "inputs": rows, "num_samples": 400_000, **LONG}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/predict", json=body, timeout=1.0)

    def is_idle() -> bool:
        before = cpu_seconds(server)
        time.sleep(0.5)
        return cpu_seconds(server) - before < 0.2

    wait_for(is_idle, 6)
