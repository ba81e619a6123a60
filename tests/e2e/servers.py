"""Real servers: `bernoulli serve` in a process of its own, and what a client does with it.

A server takes seconds to import PyTorch, so tests share one, or kill one and the same.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np

__all__ = [
    "Mortal",
    "Server",
    "Victim",
    "children_of",
    "csv_of",
    "npz_of",
    "serving",
    "wait_for",
]

_URL = re.compile(r"http://[\d.]+:\d+")

Victim = Literal["worker", "http", "server", "everything"]


class Server:
    """One running `bernoulli serve` and a client for it."""

    def __init__(
        self,
        data: Path,
        *,
        env: dict[str, str] | None = None,
        workers: int = 1,
        command: list[str] | None = None,
    ) -> None:
        """Start a server, by `command` if it is given, and wait until it is ready."""
        self.data = data
        if command is None:
            command = [sys.executable, "-m", "service.cli", "serve", "--port", "0"]
            command += ["--data", str(data), "--workers", str(workers)]
        self._log = (data.parent / f"{data.name}.log").open("ab")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = _URL.search(line)
        if found is None:
            self.process.wait(10)
            self.process.stdout.close()
            self._log.close()
            log = Path(self._log.name).read_text()[-2000:]
            raise RuntimeError(f"the server said {line!r} and exited: {log}")
        self.url = found.group()
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def children(self, *words: str) -> list[int]:
        """Return the pids of the server's child processes whose command holds all `words`."""
        return children_of(self.process.pid, *words)

    def processes(self) -> list[int]:
        """Return the pids of all the server's processes: its own, its children and theirs."""
        found = [self.process.pid]
        for pid in found:
            found += children_of(pid)
        return found

    def kill_child(self, role: Literal["worker", "http"]) -> None:
        """Kill the process of this role, and wait until there is another."""
        (pid,) = self.children(f"{role}_process")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: any(child != pid for child in self.children(f"{role}_process")))

    def kill(self) -> None:
        """Kill the server as hard as can be; all its processes end with it."""
        processes = self.processes()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        wait_for(lambda: not _alive(processes))
        self.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the server to stop; return its exit code. None of its processes is left."""
        processes = self.processes()
        self.process.send_signal(number)
        code = self.process.wait(40)
        wait_for(lambda: not _alive(processes))
        self.close()
        return code

    def close(self) -> None:
        """Let go of the client, the log and the pipe."""
        self.client.close()
        self._log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()

    # -- what a client does ------------------------------------------------------------------------

    def upload(self, content: bytes, media_type: str = "text/csv") -> str:
        answer = self.client.post(
            "/datasets", content=content, headers={"Content-Type": media_type}
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def train(self, **spec: Any) -> dict[str, Any]:
        answer = self.client.post("/train", json=spec)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def finished(self, job_id: str, timeout: float = 200) -> dict[str, Any]:
        """Wait for a job's end and return it."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                answer = self.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=5"})
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            job: dict[str, Any] = answer.json()
            if job["terminal"]:
                return job
        raise AssertionError(f"job {job_id} did not end in {timeout} s")

    def predict(self, **request: Any) -> dict[str, Any]:
        answer = self.client.post("/predict", json=request)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def weights(self, model_id: str) -> bytes:
        answer = self.client.get(f"/models/{model_id}/weights")
        assert answer.status_code == 200, answer.text
        return answer.content


class Mortal:
    """A data folder, and the server on it that tests kill, stop and start again."""

    def __init__(self, data: Path, **options: Any) -> None:
        self._data = data
        self._options = options
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The server that runs; one is started where none does."""
        if self._server is None or self._server.process.poll() is not None:
            self._server = Server(self._data, **self._options)
        return self._server

    def kill(self, victim: Victim) -> None:
        """Kill a process of the server, the server, or all its processes one by one."""
        if victim in ("worker", "http"):
            self.server.kill_child(victim)
            return
        if victim == "everything":
            for pid in self.server.children():
                os.kill(pid, signal.SIGKILL)
        self.server.kill()

    def calm_down(self) -> None:
        """Cancel what a test that failed has left to be done."""
        if self._server is None or self._server.process.poll() is not None:
            return
        for job in self._server.client.get("/jobs", params={"limit": 1000}).json()["data"]:
            if not job["terminal"]:
                self._server.client.post(f"/jobs/{job['id']}/cancel")

    def end(self) -> None:
        """Leave nothing behind."""
        if self._server is not None and self._server.process.poll() is None:
            self._server.kill()


def children_of(parent: int, *words: str) -> list[int]:
    """Return the pids of a process' children whose command holds all `words`."""
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if int(fields[1]) == parent and all(word in command for word in words):
            pids.append(int(entry.name))
    return pids


def _alive(pids: list[int]) -> list[int]:
    """Return which of the processes have not ended."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def wait_for(condition: Callable[[], Any], timeout: float = 200) -> None:
    """Wait until `condition()` holds; the time is for machines that are busy with other things."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.03)


@contextmanager
def serving(data: Path, **options: Any) -> Iterator[Server]:
    """Run a server for the length of a block; nothing of it is left afterwards."""
    server = Server(data, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
        server.close()


def csv_of(rows: int = 120, columns: int = 3, seed: int = 0) -> bytes:
    """Return a small regression table: x0, x1, …, y."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns))
    y = x.sum(axis=1) + np.sin(3 * x[:, 0]) + 0.1 * rng.standard_normal(rows)
    lines = [",".join([*(f"x{i}" for i in range(columns)), "y"])]
    lines += [",".join(f"{value:.6f}" for value in [*row, t]) for row, t in zip(x, y, strict=True)]
    return "\n".join(lines).encode()


def npz_of(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
