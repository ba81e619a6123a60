"""A server that is killed and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

__all__ = ["ROLES", "Server", "await_ready", "serving"]

ROLES = ("worker", "parser", "http", "supervisor", "fork_server")
STOP_S = 60.0


class Server:
    """A server on a folder and a port of its own, started again whenever it is gone."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.oddities: list[str] = []
        """What it did that no kill explains."""
        self._log = (folder / "log").open("ab")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._killed: set[str] = set()
        """Roles of what was killed in this life of the server."""
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        self._killed.clear()
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port)]
        command += ["--data", str(self.data), "--workers", "2"]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=self._log)

    def keep(self) -> None:
        """Start the server again if it is gone, as Docker would."""
        code = self.process.poll()
        if code is None:
            return
        if "supervisor" not in self._killed:
            self.oddities.append(f"the server ended by itself with code {code}")
        self.process = self._started()

    def pids(self, role: str) -> list[int]:
        """Return the server's processes of a role."""
        if role == "supervisor":
            return [self.process.pid]
        if role == "parser":
            return [pid for http in self.pids("http") for pid in _children(http, "parser_process")]
        return _children(self.process.pid, f"{role}_process")

    def kill(self, role: str, chance: random.Random) -> bool:
        """Kill a process of the role, if there is one; after a supervisor all others are gone."""
        pids = self.pids(role)
        if not pids or self.process.poll() is not None:
            return False
        try:
            os.kill(chance.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        self._killed.add(role)
        if role == "supervisor":
            self.process.wait(STOP_S)
        return True

    def stop(self) -> None:
        """End the server as an operator does."""
        self.process.terminate()
        code = self.process.wait(STOP_S)
        if code != 0:
            self.oddities.append(f"SIGTERM ended the server with code {code}")

    def start(self) -> None:
        """Start it after `stop`."""
        self.process = self._started()

    def close(self) -> None:
        """Leave nothing that runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._log.close()


def _children(parent: int, word: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == parent and word in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
    return found


@contextlib.contextmanager
def serving(log: Path | None) -> Iterator[Server]:
    """Give a server in a temporary folder; its log is kept where `log` says."""
    with tempfile.TemporaryDirectory(prefix="bernoulli-chaos-") as folder:
        server = Server(Path(folder))
        try:
            yield server
        finally:
            server.close()
            if log is not None:
                log.write_bytes((Path(folder) / "log").read_bytes())


def await_ready(http: httpx.Client, timeout_s: float = 300.0) -> None:
    """Return when the server is ready; raises TimeoutError."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if http.get("/health/ready").status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError("the server does not get ready")
