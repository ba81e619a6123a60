"""Blobs: immutable files under generated keys, published whole or not at all.

A blob is written to a temporary file, flushed to the disk and renamed; the folder is flushed, too.
Whoever sees a key sees all of its bytes, after a crash at any instant.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from service.errors import Corrupt, NotFound, StorageFull
from service.store.room import Room, is_full

__all__ = ["Blobs", "checkpoint_key", "dataset_key", "model_key", "part_key"]

T = TypeVar("T")

_REMEMBERED = 100_000

# Folder, then at most two names that begin with a letter or digit: no key leaves the root.
_KEY = re.compile(
    r"(?:datasets|models|checkpoints|parts)(?:/[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9]+)?){1,2}"
)

_DATASET = re.compile(r"datasets/([0-9a-f]{64})\.[a-z0-9]+")


def dataset_key(sha256: str, suffix: str) -> str:
    """Where a data set's content lives: the same bytes, the same key. `suffix` such as `arrow`."""
    return f"datasets/{sha256}.{suffix}"


def model_key(model_id: str) -> str:
    """A fresh key for a model's weights; unique, so that a fenced writer harms nobody."""
    return f"models/{model_id}/{secrets.token_hex(8)}.safetensors"


def checkpoint_key(job_id: str, attempt: int) -> str:
    """A fresh key for a checkpoint of one attempt at a job."""
    return f"checkpoints/{job_id}/{attempt}-{secrets.token_hex(8)}"


def part_key(job_id: str, attempt: int) -> str:
    """A fresh key for a part of what a job makes, kept until the job has ended."""
    return f"parts/{job_id}/{attempt}-{secrets.token_hex(8)}"


