"""What a job costs beside its training: ``python -m bench.job``.

How long it takes from a request that is accepted to the end of the first epoch, on a warm worker;
and how long a whole job takes, from its first claim to its end, against the same run by the engine
alone, in a process as nice as a worker that takes turns with it. Where other programs run beside,
their ratio says little, and that of the processor times more.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import datetime
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rich.console import Console

from bench.demo.client import Client
from bench.demo.server import serving
from bench.montecarlo import CORES
from bench.processes import used_by
from engine.data.dataset import Data
from engine.plan import plan_training
from engine.run import TrainingRun, artifact_of, encode_rows
from engine.spec import TrainSpec

SMALL: dict[str, Any] = {
    "network": {"layers": [None, 50, None]},
    "hidden_dropout": 0.1,
    "epochs": 5,
}
LARGE: dict[str, Any] = {
    "network": {"layers": [None, 256, 256, None]},
    "hidden_dropout": 0.1,
    "batch_size": 128,
}
ROWS = (20_000, 90)
"""Of the large job, and their inputs."""
NICENESS = 10
"""A worker's."""
SERVER = {"worker": "worker_process", "HTTP": "http_process", "supervisor": "service.cli"}
"""The processes of a server, and what tells them."""


def arrays(rows: int, inputs: int) -> dict[str, Any]:
    """Make up rows whose targets can be learnt."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((rows, inputs)).astype(np.float32)
    return {"x": x, "y": np.tanh(x[:, :1]) + 0.1 * generator.standard_normal((rows, 1))}


def stored(client: Client, given: dict[str, Any]) -> str:
    """Upload arrays."""
    content = io.BytesIO()
    np.savez(content, **given)
    return str(client.upload(content.getvalue(), "application/x-npz", name="rows")["id"])


def seconds_between(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def first_epoch(client: Client, dataset: str) -> float:
    """Return the seconds from the request until its first epoch has ended."""
    job = client.post("/train", {"dataset": dataset, **SMALL})
    for event in client.events(job["id"]):
        if event["type"] == "epoch":
            return seconds_between(job["created_at"], event["at"])
    raise SystemExit("the job ended without an epoch")


def whole_job(client: Client, dataset: str, epochs: int) -> float:
    """Return the seconds from a job's claim to its end; its events are followed meanwhile."""
    job = client.post("/train", {"dataset": dataset, **LARGE, "epochs": epochs})
    for _ in client.events(job["id"]):
        pass
    job = client.get(f"/jobs/{job['id']}")
    return seconds_between(job["started_at"], job["finished_at"])


def like_a_worker() -> None:
    """Be as nice as a worker is, so that other programs take as much from both."""
    os.nice(NICENESS)
    torch.set_num_threads(1)


def engine_alone(rows: int, inputs: int, epochs: int) -> tuple[float, float]:
    """Return the seconds of the same run, from its arrays to its artifact, and of processors."""
    given = arrays(rows, inputs)
    begun, used = time.perf_counter(), time.process_time()
    data = Data(arrays=given)
    plan = plan_training(TrainSpec.model_validate(LARGE | {"epochs": epochs}), data)
    run = TrainingRun(plan, encode_rows(plan, data, None, torch.device("cpu")), threads=CORES)
    for _ in run.staged:
        pass
    for _ in run.evaluate():
        pass
    artifact_of(plan, run.outcome(), version="0")
    return time.perf_counter() - begun, time.process_time() - used


def used_by_server() -> dict[str, float]:
    """Return the processor seconds that each kind of the server's processes has used so far."""
    return {kind: used_by(part) for kind, part in SERVER.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description="What a job costs beside its training")
    parser.add_argument("--epochs", type=int, default=60, help="of the long job")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    console = Console(highlight=False)
    with (
        ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=like_a_worker
        ) as process,
        serving() as url,
        closing(Client(url)) as client,
    ):
        small = stored(client, arrays(506, 13))
        first_epoch(client, small)
        firsts = [first_epoch(client, small) for _ in range(10)]
        dataset = stored(client, arrays(*ROWS))
        process.submit(engine_alone, *ROWS, 2).result()
        rounds = []
        for _ in range(given.rounds):
            alone = process.submit(engine_alone, *ROWS, given.epochs).result()
            before = used_by_server()
            job = whole_job(client, dataset, given.epochs)
            used = {kind: used - before[kind] for kind, used in used_by_server().items()}
            rounds.append((job, alone, used))
            seconds = ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in used.items())
            console.print(
                f"job {job:.2f} s, engine alone {alone[0]:.2f} s; "
                f"of processors: engine alone {alone[1]:.2f}, {seconds}"
            )
    console.print(f"{CORES} cores, load {os.getloadavg()[0]:.2f}, {given.rounds} rounds")
    console.print(f"accepted to the end of the first epoch: {statistics.median(firsts):.3f} s")
    job = statistics.median(job for job, _, _ in rounds)
    engine = statistics.median(alone for _, (alone, _), _ in rounds)
    more = sorted(job / alone - 1 for job, (alone, _), _ in rounds)
    console.print(
        f"whole job {job:.2f} s, the engine alone {engine:.2f} s: {statistics.median(more):+.1%} "
        f"({more[0]:+.1%} to {more[-1]:+.1%})"
    )
    engine = statistics.median(alone for _, (_, alone), _ in rounds)
    parts = {kind: statistics.median(used[kind] for *_, used in rounds) for kind in SERVER}
    more = sorted(sum(used.values()) / alone - 1 for _, (_, alone), used in rounds)
    console.print(
        f"processor seconds: the engine alone {engine:.2f}, "
        + ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in parts.items())
        + f": {statistics.median(more):+.1%} ({more[0]:+.1%} to {more[-1]:+.1%})"
    )


if __name__ == "__main__":
    main()
