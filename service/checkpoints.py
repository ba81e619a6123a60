"""Checkpoints: snapshots of jobs as blobs, each with a hash that tells damage.

A job goes on while its checkpoint is written: only the copy is taken between two of its steps, and
another thread makes bytes of it and has the disk hold them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor, wait
from typing import Any, BinaryIO

import structlog

from service.errors import NotFound
from service.steps import Step
from service.store.blobs import Blobs, checkpoint_key
from service.store.jobs import Checkpoint, Job

__all__ = ["DueTimes", "Writing", "read_checkpoint", "write_checkpoint"]

logger = structlog.get_logger(__name__)

FIRST_CHECKPOINT_S = 2.0
CHECKPOINT_S = 30.0


def write_checkpoint(blobs: Blobs, key: str, content: bytes) -> None:
    """Store a snapshot."""

    def write(stream: BinaryIO) -> None:
        stream.write(hashlib.sha256(content).digest())
        stream.write(content)

    blobs.put(key, write)


def read_checkpoint(blobs: Blobs, key: str) -> bytes | None:
    """Return a snapshot, or None where it is missing or damaged."""
    try:
        with blobs.open(key) as stream:
            stored = stream.read()
    except NotFound:
        return None
    digest, content = stored[:32], stored[32:]
    return content if hashlib.sha256(content).digest() == digest else None


class Writing:
    """A checkpoint that another thread is writing, under a name of its attempt's own."""

    def __init__(self, step: Step, job: Job, *, blobs: Blobs, thread: Executor) -> None:
        """Take the copy of where `step` stands, and have `thread` write it."""
        assert step.snapshot is not None
        self.step = step
        self.checkpoint = Checkpoint(checkpoint_key(job.id, job.attempts), step.epoch)
        self._blobs = blobs
        self._future = thread.submit(self._write, step.snapshot())

    def _write(self, to_bytes: Callable[[], bytes]) -> None:
        write_checkpoint(self._blobs, self.checkpoint.key, to_bytes())

    @property
    def is_done(self) -> bool:
        """Whether `wait` returns, or raises, at once."""
        return self._future.done()

    def wait(self) -> Checkpoint:
        """Return the checkpoint when the disk holds it; raises what has prevented that."""
        self._future.result()
        return self.checkpoint

    def wait_in_any_case(self) -> Checkpoint | None:
        """Return the checkpoint likewise, or None where something has prevented it."""
        try:
            return self.wait()
        except Exception:  # the job ends anyway, for a reason of its own
            logger.exception("a checkpoint could not be written", key=self.checkpoint.key)
            return None

    def wait_at_most(self, seconds: float) -> None:
        """Return once `wait` would return, or raise, at once, or the time is up."""
        wait([self._future], seconds)

    def drop(self) -> None:
        """Have its file be gone: at once, or as soon as it has been written."""
        self._future.cancel()
        self._future.add_done_callback(lambda _: self._blobs.delete(self.checkpoint.key))


class DueTimes:
    """When an attempt is due to take a checkpoint."""

    def __init__(self, spec: dict[str, Any], now: float) -> None:
        """`spec` is the job's; `now` and all other times are in seconds."""
        every = spec.get("checkpoint_every") or {}
        self._every_s = every.get("seconds")
        self._every_epochs = every.get("epochs")
        if self._every_s is None and self._every_epochs is None:
            self._every_s = CHECKPOINT_S
        self._taken_at = now
        self._epoch = 0
        self._is_owed = False
        self.has_one = False
        """Whether the job has a checkpoint; the first one is taken early."""

    @property
    def counts_epochs(self) -> bool:
        """Whether checkpoints are asked for by epochs: none of them is left out."""
        return self._every_epochs is not None

    def has(self, checkpoint: Checkpoint) -> None:
        """Take note of a checkpoint that the job has."""
        self._epoch = checkpoint.epoch
        self.has_one = True

    def begin_anew(self) -> None:
        """Take note that the job starts again, without the checkpoint that it has."""
        self._epoch = 0

    def take(self, step: Step, now: float) -> None:
        """Take note of a checkpoint that is being taken."""
        self._taken_at = now
        self._epoch = step.epoch
        self._is_owed = False

    def is_due(self, step: Step, now: float) -> bool:
        """Whether a checkpoint should be taken at this step, or should have been at one before."""
        if not _is_of_use(step):
            return False
        waited = now - self._taken_at
        if step.is_milestone and waited >= FIRST_CHECKPOINT_S:
            self._is_owed = True
        if self._is_owed or self.is_due_by_epochs(step):
            return True
        if self._every_s is None:
            return False
        least = self._every_s if self.has_one else min(self._every_s, FIRST_CHECKPOINT_S)
        return bool(waited >= least)

    def is_due_by_epochs(self, step: Step) -> bool:
        """Whether a checkpoint is to be taken at this very step, since so many epochs are over."""
        every = self._every_epochs
        return _is_of_use(step) and every is not None and step.epoch - self._epoch >= every


def _is_of_use(step: Step) -> bool:
    """Whether an attempt could go on from a step."""
    return step.snapshot is not None and not step.is_last_good
