"""The process that answers HTTP, on a socket that its supervisor has bound.

A copy of the fork server.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.app import create_app
from service.executors.connections import ConnectionLimits, guarded
from service.observe.logs import configure_logs
from service.observe.traces import SERVICE_NAME
from service.settings import Settings
from service.shutdown import Shutdown
from service.store.blobs import Blobs

_COLLECT_AFTER = 20_000  # objects made and not freed
_OTHER_FILES = 256
"""Descriptors of the database, stored files, the parsers, and the listening sockets."""
_ACCEPTED_AT_ONCE = 32
"""Connections. The loop accepts one a round from each socket it listens on, and a round of a busy
server is as long as all its requests: 64 callers who come together waited for 0.7 s."""


class _Server(uvicorn.Server):
    """Uvicorn, telling the supervisor when it answers, and its streams when it is to stop."""

    def __init__(self, config: uvicorn.Config, *, pipe: int, shutdown: Shutdown) -> None:
        super().__init__(config)
        self._pipe = pipe
        self._shutdown = shutdown

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            # What libraries have made by now stays; the collector need not go through a million
            # objects again and again while requests wait.
            gc.freeze()
            gc.set_threshold(_COLLECT_AFTER)
            os.write(self._pipe, b"w")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM, and end with exit code 0 after it rather than by the signal."""

        def stop(number: int, _frame: object) -> None:
            self._shutdown.begin()
            self.handle_exit(number, None)

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _connections(wanted: int) -> int:
    """Return how many connections there may be, of those wanted, so that files can be opened yet.

    The limit of this process is raised as far as it may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_FILES))


def serve(pipe: int, listener: int) -> None:
    """Answer at this socket until told to stop, with one sign in `pipe` once it does."""
    settings = Settings()
    configure_logs(settings.log_level, process="http")
    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE_NAME)
    shutdown = Shutdown()
    limits = ConnectionLimits(
        max_connections=_connections(settings.max_connections),
        head_s=settings.head_s,
        unread_s=settings.unread_s,
    )
    # Files of forms are large, and where a container's root is read-only, /tmp is its memory.
    tempfile.tempdir = str(Blobs(settings.artifacts_path, settings.room()).scratch)
    config = uvicorn.Config(
        create_app(settings, shutdown=shutdown),
        http=guarded(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing asks who a caller is, or by which scheme it came
        timeout_graceful_shutdown=max(1, int(settings.shutdown_s) - 2),
        timeout_keep_alive=30,
    )
    server = _Server(config, pipe=pipe, shutdown=shutdown)
    listening = socket.socket(fileno=listener)
    server.run(sockets=[listening, *(listening.dup() for _ in range(_ACCEPTED_AT_ONCE - 1))])
