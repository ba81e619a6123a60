"""Parsing uploads in processes of their own: a hostile file can end no more than one of these.

The libraries that read Parquet, Arrow and the rest are large and written in C++. What a crafted
file does to them, it does to a process that holds nothing: its crash is the file's refusal.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

from engine.data.delimited import Dialect
from engine.errors import DataError
from service.errors import StorageFull, Unavailable
from service.memory import oom_kills

__all__ = ["Parsed", "Parsers"]

logger = structlog.get_logger(__name__)

MAX_PROCESSES = 2
MAX_SECONDS = 600.0
_MOST_KILLS = 3
"""Of processes that parse one file, by whomever."""
_REFUSED = "the file cannot be read: it is damaged, or takes too much to unpack"


class _Killed(Exception):
    """A parser was killed, and perhaps not because of its file."""

    def __init__(self, *, for_memory: bool) -> None:
        self.for_memory = for_memory


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What became of an upload."""

    schema: dict[str, Any]
    """`engine.data.Schema` as JSON."""
    sha256: str
    """Hash of the stored content."""


class Parsers:
    """A few processes that parse, started when they are first needed and kept for the next file."""

    def __init__(self, oom_kills: Callable[[], int] = oom_kills) -> None:
        """`oom_kills` tells how many processes the system has ended so far for want of memory."""
        self._oom_kills = oom_kills
        self._turn = threading.BoundedSemaphore(MAX_PROCESSES)
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def parse(
        self, upload: Path, content: Path, media_type: str, dialect: Dialect | None = None
    ) -> Parsed:
        """Parse the file `upload` and write what is stored of it to `content`.

        `dialect` says how a CSV file is written.

        Raises DataError where the file cannot be read, StorageFull where there is no room, and
        Unavailable where somebody keeps killing the processes.
        """
        question = {
            "upload": str(upload),
            "content": str(content),
            "media_type": media_type,
            "dialect": None if dialect is None else asdict(dialect),
        }
        with self._turn:
            answer = self._answered_at_last(question)
        if "schema" in answer:
            return Parsed(schema=answer["schema"], sha256=answer["sha256"])
        if answer["kind"] == "storage":
            raise StorageFull("there is no room left to store the data set")
        raise DataError(answer["detail"], pointer=answer["pointer"])

    def _answered_at_last(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have one file parsed, by another process where one is killed.

        Once the system may do that because others take the memory; twice it is the file.
        """
        was_for_memory = False
        for _ in range(_MOST_KILLS):
            try:
                return self._answered(question)
            except _Killed as killed:
                if killed.for_memory and was_for_memory:
                    raise DataError(_REFUSED) from killed
                was_for_memory = killed.for_memory
        raise Unavailable(
            "the processes that read files have been killed; send this again", retry_after_s=5
        )

    def _answered(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have one file parsed; a process that dies of it, or takes too long, has refused it.

        Raises _Killed where it was not the file that ended the process.
        """
        process = self._take()
        kills = self._oom_kills()
        try:
            answer = _ask(process, question)
            if answer is None:
                raise _Killed(for_memory=self._oom_kills() > kills)
        except BaseException:
            _end(process)
            raise
        self._put_back(process)
        return answer

    def close(self) -> None:
        """End the processes; those at work end with their file."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping", retry_after_s=5)
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                _end(process)
        command = [sys.executable, "-m", "service.executors.parser_process"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _put_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        _end(process)


def _ask(process: subprocess.Popen[bytes], question: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Ask a process; None where it is killed, and DataError where it dies of the file otherwise."""
    assert process.stdin is not None
    assert process.stdout is not None
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        process.kill()

    watch = threading.Timer(MAX_SECONDS, end)
    watch.daemon = True
    watch.start()
    try:
        process.stdin.write(orjson.dumps(question) + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except BrokenPipeError:
        line = b""
    finally:
        watch.cancel()
    if not line.endswith(b"\n"):
        code = process.wait()
        logger.warning("parser died", media_type=question["media_type"], code=code)
        if code == -signal.SIGKILL and not is_late.is_set():
            return None
        raise DataError(_REFUSED)
    answer: Mapping[str, Any] = orjson.loads(line)
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what it did not read any more
                pipe.close()
