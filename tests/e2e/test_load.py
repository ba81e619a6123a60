"""Predictions under load: they wait in turn, end with their caller, and keep nobody waiting."""

from __future__ import annotations

import http.client
import json
import os
import re
import threading

import httpx
import numpy as np
import pytest

from tests.e2e.servers import Server, csv_of, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def model(server: Server) -> str:
    dataset = server.upload(csv_of(60))
    job = server.train(dataset=dataset, network={"layers": [None, 50, None]}, epochs=1)
    return str(server.finished(job["id"])["model"])


def body(model: str, num_samples: int) -> bytes:
    rows = np.zeros((500, 3)).tolist()
    dropout = {"hidden_dropout": 0.5, "statistics": ["mean"]}
    return json.dumps(
        {"model": model, "inputs": rows, "num_samples": num_samples, **dropout}
    ).encode()


def predictions(server: Server) -> dict[str, int]:
    """Return how many predictions wait and run."""
    found = re.findall(
        r'^bernoulli_predictions{state="(\w+)"} ([\d.]+)$',
        server.client.get("/metrics").text,
        re.MULTILINE,
    )
    return {state: int(float(number)) for state, number in found}


def test_waiting_predictions_keep_nobody_waiting_and_end_with_their_caller(
    server: Server, model: str
) -> None:
    """As many predictions of some minutes as there are threads for them, and 60 others behind."""
    callers = []
    content = {"Content-Type": "application/json"}
    for _ in range(os.cpu_count() or 1):
        caller = http.client.HTTPConnection(server.url.removeprefix("http://"))
        caller.request("POST", "/predict", body(model, 4_000_000), content)
        callers.append(caller)
    wait_for(lambda: predictions(server) == {"waiting": 0, "running": len(callers)})
    statuses: list[int] = []

    def ask() -> None:
        url = f"{server.url}/predict"
        answer = httpx.post(url, content=body(model, 200), headers=content, timeout=100)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    wait_for(lambda: predictions(server)["waiting"] > 0)
    assert server.client.get("/health/live").status_code == 200
    assert server.client.get("/jobs").status_code == 200
    told = predictions(server)
    assert told["waiting"] > 0
    assert told["running"] == len(callers)
    assert statuses == []
    for caller in callers:
        caller.close()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 60
    wait_for(lambda: predictions(server) == {"waiting": 0, "running": 0})
