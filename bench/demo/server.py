"""A server of the demo's own, on a free port and a temporary folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["serving"]

_URL = re.compile(r"http://\S+")
_STOP_S = 30.0


@contextmanager
def serving(data: Path | None = None, **settings: object) -> Iterator[str]:
    """Run `bernoulli serve` while the body runs and yield its URL; nothing of it is left.

    But for the folder `data`, where one is given. `settings` are those of the server, by name. A
    SIGTERM ends the body, and so the server, as an interrupt does.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    variables = {f"BERNOULLI_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="bernoulli-demo-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1"]
        command += ["--port", "0", "--data", str(data or Path(folder) / "data")]
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **variables},
            )
        with process:
            try:
                yield _url(process, log)
            finally:
                _stop(process)


def _url(process: subprocess.Popen[str], log: Path) -> str:
    """Wait for the one line that a server prints when it is ready."""
    assert process.stdout is not None
    found = _URL.search(process.stdout.readline())
    if found is None:
        process.wait(_STOP_S)
        raise SystemExit(f"the server did not start:\n{log.read_text()[-2000:]}")
    return found.group()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
