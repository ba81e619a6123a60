"""Memory: what a job may allocate, bounded by the operating system in the process that runs it.

The bound is on private writable memory (`RLIMIT_DATA`), reserved or used: what libraries and mapped
files take beside it does not count, as it can be had again. An allocation beyond it fails, and with
it the job; the process goes on, or ends and is replaced.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["at_most", "is_out_of_memory", "oom_kills"]

_SAID = ("allocate memory", "bad_alloc", "out of memory", "can't start new thread")
"""What libraries say in errors of other classes, in any case of letters."""


@contextmanager
def at_most(max_bytes: int | None) -> Iterator[None]:
    """Let this process allocate so many bytes more than it has, while the block runs."""
    if max_bytes is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + max_bytes
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever class, is that memory could not be had."""
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in said for words in _SAID)


def oom_kills() -> int:
    """Return how many processes the kernel has killed for memory: of this container, if it is one.

    Else of the whole machine, since it started.
    """
    for file in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


def _data_bytes() -> int:
    """Return the private writable memory that this process has, as the limit counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise OSError("the system does not tell how much memory this process has")
