"""The process that loads everything once, and is copied for each process of the server.

Started by the supervisor as ``python -m service.executors.fork_server_process``. It has no
threads and runs nothing of what it has loaded: what a copy needs of its own (threads, files, signal
handlers, a device) begins in the copy.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import torch
from setproctitle import setproctitle

from service.executors import http_process, worker_process
from service.executors.parent import die_with

_ROLES: Mapping[str, Callable[..., None]] = {
    "http": http_process.serve,
    "worker": worker_process.serve,
}
_HARMLESS = "jemalloc_bg_thd"
"""The thread of an allocator that PyArrow brings along, and that knows of forks by itself."""
_MESSAGE = 4096
_MOST_FILES = 4


def _copies(asked: socket.socket) -> dict[str, Any] | None:
    """Make the copies that are asked for; return, in each of them, what it is to be.

    Returns None in the fork server itself, once its supervisor has gone.
    """
    while True:
        question, files, _, _ = socket.recv_fds(asked, _MESSAGE, _MOST_FILES)
        if not question:
            return None
        reader, writer = os.pipe()
        try:
            between = os.fork()
            if between == 0:
                return {**_copied(writer), **orjson.loads(question), "files": files}
            os.close(writer)
            pid = os.read(reader, 32)
            os.waitpid(between, 0)  # the supervisor has adopted the copy when this returns
        except OSError:
            pid = b""
        os.close(reader)
        for file in files:
            os.close(file)
        asked.send(pid or b"the machine has no room for another process")


def _copied(writer: int) -> dict[str, Any]:
    """Make a copy of this process and end, having told its id; return in the copy."""
    between = os.getpid()
    try:
        copy = os.fork()
    except OSError:
        os._exit(1)
    if copy != 0:
        os.write(writer, str(copy).encode())
        os._exit(0)
    os.close(writer)
    return {"between": between}


def _be(parent: int, wanted: Mapping[str, Any]) -> None:
    """Run a role, as a child of the supervisor."""
    while os.getppid() == wanted["between"]:  # which is about to end
        time.sleep(0.0005)
    die_with(parent)
    setproctitle(f"bernoulli: {wanted['role']}_process {wanted['arguments'].get('name', '')}")
    _ROLES[wanted["role"]](*wanted["files"], **wanted["arguments"])


def _threads() -> list[str]:
    """Return the names of the threads beside the main one, which a copy would lack."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
    names = [(task / "comm").read_text().strip() for task in tasks]
    return [name for name in names if name != _HARMLESS]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--socket", type=int, required=True)
    arguments = parser.parse_args()
    die_with(arguments.parent)
    # Copies share what is loaded only as long as neither the collector nor anybody writes to it.
    gc.collect()
    gc.freeze()
    # A device is of no use in a copy of a process that has opened it.
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    threads = _threads()
    if threads:  # a lock that one holds at that moment would be held for ever in a copy
        raise SystemExit(f"the fork server may have no threads, and has {', '.join(threads)}")
    with socket.socket(fileno=arguments.socket) as asked:
        asked.send(b"ready")
        wanted = _copies(asked)
    if wanted is not None:
        _be(arguments.parent, wanted)


if __name__ == "__main__":
    main()
