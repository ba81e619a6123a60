"""Many clients at once, every answer compared with its lone twin: ``python -m bench.soak``.

A server of its own answers requests for networks of several forms, sizes, seeds, rows and passes.
Each request is first asked alone; then 200 clients ask them in any order, for a minute. Only 503
with `Retry-After` may come instead of the very bytes of the lone answer, and the server's memory
has to stay where it was after the first half.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import safetensors.numpy
from rich.console import Console

from bench.demo.server import serving
from engine.graph import build_graph
from engine.initializers import initial_parameters
from engine.spec import NetworkSpec

NETWORKS: tuple[dict[str, Any], ...] = (
    {"form": "regressor", "layers": [13, 50, 1]},
    {"form": "regressor", "layers": [20, {"size": 200, "activation": "tanh"}, 100, 3]},
    {"form": "classifier", "layers": [16, 64, 64, 5]},
    {"form": "autoencoder", "layers": [12, 4, 12]},
    {"form": "regressor", "layers": [{"shape": [5, 3]}, {"form": "lstm", "size": 8}, "last", 1]},
)
ROWS = (1, 1, 1, 3, 40, 300)
PASSES = (None, 10, 100, 100, 1000)
VARIANTS = 150


@dataclass
class Seen:
    """What all clients saw together."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    """Answers that are not their lone twin's bytes."""
    impatient: int = 0
    """503 without `Retry-After`."""
    times: list[float] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures; exit with 1 where one is not as it has to be."""
    parser = argparse.ArgumentParser(description="Many clients, each answer as if alone")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=120)
    with serving() as url:
        requests = _requests(url, random.Random(given.seed))
        answers = [_alone(url, request) for request in requests]
        pairs = list(zip(requests, answers, strict=True))
        pid = _http_process(url)
        _soak(url, pairs, given.clients, given.seconds / 2, given.seed)
        before = _memory(pid)
        seen = _soak(url, pairs, given.clients, given.seconds / 2, given.seed + 1)
        after = _memory(pid)
    times = sorted(seen.times)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(seen.statuses.items()))
    console.print(f"{given.clients} clients, the second half of {given.seconds:g} s: {statuses}")
    console.print(f"answers unlike their lone twin: {seen.wrong}")
    console.print(f"503 without Retry-After: {seen.impatient}")
    p50, p99 = statistics.median(times), times[int(len(times) * 0.99)]
    console.print(f"p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms")
    for name in before:
        console.print(f"{name} after the first half {before[name]} MB, at the end {after[name]} MB")
    grown = after["VmHWM"] - before["VmHWM"]
    failed = seen.wrong or seen.impatient or set(seen.statuses) - {200, 503} or grown > 50
    raise SystemExit(1 if failed else 0)


def _requests(url: str, chance: random.Random) -> list[bytes]:
    models = [(_imported(url, network), _width(network)) for network in NETWORKS]
    generator = np.random.default_rng(chance.randrange(2**32))
    requests = []
    for _ in range(VARIANTS):
        model, shape = chance.choice(models)
        rows = generator.standard_normal((chance.choice(ROWS), *shape)).round(3).tolist()
        body: dict[str, Any] = {"model": model, "inputs": rows, "seed": chance.randrange(2**53)}
        passes = chance.choice(PASSES)
        if passes is not None:
            body |= {"num_samples": passes, "masks": chance.choice(("independent", "shared"))}
            body |= {"hidden_dropout": chance.choice((0.05, 0.5)), "input_dropout": 0.1}
        requests.append(orjson.dumps(body))
    return requests


def _width(network: dict[str, Any]) -> tuple[int, ...]:
    first = network["layers"][0]
    return tuple(first["shape"]) if isinstance(first, dict) else (first,)


def _imported(url: str, network: dict[str, Any]) -> str:
    layers = [{"form": "last"} if layer == "last" else layer for layer in network["layers"]]
    spec = {**network, "layers": layers}
    graph = build_graph(
        NetworkSpec.model_validate(spec),
        form=network["form"],
        input_shapes=None,
        output_shape=None,
    )
    weights = safetensors.numpy.save(initial_parameters(graph, seed=1))
    files = {"spec": ("spec", orjson.dumps({"network": spec})), "weights": ("weights", weights)}
    return str(httpx.post(f"{url}/models", files=files).raise_for_status().json()["id"])


def _alone(url: str, request: bytes) -> bytes:
    return httpx.post(f"{url}/predict", content=request, headers=_JSON, timeout=60).content


_JSON = {"Content-Type": "application/json"}


def _soak(
    url: str, pairs: list[tuple[bytes, bytes]], clients: int, seconds: float, seed: int
) -> Seen:
    seen = Seen()

    async def client(chance: random.Random, http: httpx.AsyncClient, end: float) -> None:
        while time.perf_counter() < end:
            request, expected = chance.choice(pairs)
            started = time.perf_counter()
            answer = await http.post("/predict", content=request, headers=_JSON)
            seen.times.append(time.perf_counter() - started)
            seen.statuses[answer.status_code] += 1
            if answer.status_code == 503:
                after = answer.headers.get("retry-after")
                seen.impatient += after is None
                await asyncio.sleep(float(after or 1) * chance.random())
            elif answer.content != expected:
                seen.wrong += 1

    async def run() -> None:
        end = time.perf_counter() + seconds
        limits = httpx.Limits(max_connections=clients)
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
            chances = [random.Random(seed * 1000 + index) for index in range(clients)]
            await asyncio.gather(*(client(chance, http, end) for chance in chances))

    asyncio.run(run())
    return seen


def _http_process(url: str) -> int:
    """Return the process that listens where the server does."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = (line.split() for line in lines)
    inodes = {f"socket:[{f[9]}]" for f in listening if f[1].endswith(f":{port}") and f[3] == "0A"}
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    holders = [int(path.name) for path in processes if _holds(path, inodes)]
    return max(holders, key=lambda pid: _memory(pid)["VmHWM"])


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(file) in inodes for file in (process / "fd").iterdir())
    except OSError:
        return False


def _memory(pid: int) -> dict[str, int]:
    """Return the most memory a process has had, and what it has, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) // 1024 for name in ("VmHWM", "VmRSS")}


if __name__ == "__main__":
    main()
