"""Requests a second of `/predict` against an empty route: ``python -m bench.http``.

Both servers run on uvicorn with its defaults, one process each, and take turns under the same load
from wrk (Debian: ``apt-get install wrk``): the echo is a FastAPI route that reads a JSON body and
sends it back, ours answers for one row of a 13-50-1 network. With ``--training`` a job trains on
the same machine all the while.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import safetensors.numpy
from rich.console import Console
from rich.table import Table

from bench.demo.client import Client
from bench.demo.server import serving

CONNECTIONS = (1, 8, 64)
SIZES = (13, 50, 1)
DROPOUT = {"in:out": 0.05, "hid1:out": 0.05}
ECHO = """\
from typing import Any
from fastapi import FastAPI
app = FastAPI()
@app.post("/predict")
async def echo(body: dict[str, Any]) -> dict[str, Any]:
    return body
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw."""

    rate: float
    """Requests a second."""
    p50: float
    p99: float
    """Milliseconds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Requests a second of /predict")
    parser.add_argument("--seconds", type=int, default=5, help="of each run of wrk")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown")
    parser.add_argument("--training", action="store_true", help="with a job that trains beside")
    given = parser.parse_args(arguments)
    console = Console(highlight=False, width=120)
    if shutil.which("wrk") is None:
        console.print("wrk is not installed; on Debian: apt-get install wrk")
        sys.exit(1)
    with ExitStack() as stack:
        url = stack.enter_context(serving())
        client = stack.enter_context(closing(Client(url)))
        echo = stack.enter_context(_echoing())
        bodies = _bodies(_imported(url))
        targets = {"echo": (echo, bodies["one pass"])}
        targets |= {name: (url, body) for name, body in bodies.items()}
        idle = _measured(targets, given.seconds, given.rounds)
        console.print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}, {_version(url)}")
        console.print(_table("idle", idle))
        if given.training:
            with _training(client):
                busy = _measured(targets, given.seconds, given.rounds)
            console.print(_table("while a job trains", busy))
            for (name, count), load in busy.items():
                ratio = load.p99 / idle[name, count].p99
                console.print(f"{name}, {count} connections: p99 {ratio:.1f} times that of idle")


def _imported(url: str) -> str:
    """Import a network of random weights and return its id."""
    generator = np.random.default_rng(1)
    values: dict[str, Any] = {}
    for name, inputs, outputs in (("hid1", 13, 50), ("out", 50, 1)):
        weights = generator.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        values |= {f"{name}.w": weights.astype(np.float32)}
        values |= {f"{name}.b": np.zeros(outputs, dtype=np.float32)}
    spec = {"network": {"form": "regressor", "layers": list(SIZES)}}
    parts = {"spec": orjson.dumps(spec), "weights": safetensors.numpy.save(values)}
    files = {name: (name, content) for name, content in parts.items()}
    return str(httpx.post(f"{url}/models", files=files).raise_for_status().json()["id"])


def _bodies(model: str) -> dict[str, bytes]:
    row = np.random.default_rng(2).standard_normal(SIZES[0]).round(3).tolist()
    one: dict[str, Any] = {"model": model, "inputs": [row]}
    many = {**one, "dropout": DROPOUT, "num_samples": 100, "statistics": ["mean", "std"]}
    return {"one pass": orjson.dumps(one), "100 passes": orjson.dumps({**many, "seed": 7})}


def _version(url: str) -> str:
    capabilities = httpx.get(f"{url}/capabilities").json()
    return f"version {capabilities['version']}, kernels {capabilities['kernels']}"


@contextmanager
def _echoing() -> Iterator[str]:
    """Serve the empty route."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "echo_app.py").write_text(ECHO)
        command = [sys.executable, "-m", "uvicorn", "echo_app:app", "--app-dir", folder]
        options = ["--port", str(port), "--no-access-log", "--log-level", "warning"]
        process = subprocess.Popen([*command, *options])
        try:
            url = f"http://127.0.0.1:{port}"
            _await(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _await(url: str) -> None:
    for _ in range(200):
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing answers at {url}")


@contextmanager
def _training(client: Client) -> Iterator[None]:
    """Keep the server's worker at work."""
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((5000, SIZES[0]))
    lines = [",".join(f"{value:.4f}" for value in (*row, row.sum())) for row in rows]
    header = ",".join([f"x{i}" for i in range(SIZES[0])] + ["y"])
    content = "\n".join([header, *lines]).encode()
    dataset = client.upload(content, "text/csv", name="busy")["id"]
    request = {"dataset": dataset, "network": {"layers": [None, 50, None]}, "epochs": 100_000}
    job = client.post("/train", request)["id"]
    while client.get(f"/jobs/{job}")["status"] != "running":
        time.sleep(0.1)
    try:
        yield
    finally:
        client.post(f"/jobs/{job}/cancel", {})


def _measured(
    targets: dict[str, tuple[str, bytes]], seconds: int, rounds: int
) -> dict[tuple[str, int], Load]:
    """Return the medians of the rounds, in each of which all take their turn."""
    loads: dict[tuple[str, int], list[Load]] = {}
    for url, body in targets.values():
        _wrk(url, body, 1, 1)  # warm
    for _ in range(rounds):
        for count in CONNECTIONS:
            for name, (url, body) in targets.items():
                loads.setdefault((name, count), []).append(_wrk(url, body, count, seconds))
    return {
        key: Load(*(statistics.median(getattr(load, name) for load in seen) for name in _SEEN))
        for key, seen in loads.items()
    }


_SEEN = ("rate", "p50", "p99")


def _wrk(url: str, body: bytes, connections: int, seconds: int) -> Load:
    script = (
        f"wrk.method = 'POST'\nwrk.body = [==[{body.decode()}]==]\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name]
        run = subprocess.run([*command, f"{url}/predict"], capture_output=True, text=True)
    text = run.stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", text)
    if run.returncode or failed:
        raise RuntimeError(f"wrk saw errors: {failed and failed.group(0)} {run.stderr}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found is not None
    return Load(rate=float(found[1]), p50=_milliseconds(text, 50), p99=_milliseconds(text, 99))


def _milliseconds(text: str, percent: int) -> float:
    found = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s)", text)
    assert found is not None
    return float(found[1]) * _UNITS[found[2]]


def _table(title: str, loads: dict[tuple[str, int], Load]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("request", "connections", "requests/s", "of the echo", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading == "request" else "right")
    for (name, count), load in loads.items():
        share = load.rate / loads["echo", count].rate
        numbers = (f"{load.rate:.0f}", f"{share:.2f}x", f"{load.p50:.2f}", f"{load.p99:.2f}")
        table.add_row(name, str(count), *numbers)
    return table


if __name__ == "__main__":
    main()
