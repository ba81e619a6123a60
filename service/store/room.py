"""Room on the disks of a server: what is free, and what is kept free.

The last bytes are kept for the database, so that a disk which is full of data sets and models still
takes what ends jobs and what deletes: a server that has run out of room can be helped through its
own interface.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from service.errors import StorageFull

__all__ = ["Room", "free_bytes", "is_full"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether a system call failed for want of room: of the disk, a quota or a file's limit."""
    return error.errno in _FULL


def free_bytes(folder: Path) -> int:
    """Return how many bytes an unprivileged process may still write to the folder's disk.

    Of a folder that does not exist yet, the disk of the nearest one above it.
    """
    while True:
        try:
            told = os.statvfs(folder)
        except FileNotFoundError:
            if folder == folder.parent:
                raise
            folder = folder.parent
        else:
            return told.f_bavail * told.f_frsize


class Room:
    """The room on the disks of some folders."""

    def __init__(
        self,
        *folders: Path,
        min_free_bytes: int = 0,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.min_free_bytes = min_free_bytes
        self._folders = folders
        self._free = free

    def free(self) -> int:
        """Return the bytes that are free on the fullest of the disks."""
        return min(self._free(folder) for folder in self._folders)

    def require(self, more: int = 0) -> None:
        """Raise StorageFull unless `more` bytes fit on every disk beside what is kept free."""
        for folder in self._folders:
            free = self._free(folder)
            if free - more < self.min_free_bytes:
                raise StorageFull(_told(free, more, self.min_free_bytes))

    def is_left(self) -> bool:
        """Whether anything may be stored at all."""
        try:
            self.require()
        except StorageFull:
            return False
        return True


def _told(free: int, more: int, kept: int) -> str:
    wanted = f", {more} more are to be stored" if more else ""
    return (
        f"the server's disk has {free} bytes free{wanted}, and {kept} are kept free for its "
        "database (BERNOULLI_MIN_FREE_BYTES); nothing was stored. Delete data sets, models or jobs "
        "that are not needed, or have room made on the disk, and send this again"
    )
