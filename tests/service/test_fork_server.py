"""The fork server: its copies are this process' children, and do without it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.executors.fork_server import (
    Adopted,
    ForkServer,
    NoFork,
    adopt_orphans,
    bury_orphans,
)
from service.settings import Settings
from service.store.database import Database
from tests.e2e.servers import children_of, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    settings = Settings(data=tmp_path_factory.mktemp("data"))
    database = Database(settings.database_url)
    database.migrate()
    database.close()
    adopt_orphans()
    started = ForkServer({**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1"})
    assert not started.is_ready
    wait_for(started.has_news)
    assert started.hear()
    yield started
    started.end()


def worker(fork_server: ForkServer) -> tuple[Adopted, int]:
    """Return a worker and the end of its pipe at which its signs are read."""
    reader, writer = os.pipe()
    process = fork_server.fork("worker", {"name": "worker_test"}, [writer])
    os.close(writer)
    return process, reader


def test_a_copy_is_a_child_of_this_process_and_says_what_it_is(fork_server: ForkServer) -> None:
    process, reader = worker(fork_server)
    assert os.read(reader, 1) == b"w"
    assert process.pid in children_of(os.getpid(), "worker_process worker_test")
    assert process.poll() is None
    with pytest.raises(TimeoutError):
        process.wait(0)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    assert os.read(reader, 1) == b""  # nobody else holds the pipe: its end is its process' end
    process.send_signal(signal.SIGTERM)  # to nobody, whoever has its number now
    assert process.returncode == 0
    os.close(reader)


def test_a_copy_that_is_killed_tells_the_signal(fork_server: ForkServer) -> None:
    process, reader = worker(fork_server)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    os.close(reader)


def test_a_copy_that_nobody_waits_for_ends_as_soon_as_it_is_warm(fork_server: ForkServer) -> None:
    """As when the fork server answers too late, and its copy is not known."""
    process, reader = worker(fork_server)
    os.close(reader)
    assert process.wait() == 1


def test_orphans_are_buried_and_children_are_not(fork_server: ForkServer) -> None:
    process, reader = worker(fork_server)
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: _state(process.pid) == "Z")
    bury_orphans([process.pid, fork_server.pid])
    assert _state(process.pid) == "Z"
    bury_orphans([fork_server.pid])
    assert _state(process.pid) is None
    os.close(reader)


def test_copies_live_on_when_the_fork_server_is_killed(fork_server: ForkServer) -> None:
    process, reader = worker(fork_server)
    os.kill(fork_server.pid, signal.SIGKILL)
    wait_for(fork_server.has_news)
    assert not fork_server.hear()
    with pytest.raises(NoFork):
        fork_server.fork("worker", {"name": "worker_late"}, [])
    assert os.read(reader, 1) == b"w"
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(reader)


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None
