"""What a job costs beside its training: ``python -m bench.job``.

How long it takes from a request that is accepted to the end of the first epoch, on a warm worker;
and how long a whole job takes, from its first claim to its end, against the same run by the engine
alone, in a process as nice as a worker that takes turns with it, each going first as often as the
other. Where other programs run beside, their ratio says little, and that of the processor times
more. Pairs during which a hypervisor took more than 1 % of the time are told, but do not count.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rich.console import Console

from bench.demo.client import Client
from bench.demo.server import serving
from bench.processes import CORES, stolen, used_by
from engine.data.dataset import Data
from engine.plan import plan_training
from engine.run import TrainingRun, artifact_of, encode_rows
from engine.spec import TrainSpec


@dataclass(frozen=True)
class Kind:
    """A kind of job."""

    rows: int
    inputs: int
    epochs: int
    """As many as take some seconds."""
    spec: dict[str, Any]


KINDS = {
    "small": Kind(506, 13, 4000, {"network": {"layers": [None, 50, None]}}),
    "large": Kind(
        20_000, 90, 40, {"network": {"layers": [None, 256, 256, None]}, "batch_size": 128}
    ),
}
DROPOUT = {"hidden_dropout": 0.1}
NICENESS = 10
"""A worker's."""
_MOST_STOLEN = 0.01
_MOST_TRIES = 3
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
    """Return the seconds from a small request until its first epoch has ended."""
    job = client.post("/train", {"dataset": dataset, **asked(KINDS["small"], 5)})
    for event in client.events(job["id"]):
        if event["type"] == "epoch":
            return seconds_between(job["created_at"], event["at"])
    raise SystemExit("the job ended without an epoch")


def asked(kind: Kind, epochs: int) -> dict[str, Any]:
    return {**kind.spec, **DROPOUT, "epochs": epochs}


def whole_job(client: Client, dataset: str, kind: Kind) -> float:
    """Return the seconds from a job's claim to its end; its events are followed meanwhile."""
    job = client.post("/train", {"dataset": dataset, **asked(kind, kind.epochs)})
    for _ in client.events(job["id"]):
        pass
    job = client.get(f"/jobs/{job['id']}")
    return seconds_between(job["started_at"], job["finished_at"])


def like_a_worker() -> None:
    """Be as nice as a worker is, so that other programs take as much from both."""
    os.nice(NICENESS)
    torch.set_num_threads(1)


def engine_alone(kind: Kind, epochs: int) -> tuple[float, float]:
    """Return the seconds of the same run, from its arrays to its artifact, and of processors."""
    given = arrays(kind.rows, kind.inputs)
    begun, used = time.perf_counter(), time.process_time()
    data = Data(arrays=given)
    plan = plan_training(TrainSpec.model_validate(asked(kind, epochs)), data)
    run = TrainingRun(plan, encode_rows(plan, data, None, torch.device("cpu")), threads=CORES)
    for _ in run.staged:
        pass
    for _ in run.evaluate():
        pass
    artifact_of(plan, run.outcome(), version="0")
    return time.perf_counter() - begun, time.process_time() - used


@dataclass(frozen=True)
class Pair:
    """A job and the same run by the engine alone, one right after the other."""

    job: float
    """Seconds."""
    used: dict[str, float]
    """Seconds of processors, by the server's processes."""
    alone: float
    alone_used: float
    stolen: float
    """The share of the time that a hypervisor took."""


def measured(
    client: Client, process: Executor, dataset: str, kind: Kind, *, is_job_first: bool
) -> Pair:
    """Measure both."""
    begun, stolen_before = time.perf_counter(), stolen()

    def by_engine() -> tuple[float, float]:
        return process.submit(engine_alone, kind, kind.epochs).result()

    alone = None if is_job_first else by_engine()
    before = used_by_server()
    job = whole_job(client, dataset, kind)
    used = {process: used - before[process] for process, used in used_by_server().items()}
    seconds, alone_used = alone or by_engine()
    lost = (stolen() - stolen_before) / (CORES * (time.perf_counter() - begun))
    return Pair(job, used, seconds, alone_used, lost)


def used_by_server() -> dict[str, float]:
    """Return the processor seconds that each kind of the server's processes has used so far."""
    return {kind: used_by(part) for kind, part in SERVER.items()}


def compare(
    console: Console, client: Client, process: Executor, kind: Kind, rounds: int
) -> list[Pair]:
    """Measure so many pairs that count, or as many as a disturbed machine gives."""
    dataset = stored(client, arrays(kind.rows, kind.inputs))
    process.submit(engine_alone, kind, 2).result()
    pairs: list[Pair] = []
    for number in range(_MOST_TRIES * rounds):
        pair = measured(client, process, dataset, kind, is_job_first=number % 2 == 1)
        seconds = ", ".join(f"{name} {seconds:.2f}" for name, seconds in pair.used.items())
        console.print(
            f"job {pair.job:.2f} s, engine alone {pair.alone:.2f} s, {pair.stolen:.1%} stolen; "
            f"of processors: engine alone {pair.alone_used:.2f}, {seconds}"
        )
        pairs += [pair] if pair.stolen <= _MOST_STOLEN else []
        if len(pairs) == rounds:
            break
    return pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description="What a job costs beside its training")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
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
        small = stored(client, arrays(KINDS["small"].rows, KINDS["small"].inputs))
        first_epoch(client, small)
        firsts = [first_epoch(client, small) for _ in range(10)]
        console.print(f"accepted to the end of the first epoch: {statistics.median(firsts):.3f} s")
        for name in given.kinds:
            kind = KINDS[name]
            console.print(f"{name}: {kind.rows} x {kind.inputs}, {kind.epochs} epochs")
            summarise(console, compare(console, client, process, kind, given.rounds))


def summarise(console: Console, pairs: Sequence[Pair]) -> None:
    """Print what the pairs came to."""
    console.print(f"{CORES} cores, load {os.getloadavg()[0]:.2f}, {len(pairs)} rounds count")
    told(console, "whole job", [pair.job for pair in pairs], [pair.alone for pair in pairs])
    for name in SERVER:
        used = statistics.median(pair.used[name] for pair in pairs)
        console.print(f"  processor seconds of the {name}: {used:.2f}")
    used_by_jobs = [sum(pair.used.values()) for pair in pairs]
    told(console, "processor seconds", used_by_jobs, [pair.alone_used for pair in pairs])


def told(console: Console, what: str, jobs: Sequence[float], alone: Sequence[float]) -> None:
    """Print the medians, and the mean of the ratios with its standard error."""
    ratios = np.log(np.array(jobs) / np.array(alone))
    error = ratios.std(ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else np.nan
    console.print(
        f"{what} {statistics.median(jobs):.2f}, the engine alone {statistics.median(alone):.2f}: "
        f"{np.expm1(np.median(ratios)):+.1%} (median), "
        f"{np.expm1(ratios.mean()):+.1%} ± {error:.1%} (mean)"
    )


if __name__ == "__main__":
    main()
