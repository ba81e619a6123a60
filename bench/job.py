"""What a job costs beside its training: ``python -m bench.job``.

How long it takes from a request that is accepted to the end of the first epoch, on a warm worker;
and how long a whole job takes, from its first claim to its end, against the same run by the engine
alone in this process, which takes turns with it.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import numpy as np
import torch
from rich.console import Console

from bench.demo.client import Client
from bench.demo.server import serving
from bench.montecarlo import CORES
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
    """Return the seconds from a job's claim to its end."""
    job = client.post("/train", {"dataset": dataset, **LARGE, "epochs": epochs})
    for _ in client.events(job["id"]):
        pass
    job = client.get(f"/jobs/{job['id']}")
    return seconds_between(job["started_at"], job["finished_at"])


def engine_alone(given: dict[str, Any], epochs: int) -> float:
    """Return the seconds of the same run, from its arrays to its artifact."""
    begun = time.perf_counter()
    data = Data(arrays=given)
    plan = plan_training(TrainSpec.model_validate(LARGE | {"epochs": epochs}), data)
    run = TrainingRun(plan, encode_rows(plan, data, None, torch.device("cpu")), threads=CORES)
    for _ in run.staged:
        pass
    for _ in run.evaluate():
        pass
    artifact_of(plan, run.outcome(), version="0")
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description="What a job costs beside its training")
    parser.add_argument("--epochs", type=int, default=60, help="of the long job")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(highlight=False)
    large = arrays(20_000, 90)
    with serving() as url, closing(Client(url)) as client:
        small = stored(client, arrays(506, 13))
        first_epoch(client, small)
        firsts = [first_epoch(client, small) for _ in range(10)]
        dataset = stored(client, large)
        jobs, alone = [], []
        for _ in range(given.rounds):
            alone.append(engine_alone(large, given.epochs))
            jobs.append(whole_job(client, dataset, given.epochs))
    console.print(f"{CORES} cores, load {os.getloadavg()[0]:.2f}")
    console.print(f"accepted to the end of the first epoch: {statistics.median(firsts):.3f} s")
    job, engine = statistics.median(jobs), statistics.median(alone)
    console.print(
        f"whole job {job:.2f} s, the engine alone {engine:.2f} s: {job / engine - 1:+.1%}"
    )


if __name__ == "__main__":
    main()
