"""How a job's rows come to its network: told by the plan, stored with the job, kept by attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.settings import Settings, machine_bytes
from tests.service.conftest import Api, Serve, assert_problem

LIMIT = 2000
SPEC: dict[str, Any] = {"network": {"layers": [None, 4, None]}, "epochs": 4, "batch_size": 8}


def csv_of(rows: int = 400) -> bytes:
    draw = np.random.default_rng(1)
    lines = (f"{a},{b},{a - b}" for a, b in draw.standard_normal((rows, 2)).round(3))
    return "\n".join(["a,b,y", *lines]).encode()


def messages(api: Api, job_id: str) -> list[str]:
    events = api.get(f"/jobs/{job_id}/events?limit=1000").json()["data"]
    return [event["data"]["message"] for event in events if event["type"] == "log"]


def weights(api: Api, job_id: str) -> bytes:
    job = api.get(f"/jobs/{job_id}").json()
    assert job["status"] == "succeeded", job["error"]
    return api.get(f"/models/{job['model']}/weights").content


def test_a_server_has_a_limit_and_a_job_may_have_a_lower_one(serve: Serve) -> None:
    api = serve(max_resident_bytes=100_000)
    assert api.get("/capabilities").json()["limits"]["max_resident_bytes"] == 100_000
    body = {"dataset": api.upload(csv_of()), **SPEC}
    held = api.post("/train?validate_only=true", json=body).json()["loading"]
    assert held == {
        "form": "resident",
        "encoded_bytes": 400 * 3 * 4,
        "resident_bytes": 100_000,
        "block_rows": None,
        "pool_rows": None,
    }
    body["limits"] = {"resident_bytes": LIMIT}
    told = api.post("/train?validate_only=true", json=body).json()["loading"]
    assert told["form"] == "blocks"
    assert told["pool_rows"] == LIMIT // 4 // 12 // 8 * 8
    body["limits"] = {"resident_bytes": 100_001}
    assert_problem(api.post("/train", json=body), 422, "#/limits/resident_bytes")
    body["limits"] = {"resident_bytes": 0}
    assert_problem(api.post("/train", json=body), 422, "#/limits/resident_bytes")


def test_the_limit_is_stored_with_the_job_and_its_log_says_what_follows(serve: Serve) -> None:
    api = serve(max_resident_bytes=LIMIT)
    job = api.train(api.upload(csv_of()), **SPEC)
    assert job["spec"]["limits"]["resident_bytes"] == LIMIT
    timed = api.train(api.upload(csv_of()), **SPEC, limits={"seconds": 60})
    assert timed["spec"]["limits"]["seconds"] == 60
    assert timed["spec"]["limits"]["resident_bytes"] == LIMIT
    api.work()
    said = messages(api, job["id"])
    assert any("read by blocks of" in message for message in said), said
    assert weights(api, job["id"]) == weights(api, timed["id"])


def test_rows_are_encoded_once_where_the_disk_has_room(serve: Serve) -> None:
    api = serve(max_resident_bytes=LIMIT)
    jobs = [api.train(api.upload(csv_of()), **SPEC)["id"] for _ in range(2)]
    for most in (None, 10):
        assert api.worker(max_scratch_bytes=most).work_once()
    told = [next(m for m in messages(api, job) if "by blocks" in m) for job in jobs]
    assert told[0].endswith("; encoded once, into a file")
    assert told[1].endswith("; encoded in each epoch anew")
    assert weights(api, jobs[0]) == weights(api, jobs[1])


def test_attempts_keep_the_way_of_the_server_that_took_the_job(
    tmp_path: Path, serve: Serve
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    small = serve(data=tmp_path / "one", max_resident_bytes=LIMIT)
    alone = small.train(small.upload(csv_of()), **SPEC)
    small.work()
    held = serve(data=tmp_path / "two", max_resident_bytes=LIMIT)
    job = held.train(held.upload(csv_of()), **SPEC)
    steps = iter([False, False, True])
    held.worker(should_stop=lambda: next(steps, True)).work_once()
    assert held.get(f"/jobs/{job['id']}").json()["status"] == "queued"
    # Another server takes over, which would hold the rows in memory.
    large = serve(data=tmp_path / "two", max_resident_bytes=10**9)
    large.work()
    assert weights(large, job["id"]) == weights(small, alone["id"])


def test_a_search_reads_by_blocks_too(serve: Serve) -> None:
    api = serve(max_resident_bytes=LIMIT)
    search = {"grid": {"hidden_dropout": [0.1, 0.2]}}
    job = api.train(api.upload(csv_of()), **SPEC, search=search)
    api.work()
    assert weights(api, job["id"])
    assert any("read by blocks of" in message for message in messages(api, job["id"]))


def test_sequences_too_large_to_be_held_are_refused_before_the_job(serve: Serve) -> None:
    api = serve(max_resident_bytes=LIMIT)
    network = {"layers": [None, [3, "tanh", "rnn"], None]}
    body = {"dataset": api.upload(csv_of()), **SPEC, "network": network, "sequence": {"window": 4}}
    problem = assert_problem(api.post("/train", json=body), 422, "#/sequence")
    assert "limits.resident_bytes" in problem["detail"]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_share_half_of_the_memory_by_default(workers: int) -> None:
    settings = Settings(workers=workers)
    assert settings.resident_bytes == machine_bytes() // (2 * max(1, workers))
    assert machine_bytes() > 2**27
