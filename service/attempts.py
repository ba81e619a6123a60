"""Attempts at a job: what one stores while it goes on, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from service.checkpoints import DueTimes, Writing, read_checkpoint
from service.errors import LeaseLost, StorageFull
from service.interruptions import Cancelled, Stopped, TimedOut
from service.journal import Journal
from service.leaving import Leaving
from service.steps import Step, TaskResult
from service.store.blobs import Blobs
from service.store.datasets import Datasets
from service.store.jobs import Checkpoint, ErrorKind, Job, Jobs, Recorded, Status, job_error

__all__ = ["Attempt"]

logger = structlog.get_logger(__name__)

T = TypeVar("T")


class Attempt:
    """One attempt at a job, as far as the store has to do with it."""

    def __init__(
        self,
        job: Job,
        *,
        jobs: Jobs,
        datasets: Datasets,
        blobs: Blobs,
        clock: Callable[[], float],
        checkpointing: Executor,
        recording: Executor,
        step_s: float,
        wait: Callable[[], None],
    ) -> None:
        """`clock` gives seconds; the job goes on while others write checkpoints and rows.

        Of small pieces of work a step is wanted every `step_s` seconds.
        `wait` lets some time pass before a full disk is tried again, and raises Stopped where the
        worker is to stop.
        """
        self.job = job
        self.last: Step | None = None
        self.files: list[Path] = []
        """Temporary files of its task."""
        self._jobs = jobs
        self._blobs = blobs
        self._clock = clock
        self._checkpointing = checkpointing
        self._wait = wait
        self._journal = Journal(job, jobs=jobs, clock=clock, thread=recording)
        self._leaving = Leaving(job, jobs=jobs, datasets=datasets, blobs=blobs)
        self._step_s = step_s
        self._stepped_at = float("-inf")
        self._due = DueTimes(job.spec, clock())
        self._writing: Writing | None = None
        self._written: Checkpoint | None = None
        """Held by the disk, and the job's with the next row."""
        self._is_over = False
        self._checkpoint_key = None if job.checkpoint is None else job.checkpoint.key
        self._is_ending = False
        """What is being stored is the job's end, which nobody can cancel any more."""
        self._limit_s = (job.spec.get("limits") or {}).get("seconds")

    def clean(self) -> None:
        """Remove the temporary files that are still there, and a checkpoint that is nobody's."""
        self._drop()
        for file in self.files:
            file.unlink(missing_ok=True)

    def note(self, message: str) -> None:
        """Add a line to the job's log."""
        self._journal.note(message)

    def begin_anew(self, message: str) -> None:
        """Take note that the job starts again, and why."""
        self.note(message)
        self._due.begin_anew()

    # -- while the job goes on ---------------------------------------------------------------------

    def wants_step(self, *, at_epoch: bool) -> bool:
        """Return whether it is time for a step, or a checkpoint may be due; see `TaskContext`."""
        if at_epoch and self._due.counts_epochs:
            return True
        return self._clock() - self._stepped_at >= self._step_s

    def take(self, step: Step) -> None:
        """Keep what a step says, store it when it is time to, and end the attempt if it must.

        Where it `is_behind` then, it is to `wait` before the task goes on.
        """
        self.last = step
        self._stepped_at = self._clock()
        self._journal.take(step)
        self._look(step)

    def take_no_more(self) -> None:
        """Take note that the task has ended; there, too, the attempt may be behind."""
        self._is_over = True

    @property
    def is_behind(self) -> bool:
        """Whether a checkpoint that was asked for by epochs waits for the disk."""
        if self.last is None or not self._due.counts_epochs:
            return False
        if self._is_over:
            return self._writing is not None
        return self._due.is_due_by_epochs(self.last)

    def wait(self, seconds: float) -> None:
        """Wait at most so long for the disk, then do what `take` does where a task stands."""
        if self._writing is not None and not self._writing.is_done:
            self._writing.wait_at_most(seconds)
        else:
            self._journal.wait_at_most(seconds)
        if self.last is not None:
            self._look(self.last)

    def _look(self, step: Step) -> None:
        """Hear what came of storing, and begin to write and to store what it is time for."""
        self._obey_answer()
        self._store_written()
        if self._writing is None and self._due.is_due(step, self._clock()):
            self._begin_checkpoint(step)
            self._store_written()
        if self._journal.is_due:
            self._journal.begin(self._written)
        self._obey_answer()
        if self._limit_s is not None and self._journal.ran_s >= self._limit_s:
            raise TimedOut

    def _obey_answer(self) -> None:
        if self._journal.has_answer:
            _obey(self.stored(self._flush))

    def _begin_checkpoint(self, step: Step) -> Writing:
        """Copy where the step stands, and have the copy written while the job goes on."""
        self._writing = Writing(step, self.job, blobs=self._blobs, thread=self._checkpointing)
        self._due.take(step, self._clock())
        return self._writing

    def _store_written(self) -> None:
        """Begin to make a checkpoint that the disk holds the job's, unless a row is under way."""
        if self._writing is not None and self._writing.is_done and not self._journal.is_storing:
            self._store(self._writing)

    def _store(self, writing: Writing) -> None:
        """Wait for a checkpoint's file, and begin to make it the job's by its row.

        With it go all events so far, those after its step, too: an attempt that goes on from it
        says these again, and `retried` tells from where.
        """
        self._writing = None
        try:
            self._written = writing.wait()
        except StorageFull:
            self.note("there was no room for a checkpoint; the next one is tried when it is due")
        self._journal.begin(self._written)

    def stored(self, write: Callable[[], T]) -> T:
        """Return what `write` returns, as soon as the disk has room for it.

        The job stands still meanwhile, and this time does not count as its own. Raises Cancelled
        where somebody asks for that, and Stopped where the worker is to stop: the job's last
        checkpoint is then what is left of the attempt.
        """
        is_waiting = False
        while True:
            try:
                result = write()
            except StorageFull as error:
                if not is_waiting:
                    is_waiting = True
                    logger.error("the job waits for room", job=self.job.id, detail=error.detail)
                    self.note("the disk is full: the job waits where it stands for room")
                self._await_room()
            else:
                if is_waiting:
                    self.note("there is room again: the job goes on")
                return result

    def _await_room(self) -> None:
        with suppress(StorageFull):  # the database may have room where a model has none
            recorded = self._flush()
            if not self._is_ending:
                _obey(recorded)
        began = self._clock()
        self._wait()
        self._journal.leave_out(self._clock() - began)

    def _flush(self) -> Recorded:
        """Wait for what is being stored or, where nothing is, store what there is.

        Raises what has prevented it: LeaseLost, or StorageFull, where it can be tried again.
        """
        if not self._journal.is_storing:
            self._journal.begin(self._written)
        try:
            recorded = self._journal.hear()
        except (LeaseLost, StorageFull):
            raise
        except Exception:
            self._written = None  # whose it is then, the next attempt sees
            raise
        if self._written is not None:
            self._checkpoint_key, self._written = self._written.key, None
            self._due.has_one = True
        if recorded.replaced is not None:
            self._blobs.delete(recorded.replaced)
        return recorded

    def _settle(self) -> None:
        """Wait for what is being stored: a job's last transaction follows what it said before."""
        if self._journal.is_storing:
            try:
                self.stored(self._flush)
            except (LeaseLost, Cancelled, Stopped):
                raise
            except Exception:  # the last transaction stores it, too, or fails in the same way
                logger.exception("what a job said could not be stored", job=self.job.id)

    def _drop(self) -> None:
        """Let go of a checkpoint that is not the job's: what ends the attempt makes it useless."""
        if self._writing is not None:
            self._writing.drop()
            self._writing = None
        if self._written is not None and not self._journal.is_storing:
            self._blobs.delete(self._written.key)
            self._written = None

    # -- its beginning and its end -----------------------------------------------------------------

    def load_checkpoint(self) -> bytes | None:
        """Return the snapshot that the last attempt left, unless it is missing or damaged."""
        checkpoint = self.job.checkpoint
        for key, _ in list(self._blobs.keys(f"checkpoints/{self.job.id}")):
            if key != self._checkpoint_key:  # written by an attempt that was killed before its row
                self._blobs.delete(key)
        if checkpoint is None:
            return None
        content = read_checkpoint(self._blobs, checkpoint.key)
        if content is None:
            self.note("the checkpoint is damaged or missing; the job starts again")
            return None
        self._due.has(checkpoint)
        return content

    def give_back(self) -> None:
        """Checkpoint the job where it stands and put it back into the queue."""
        self._settle()
        writing, last = self._writing, self.last
        if writing is not None:
            self._store(writing)
            self.stored(self._flush)
        if last is None or last.snapshot is None:
            self._flush()
        elif writing is None or writing.step is not last:
            self._store(self._begin_checkpoint(last))
            self.stored(self._flush)
        self._jobs.release(self.job)

    def wait_in_queue(self, reason: str) -> None:
        """Put the job back into the queue, to be tried again from its last checkpoint.

        One that is to be cancelled ends there.
        """
        self._is_ending = True
        self._settle()
        self._drop()
        self.stored(self._flush)
        self.stored(partial(self._jobs.release, self.job, reason=reason))

    def fail(self, kind: ErrorKind, detail: str, *, pointer: str | None = None) -> None:
        """End the job as failed, with what it has said so far."""
        error = job_error(kind, detail)
        if pointer is not None:
            error["errors"] = [{"pointer": pointer, "detail": detail}]
        # An attempt that ran out of time stands between two steps; any other broke within one,
        # unless its last step has told where to go on.
        stands = kind == "timeout" or (self.last is not None and self.last.is_last_good)
        self._is_ending = True
        self._settle()
        state = self.stored(self._write_state) if stands else self._awaited()
        self._end(partial(self._leaving.end, Status.FAILED, error=error), state)

    def finish(self, status: Status, result: TaskResult | None) -> None:
        """End the job with what it leaves, in one transaction, as soon as there is room for it."""
        self._is_ending = status is Status.CANCELLED
        state: Checkpoint | None = None
        try:
            self._settle()
            state = self.stored(self._write_state)
            self._end(partial(self._leaving.leave, status, result), state)
        except Cancelled as cancelled:  # while it waited for room
            self._is_ending = True
            kept = result if cancelled.keep else None
            self._end(partial(self._leaving.leave, Status.CANCELLED, kept), state)

    def _write_state(self) -> Checkpoint | None:
        return self._leaving.write_state(self.last)

    def _awaited(self) -> Checkpoint | None:
        """Wait for the checkpoint that is being written; None without one, or where it failed."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.wait_in_any_case()

    def _end(self, end: Callable[..., Job], state: Checkpoint | None) -> None:
        job = self.stored(lambda: end(said=self._journal.said, state=state))
        told = {} if job.error is None else {"error": job.error["kind"]}
        logger.info("job ended", job=job.id, status=job.status.value, **told)
        if state is not None and self._checkpoint_key is not None:
            self._blobs.delete(self._checkpoint_key)
        self._journal.forget()


def _obey(recorded: Recorded) -> None:
    if recorded.cancelling:
        raise Cancelled(keep=recorded.keep)
