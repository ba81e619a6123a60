"""The process of one worker: warm before its first claim, and telling its supervisor that it lives.

A copy of the fork server.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from service import tasks
from service.errors import ServiceError
from service.observe.logs import configure_logs
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.datasets import Datasets
from service.store.jobs import Jobs
from service.store.models import Models
from service.worker import Worker

IDLE_S = (0.01, 0.05)
"""How long an idle worker waits before it looks again, at first and at most."""
_LOOK_S = 1.0
"""After so long an idle worker looks even if nothing has changed: leases run out by themselves."""
_SIGN_S = 0.25
"""How often the supervisor is told at most: each sign wakes it, on a core that a job could use."""
_OOM_SCORE = "500"
_NICENESS = 10
"""Predictions go before jobs: somebody waits for each of them, and a job uses what is left."""


def _now() -> datetime:
    return datetime.now(UTC)


def serve(pipe: int, *, name: str) -> None:
    """Work until told to stop, with signs of life in `pipe`: ``w`` once it is warm."""
    settings = Settings()
    configure_logs(settings.log_level, process=name)
    os.set_blocking(pipe, False)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    tasks.warm()
    _go_first()
    os.nice(_NICENESS)  # not before: a busy machine would keep it from ever getting ready
    signs = _Signs(pipe)
    database = Database(settings.database_url)
    blobs = Blobs(settings.artifacts_path, settings.room())
    worker = Worker(
        name,
        jobs=Jobs(
            database,
            _now,
            lease_s=settings.lease_s,
            max_failures=settings.max_attempts,
            quotas=settings.quotas,
        ),
        datasets=Datasets(database, _now, blobs),
        models=Models(database, _now),
        blobs=blobs,
        tasks=tasks.TASKS,
        should_stop=stop.is_set,
        tick=signs.alive,
        pause=stop.wait,
        max_job_bytes=settings.max_job_bytes,
        max_scratch_bytes=settings.max_scratch_bytes,
        threads=max(1, (os.cpu_count() or 1) // max(1, settings.workers)),
    )
    signs.warm()
    idle_s = IDLE_S[0]
    news = _News(database)
    while not stop.is_set():
        if news.there_may_be() and worker.work_once():
            idle_s = IDLE_S[0]
            news.forget()
        else:
            stop.wait(idle_s)
            idle_s = min(idle_s * 1.2, IDLE_S[1])
        signs.alive()
    database.close()


class _News:
    """Whether an idle worker has to look: it takes 2 ms, and that nothing has changed 10 us."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.forget()

    def forget(self) -> None:
        """Have the next look be one."""
        self._seen: int | None = None
        self._looked_at = float("-inf")

    def there_may_be(self) -> bool:
        """Whether anything has changed since this was last so, or it is a while ago."""
        now = time.monotonic()
        try:
            version = self._database.version()
        except ServiceError:  # the look meets it, too, and knows what to do
            version = None
        if version is not None and version == self._seen and now - self._looked_at < _LOOK_S:
            return False
        self._seen, self._looked_at = version, now
        return True


class _Signs:
    """What the supervisor hears of this process; a pipe that is full tells it enough."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._told_at = time.monotonic()

    def warm(self) -> None:
        """Say that jobs can be run."""
        self._tell(b"w")

    def alive(self) -> None:
        """Give a sign of life, unless there was one just now."""
        if time.monotonic() - self._told_at >= _SIGN_S:
            self._tell(b".")

    def _tell(self, sign: bytes) -> None:
        self._told_at = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe, sign)


def _go_first() -> None:
    """Have the kernel, where memory runs out, end this process and not the one that answers."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
