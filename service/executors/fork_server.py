"""The fork server, as its supervisor sees it: processes that begin with everything loaded.

Loading PyTorch and the service takes seconds. One process does it once, runs nothing, and is copied
for each process that is needed: a worker or an HTTP process that was killed is back in
milliseconds, and their copies of the libraries share memory.

A copy is a child of the supervisor, not of the fork server: its parent ends at once, and the
supervisor, a subreaper, adopts it. So it ends with the supervisor, which is told its exit code, and
it does not matter to it what becomes of the fork server.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

__all__ = ["Adopted", "ForkServer", "NoFork", "adopt_orphans", "bury_orphans"]

_PR_SET_CHILD_SUBREAPER = 36
_ANSWER_S = 30.0
"""How long a copy may take on a machine that is busy or short of memory."""
_MESSAGE = 4096


class NoFork(OSError):
    """The fork server did not give a process; another has to be started."""


class Adopted:
    """A process that became a child of this one without being started by it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        """None while it runs; the negative number of the signal that ended it, as elsewhere."""

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code when it has ended; raises TimeoutError if that takes too long."""
        if self.poll() is None:
            ending = os.pidfd_open(self.pid)
            try:
                ready, _, _ = select.select([ending], [], [], timeout)
            finally:
                os.close(ending)
            if not ready:
                raise TimeoutError
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """One process that has loaded everything, and is copied when asked."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it with these variables; it is of use once `is_ready`."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "service.executors.fork_server_process"]
        command += ["--parent", str(os.getpid()), "--socket", str(theirs.fileno())]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=dict(environment),
                    pass_fds=[theirs.fileno()],
                )
            except OSError:
                self._socket.close()
                raise
        self.is_ready = False

    def has_news(self) -> bool:
        """Whether it has become ready, or has ended, since it was last heard."""
        return bool(select.select([self._socket], [], [], 0)[0])

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def hear(self) -> bool:
        """Read that it is ready; False if it has ended instead."""
        try:
            self.is_ready = bool(self._socket.recv(_MESSAGE))
        except ConnectionError:
            self.is_ready = False
        return self.is_ready

    def fork(self, role: str, arguments: Mapping[str, Any], files: Sequence[int]) -> Adopted:
        """Return a new process that runs `role` with these arguments and descriptors.

        Raises NoFork if there was none in half a minute: the fork server is of no more use then.
        """
        question = orjson.dumps({"role": role, "arguments": arguments})
        try:
            self._socket.settimeout(_ANSWER_S)
            socket.send_fds(self._socket, [question], list(files))
            answer = self._socket.recv(_MESSAGE)
        except OSError as error:
            raise NoFork(f"the fork server does not answer: {error}") from error
        if not answer.isdigit():
            raise NoFork(answer.decode() or "the fork server has ended")
        return Adopted(int(answer))

    def end(self) -> int:
        """End it, however it is; return its exit code."""
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()


def adopt_orphans() -> None:
    """Become the parent of what this process' descendants leave behind, as process 1 is."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def bury_orphans(known: Sequence[int]) -> None:
    """Let go of ended children that nobody else asks about: all but those in `known`."""
    with contextlib.suppress(ChildProcessError):
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, 0)
