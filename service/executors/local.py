"""The supervisor of one server: its HTTP process and its workers, and nothing after it.

Its children are copies of a process that has loaded everything (`fork_server`). Signals are
recorded by their handler and dealt with in the loop. A child that dies is replaced; its job goes
back to the queue at once. Leases are renewed here, and only for workers that are alive and have
lately given a sign of it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import structlog

from service import health
from service.errors import ServiceError
from service.executors.fork_server import Adopted, ForkServer, adopt_orphans, bury_orphans
from service.memory import oom_kills
from service.settings import Settings
from service.store.jobs import Jobs

__all__ = ["StartFailed", "Supervisor"]

logger = structlog.get_logger(__name__)

_BACKOFF_S = (0.05, 5.0)
_STABLE_S = 10.0
_CRASHES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)
_COMPLAIN_S = 10.0
_MOST_FAILED_STARTS = 5
_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # A library that asks for devices while it is loaded shall not open one: copies could not.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}


class StartFailed(Exception):
    """A child ended before the server was ready for the first time."""


@dataclass
class _Child:
    """One process, and the reading end of its pipe."""

    role: Literal["http", "worker"]
    name: str
    process: Adopted
    pipe: int
    started: float
    heard: float
    oom_kills: int
    """Processes that the kernel had killed for memory when it started."""
    is_warm: bool = False
    hung: bool = False


@dataclass
class _Place:
    """Somewhere a child is meant to be."""

    role: Literal["http", "worker"]
    child: _Child | None = None
    backoff_s: float = _BACKOFF_S[0]
    not_before: float = field(default=0.0)


class Supervisor:
    """Keeps one HTTP process and `settings.workers` workers running until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        jobs: Jobs,
        *,
        on_ready: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._jobs = jobs
        self._on_ready = on_ready
        self._places = [_Place("http"), *(_Place("worker") for _ in range(settings.workers))]
        self._selector = selectors.DefaultSelector()
        self._fork_server: ForkServer | None = None
        self._fork_server_not_before = 0.0
        self._was_ready = False
        self._should_stop = False
        self._published: int | None = None
        self._renewed = time.monotonic()
        self._complained = float("-inf")
        self._failed_starts = 0

    def run(self) -> None:
        """Supervise until a signal asks to stop; raises StartFailed if the server never starts."""
        reader, writer = os.pipe()
        for end in (reader, writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._record_stop)
        self._selector.register(reader, selectors.EVENT_READ)
        adopt_orphans()
        try:
            while not self._should_stop:
                self._keep_fork_server()
                self._start_missing()
                self._listen(timeout=0.1)
                self._bury_dead()
                self._kill_hung()
                self._renew_leases()
                self._tell_readiness()
        finally:
            self._stop_children()
            if self._fork_server is not None:
                self._fork_server.end()
            signal.set_wakeup_fd(-1)
            self._selector.close()
            os.close(reader)
            os.close(writer)

    def _record_stop(self, _number: int, _frame: object) -> None:
        self._should_stop = True

    # -- children ----------------------------------------------------------------------------------

    def _children(self) -> list[_Child]:
        return [place.child for place in self._places if place.child is not None]

    def _keep_fork_server(self) -> None:
        """Start the fork server if there is none; hear whether it is ready or has ended."""
        now = time.monotonic()
        if self._fork_server is None:
            if now < self._fork_server_not_before:
                return
            self._fork_server_not_before = now + _BACKOFF_S[1]
            with self._enduring():
                environment = {**os.environ, **self._settings.environment(), **_VARIABLES}
                self._fork_server = ForkServer(environment)
                logger.info("fork server started", pid=self._fork_server.pid)
        elif self._fork_server.has_news() and not self._fork_server.hear():
            self._require_start("fork server", self._end_fork_server())

    def _end_fork_server(self) -> int:
        """Let go of a fork server that is of no more use; its copies go on without it."""
        assert self._fork_server is not None
        code = self._fork_server.end()
        self._fork_server = None
        logger.warning("fork server ended", code=code)
        return code

    def _require_start(self, what: str, code: int) -> None:
        """Give up where a server that never was ready will not be: unless somebody has killed it.

        Something that kills it each time does so no more than so often.
        """
        if self._was_ready:
            return
        self._failed_starts += 1
        if code != -signal.SIGKILL or self._failed_starts >= _MOST_FAILED_STARTS:
            raise StartFailed(f"the {what} ended with code {code} before it was ready")

    def _start_missing(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if self._fork_server is None or not self._fork_server.is_ready:
                return
            if place.child is None and now >= place.not_before:
                place.not_before = now + _BACKOFF_S[1]  # should the machine have no room for it now
                with self._enduring():
                    place.child = self._start(place.role, self._fork_server)

    def _start(self, role: Literal["http", "worker"], fork_server: ForkServer) -> _Child:
        reader, writer = os.pipe()
        name = "http" if role == "http" else f"worker_{secrets.token_hex(8)}"
        try:
            if role == "http":
                process = fork_server.fork(role, {}, [writer, self._listener.fileno()])
            else:
                process = fork_server.fork(role, {"name": name}, [writer])
        except OSError:
            os.close(reader)  # should there be a process after all, it ends when it says it is warm
            self._end_fork_server()
            raise
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        now = time.monotonic()
        child = _Child(role, name, process, reader, started=now, heard=now, oom_kills=oom_kills())
        self._selector.register(reader, selectors.EVENT_READ, child)
        logger.info("process started", role=role, name=name, pid=process.pid)
        return child

    def _listen(self, timeout: float) -> None:
        """Wait for signs of life, ends of processes and signals."""
        for key, _ in self._selector.select(timeout):
            child = key.data
            try:
                signs = os.read(key.fd, 65536)
            except BlockingIOError:
                continue
            if child is None:
                continue
            if not signs:  # its end of the pipe is closed: it is dying
                self._selector.unregister(key.fd)
                continue
            child.heard = time.monotonic()
            child.is_warm = child.is_warm or b"w" in signs

    def _bury_dead(self) -> None:
        known = [child.process.pid for child in self._children()]
        bury_orphans(known if self._fork_server is None else [*known, self._fork_server.pid])
        for place in self._places:
            child = place.child
            code = None if child is None else child.process.poll()
            if child is None or code is None:
                continue
            self._forget(child)
            place.child = None
            logger.warning("process ended", role=child.role, name=child.name, code=code)
            if child.role == "http":
                self._require_start("HTTP process", code)
            now = time.monotonic()
            if now - child.started >= _STABLE_S:
                place.backoff_s = _BACKOFF_S[0]
            place.not_before = now + place.backoff_s
            place.backoff_s = min(2 * place.backoff_s, _BACKOFF_S[1])
            if child.role == "worker":
                with self._enduring():
                    # Where it cannot be recorded now, the lease runs out by itself.
                    self._take_job_from(child, code)

    def _forget(self, child: _Child) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(child.pipe)
        os.close(child.pipe)

    def _take_job_from(self, child: _Child, code: int) -> None:
        """Have the job tried again, or fail: whoever kills a worker from outside is not the job."""
        if child.hung:
            how = f"gave no sign of life for {self._settings.hang_s:g} s"
            self._jobs.worker_died(child.name, "infrastructure", f"the worker process {how}")
        elif code == -signal.SIGKILL and oom_kills() > child.oom_kills:
            self._jobs.worker_died(
                child.name,
                "memory",
                "the system ended the worker process for lack of memory",
                is_final=True,  # it would take the same memory again, from everybody
            )
        elif code in _CRASHES and self._has_memory_limit(child.name):
            self._jobs.worker_died(
                child.name,
                "memory",
                "the worker process could not have the memory that the job needs, and ended",
                is_final=True,
            )
        else:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            self._jobs.worker_died(
                child.name,
                "infrastructure",
                f"the worker process {how} while it ran the job",
                counts=code not in (-signal.SIGKILL, -signal.SIGTERM),
            )

    def _has_memory_limit(self, worker: str) -> bool:
        """Whether the worker's job is refused memory beyond a limit, of which libraries may die."""
        if self._settings.max_job_bytes is not None:
            return True
        job = self._jobs.held_by(worker)
        return job is not None and (job.spec.get("limits") or {}).get("memory_bytes") is not None

    def _kill_hung(self) -> None:
        """Kill workers without a sign of life; the rest is as for any that died."""
        now = time.monotonic()
        for child in self._children():
            if child.role == "worker" and now - child.heard > self._settings.hang_s:
                logger.error("worker gives no sign of life", name=child.name)
                child.hung = True
                child.process.send_signal(signal.SIGKILL)
                child.process.wait()

    def _renew_leases(self) -> None:
        now = time.monotonic()
        if now - self._renewed < self._settings.lease_s / 3:
            return
        self._renewed = now
        for child in self._children():
            if child.role == "worker" and child.is_warm:
                with self._enduring():
                    self._jobs.renew(child.name)

    # -- readiness ---------------------------------------------------------------------------------

    def _tell_readiness(self) -> None:
        warm = sum(child.is_warm for child in self._children() if child.role == "worker")
        if warm != self._published:
            with self._enduring():
                health.publish(self._settings, warm)
                self._published = warm
        if self._was_ready:
            return
        if len(self._children()) == len(self._places) and all(
            child.is_warm for child in self._children()
        ):
            self._was_ready = True
            self._on_ready()

    # -- the end -----------------------------------------------------------------------------------

    def _stop_children(self) -> None:
        """Ask every child to stop, and kill those that take too long."""
        self._listener.close()
        children = self._children()
        for child in children:
            child.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + self._settings.shutdown_s
        for child in children:
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except TimeoutError:
                logger.error("process does not stop and is killed", name=child.name)
                child.process.send_signal(signal.SIGKILL)
                child.process.wait()
            self._forget(child)
        with self._enduring():
            health.publish(self._settings, 0)

    @contextlib.contextmanager
    def _enduring(self) -> Iterator[None]:
        """Go on where a full disk or a slow database does not take what is to be recorded."""
        try:
            yield
        except (OSError, ServiceError) as error:
            now = time.monotonic()
            if now - self._complained >= _COMPLAIN_S:
                self._complained = now
                logger.error("the supervisor cannot record", detail=str(error))
