"""Memory: a job that needs more than it may have ends, of kind `memory`, and nothing else does."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.memory import at_most, is_out_of_memory
from service.steps import Step
from service.store.jobs import Status
from tests.service.conftest import Api, Serve, assert_problem
from tests.service.worker.worlds import World

MIB = 2**20


def test_beyond_the_limit_nothing_is_allocated_and_after_it_everything() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(MemoryError), at_most(64 * MIB):
        np.ones(128 * MIB, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    with at_most(64 * MIB):
        np.ones(8 * MIB, np.uint8)
    np.ones(128 * MIB, np.uint8)
    with at_most(None):
        np.ones(128 * MIB, np.uint8)


def test_a_limit_lifts_no_other() -> None:
    with at_most(64 * MIB), at_most(1024 * MIB), pytest.raises(MemoryError):
        np.ones(128 * MIB, np.uint8)


def test_libraries_say_it_in_their_ways() -> None:
    with at_most(64 * MIB), pytest.raises(RuntimeError) as caught:
        torch.ones(128 * MIB, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_job_beyond_its_limit_fails_alone(api: Api) -> None:
    dataset = api.upload()
    wide = {"layers": [None, 6000, 6000, None]}
    large = api.train(dataset, network=wide, epochs=1, limits={"memory_bytes": 64 * MIB})
    small = api.train(dataset, epochs=1, limits={"memory_bytes": 256 * MIB})
    api.work()
    failed = api.get(f"/jobs/{large['id']}").json()
    assert (failed["status"], failed["error"]["kind"]) == ("failed", "memory")
    assert str(64 * MIB) in failed["error"]["detail"]
    assert failed["attempts"] == 1
    assert api.get(f"/jobs/{small['id']}").json()["status"] == "succeeded"


def test_the_servers_limit_holds_for_jobs_that_say_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)

    def task(_job: Any, _context: Any) -> Iterator[Step]:
        yield Step()
        np.ones(128 * MIB, np.uint8)
        yield Step()

    said = world.queue(limits={"memory_bytes": 1024 * MIB})
    unsaid = world.queue()
    for job_id in (said, unsaid):
        world.work(task, max_job_bytes=64 * MIB)
        job = world.jobs.get(job_id)
        assert job.error is not None
        assert (job.status, job.error["kind"]) == (Status.FAILED, "memory")
    free = world.queue()
    world.work(task)
    assert world.jobs.get(free).status is Status.SUCCEEDED


@pytest.mark.parametrize("path", ["/train", "/predictions", "/evaluations", "/models/m/calibrate"])
def test_more_than_the_server_allows_is_refused(serve: Serve, path: str) -> None:
    api = serve(max_job_bytes=1000)
    assert api.get("/capabilities").json()["limits"]["max_job_bytes"] == 1000
    dataset = "ds_" + "0" * 26
    bodies: dict[str, dict[str, Any]] = {
        "/train": {"dataset": dataset, "network": {"layers": [None, 3, None]}},
        "/predictions": {"model": "m", "inputs": {"dataset": dataset}},
        "/evaluations": {"model": "m", "dataset": dataset},
        "/models/m/calibrate": {"dataset": dataset, "coverage": 0.9},
    }
    body = bodies[path] | {"limits": {"memory_bytes": 1001}}
    answer = api.post(path, json=body)
    assert "1000" in assert_problem(answer, 422, "#/limits/memory_bytes")["detail"]
    body["limits"] = {"memory_bytes": 1000}
    assert_problem(api.post(path, json=body), 404)