class Blobs:
    """Blobs in a folder of this machine.

    A bucket is one more class with the same methods: nothing here says what a key is stored as.
    """

    def __init__(self, root: Path, room: Room | None = None) -> None:
        """`room` says what is kept free; nothing unless it is given."""
        self.root = root
        self.room = room or Room(root)
        self._temporary = root / "temporary"
        self._whole: dict[str, tuple[int, int, int]] = {}
        """Of blobs whose bytes were found right: inode, time of change and size."""
        with _room():
            self._temporary.mkdir(parents=True, exist_ok=True)

    @property
    def scratch(self) -> Path:
        """The folder of temporary files, on the disk that blobs are on."""
        return self._temporary

    def put(self, key: str, writer: Callable[[BinaryIO], None]) -> int:
        """Publish under `key` what `writer` writes; return its size in bytes.

        StorageFull where there is no room for it; then nothing is left of it.
        """
        file = self.temporary()
        try:
            with _room(), file.open("xb") as stream:
                writer(stream)
            size = file.stat().st_size
            self.adopt(file, key)
        finally:
            file.unlink(missing_ok=True)
        return size

    def put_bytes(self, key: str, content: bytes) -> int:
        """Publish `content` under `key`; return its size in bytes."""
        self.room.require(len(content))

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        return self.put(key, write)

    def flush(self, file: Path) -> None:
        """Have the disk hold a finished file of `temporary`, so that `adopt` is quick."""
        with _room():
            _flush(file)

    def adopt(self, file: Path, key: str) -> None:
        """Publish a finished file of `temporary`, which is gone afterwards."""
        target = self._locate(key)
        with _room():
            _flush(file)
            while not self._rename(file, target):
                pass
            with suppress(FileNotFoundError):  # who deletes the blob meanwhile takes its folder
                _flush(target.parent)
            folder = target.parent
            while folder != self.root:
                folder = folder.parent
                _flush(folder)

    def temporary(self) -> Path:
        """The path of a file to write at leisure and `adopt`; not created, swept if forgotten.

        StorageFull where nothing may be written any more.
        """
        self.room.require()
        return self._temporary / secrets.token_hex(16)

    def open(self, key: str) -> BinaryIO:
        """The blob, to be read, even while it is deleted; NotFound where there is none."""
        path = self._locate(key)
        try:
            return path.open("rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise _missing() from error

    def path(self, key: str) -> Path:
        """The blob as a local, immutable file; NotFound where there is none.

        It may be deleted at any moment: whoever cannot rule that out takes `open` or `load`.
        """
        path = self._locate(key)
        if not path.is_file():
            raise _missing()
        return path

    def load(self, key: str, reader: Callable[[Path], T]) -> T:
        """Return what `reader` makes of the blob's file; NotFound where it is gone by then.

        Raises Corrupt where the key tells the hash of a data set, and its bytes have another.
        """
        path = self.path(key)
        hashed = _DATASET.fullmatch(key)
        if hashed is not None:
            self.verify(key, hashed[1], "the stored data set")
        try:
            return reader(path)
        except FileNotFoundError as error:
            raise _missing() from error

    def verify(self, key: str, sha256: str, what: str) -> None:
        """Raise Corrupt unless the blob's bytes have this hash; `what` names it to callers.

        Each file is read once by each process, and again if it looks changed.
        """
        with self.open(key) as stream:
            told = os.fstat(stream.fileno())
            mark = (told.st_ino, told.st_mtime_ns, told.st_size)
            if self._whole.get(key) == mark:
                return
            digest = hashlib.sha256()
            while piece := stream.read(2**20):
                digest.update(piece)
            if digest.hexdigest() != sha256:
                raise Corrupt(
                    f"{what} is damaged on the server's disk: its bytes are not those that were "
                    "stored. Restore it from a backup, or delete it and store it anew"
                )
        if len(self._whole) >= _REMEMBERED:
            self._whole.clear()
        self._whole[key] = mark

    def exists(self, key: str) -> bool:
        return self._locate(key).is_file()

    def delete(self, key: str) -> None:
        """Remove the blob; nothing happens where there is none."""
        path = self._locate(key)
        path.unlink(missing_ok=True)
        if path.parent.parent != self.root:
            with suppress(OSError):  # it is not empty, or gone
                path.parent.rmdir()  # a model's or job's own folder

    def delete_parts(self, job_id: str) -> None:
        """Remove all parts of a job that has ended."""
        for key, _ in list(self.keys(f"parts/{job_id}")):
            self.delete(key)

    def keys(self, folder: str) -> Iterator[tuple[str, float]]:
        """Every key under `folder` with its age in seconds."""
        now = time.time()
        for parent, _, names in os.walk(self.root / folder):
            for path in (Path(parent, name) for name in names):
                key = path.relative_to(self.root).as_posix()
                with suppress(FileNotFoundError):  # deleted meanwhile
                    age_s = now - path.stat().st_mtime
                    if _KEY.fullmatch(key):
                        yield key, age_s

    def sweep(self, *, older_than_s: float = 0.0) -> int:
        """Remove temporary files that their writers left behind; return how many."""
        swept = 0
        for path in self._temporary.iterdir():
            with suppress(FileNotFoundError):  # published or swept meanwhile
                if time.time() - path.stat().st_mtime >= older_than_s:
                    path.unlink()
                    swept += 1
        return swept

    def _rename(self, file: Path, target: Path) -> bool:
        """False if `delete` took the folder, empty at that moment, from under us."""
        folder = target.parent
        if folder.parent == self.root:  # never taken
            folder.mkdir(parents=True, exist_ok=True)
            file.replace(target)
            return True
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Not `exist_ok`, which looks a second time and fails if the folder is gone by then.
            with suppress(FileExistsError):
                folder.mkdir()
            file.replace(target)
        except FileNotFoundError:
            if file.exists():
                return False
            raise
        return True

    def _locate(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a key that this module makes: {key!r}")
        return self.root / key


def _missing() -> NotFound:
    return NotFound("stored content is missing: it was deleted meanwhile")


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise StorageFull(
                "the disk of the server's artifacts is full; nothing was stored. Delete data sets, "
                "models or jobs that are not needed, or have room made on the disk"
            ) from error
        raise


def _flush(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
