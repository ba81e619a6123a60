"""Attempts at a job: what one has said but not yet stored, and what it stores and leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from service.checkpoints import DueTimes, Writing, read_checkpoint, write_checkpoint
from service.errors import LeaseLost, StorageFull
from service.steps import NewModel, Step, TaskResult
from service.store.blobs import Blobs, checkpoint_key, model_key
from service.store.database import new_id
from service.store.datasets import Datasets, StagedDataset
from service.store.jobs import Checkpoint, ErrorKind, Job, Jobs, Recorded, Status, job_error
from service.store.models import NewModelRow

__all__ = ["Attempt", "Cancelled", "Stopped", "TimedOut"]

logger = structlog.get_logger(__name__)

T = TypeVar("T")

FLUSH_S = 0.2


class Stopped(Exception):
    """The worker has been told to stop, and the job is checkpointed and given back."""


class Cancelled(Exception):
    """Somebody has asked to cancel the job, and perhaps to `keep` what it has so far."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep


class TimedOut(Exception):
    """The job has run as long as it may, over all its attempts."""


class Attempt:
    """What one attempt has said but not yet stored, and what it stores."""

    def __init__(
        self,
        job: Job,
        *,
        jobs: Jobs,
        datasets: Datasets,
        blobs: Blobs,
        clock: Callable[[], float],
        thread: Executor,
        wait: Callable[[], None],
    ) -> None:
        """`clock` gives seconds; `thread` writes checkpoints while the job goes on.

        `wait` lets some time pass before a full disk is tried again, and raises Stopped where the
        worker is to stop.
        """
        self.job = job
        self.last: Step | None = None
        self.files: list[Path] = []
        """Temporary files of its task."""
        self._jobs = jobs
        self._datasets = datasets
        self._blobs = blobs
        self._clock = clock
        self._thread = thread
        self._wait = wait
        self._started = self._flushed = clock()
        self._due = DueTimes(job.spec, self._started)
        self._writing: Writing | None = None
        self._is_over = False
        self._checkpoint_key = None if job.checkpoint is None else job.checkpoint.key
        self._is_ending = False
        """What is being stored is the job's end, which nobody can cancel any more."""
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._progress: Mapping[str, Any] | None = None
        self._metrics: Mapping[str, Any] | None = None
        self._limit_s = (job.spec.get("limits") or {}).get("seconds")

    def clean(self) -> None:
        """Remove the temporary files that are still there, and a checkpoint that is nobody's."""
        self._drop()
        for file in self.files:
            file.unlink(missing_ok=True)

    def note(self, message: str) -> None:
        """Add a line to the job's log."""
        self._events.append(("log", {"message": message}))

    def begin_anew(self, message: str) -> None:
        """Take note that the job starts again, and why."""
        self.note(message)
        self._due.begin_anew()

    def take(self, step: Step) -> None:
        """Keep what a step says, store it when it is time to, and end the attempt if it must.

        Where it `is_behind` then, it is to `wait` before the task goes on.
        """
        self.last = step
        self._events.extend(step.events)
        self._progress = step.progress if step.progress is not None else self._progress
        self._metrics = step.metrics if step.metrics is not None else self._metrics
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
        if self._writing is not None:
            self._writing.wait_at_most(seconds)
        if self.last is not None:
            self._look(self.last)

    def _look(self, step: Step) -> None:
        self._record_written()
        if self._writing is None and self._due.is_due(step, self._clock()):
            self._begin_checkpoint(step)
            self._record_written()
        now = self._clock()
        if now - self._flushed >= min(FLUSH_S, (now - self._started) / 2):
            self._obey(self.stored(self._flush))  # at first at once: somebody may be watching
        if self._limit_s is not None and self._ran_s() >= self._limit_s:
            raise TimedOut

    def _record_written(self) -> None:
        if self._writing is not None and self._writing.is_done:
            self._obey(self._record_checkpoint(self._writing))

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
                self._obey(recorded)
        began = self._clock()
        self._wait()
        self._started += self._clock() - began

    def _obey(self, recorded: Recorded) -> None:
        if recorded.cancelling:
            raise Cancelled(keep=recorded.keep)

    def _flush(self, checkpoint: Checkpoint | None = None) -> Recorded:
        recorded = self._jobs.record(
            self.job,
            events=self._events,
            progress=self._progress,
            metrics=self._metrics,
            checkpoint=checkpoint,
            ran_s=self._ran_s(),
        )
        self._forget()
        return recorded

    def _ran_s(self) -> float:
        """Return how long the job has run: by the attempts before, as recorded, and by this one."""
        return self.job.ran_s + self._clock() - self._started

    def _forget(self) -> None:
        self._events, self._progress, self._metrics = [], None, None
        self._flushed = self._clock()

    def _begin_checkpoint(self, step: Step) -> Writing:
        """Copy where the step stands, and have the copy written while the job goes on."""
        self._writing = Writing(step, self.job, blobs=self._blobs, thread=self._thread)
        self._due.take(step, self._clock())
        return self._writing

    def _record_checkpoint(self, writing: Writing) -> Recorded:
        """Wait for the file, and make it the job's by its row.

        With it go all events so far, those after its step, too: an attempt that goes on from it
        says these again, and `retried` tells from where.
        """
        self._writing = None
        try:
            checkpoint = writing.wait()
        except StorageFull:
            self.note("there was no room for a checkpoint; the next one is tried when it is due")
            return self.stored(self._flush)
        try:
            recorded = self.stored(partial(self._flush, checkpoint))
        except (LeaseLost, Stopped, Cancelled):
            self._blobs.delete(checkpoint.key)
            raise
        if recorded.replaced is not None:
            self._blobs.delete(recorded.replaced)
        self._due.has_one = True
        self._checkpoint_key = checkpoint.key
        return recorded

    def _drop(self) -> None:
        """Let go of a checkpoint that is being written: what ends the attempt makes it useless."""
        if self._writing is not None:
            self._writing.drop()
            self._writing = None

    def _awaited(self) -> Checkpoint | None:
        """Wait for the checkpoint that is being written; None without one, or where it failed."""
        writing, self._writing = self._writing, None
        if writing is None:
            return None
        try:
            return writing.wait()
        except Exception:  # the job ends anyway, for a reason of its own
            logger.exception("a checkpoint could not be written", job=self.job.id)
            return None

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
        writing = self._writing
        if writing is not None:
            self._record_checkpoint(writing)
        last = self.last
        if last is None or last.snapshot is None:
            self._flush()
        elif writing is None or writing.step is not last:
            self._record_checkpoint(self._begin_checkpoint(last))
        self._jobs.release(self.job)

    def wait_in_queue(self, reason: str) -> None:
        """Put the job back into the queue, to be tried again from its last checkpoint."""
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
        state = self.stored(self._state) if stands else self._awaited()
        self.stored(partial(self._finish, Status.FAILED, error=error, state=state))

    def finish(self, status: Status, result: TaskResult | None) -> None:
        """End the job with what it leaves, in one transaction, as soon as there is room for it."""
        self._is_ending = status is Status.CANCELLED
        state: Checkpoint | None = None
        try:
            state = self.stored(self._state)
            self.stored(partial(self._leave, status, result, state))
        except Cancelled as cancelled:  # while it waited for room
            self._is_ending = True
            kept = result if cancelled.keep else None
            self.stored(partial(self._leave, Status.CANCELLED, kept, state))

    def _leave(self, status: Status, result: TaskResult | None, state: Checkpoint | None) -> None:
        metrics = None if result is None else result.metrics
        if result is not None and result.model is not None:
            self._finish_with_model(status, result.model, metrics, state)
        elif result is not None and result.dataset is not None:
            made = result.dataset
            staged = self._datasets.stage(made.dataset, made.file)
            self._finish(status, metrics=metrics, dataset=staged, state=state)
        else:
            self._finish(status, metrics=metrics, state=state)

    def _state(self) -> Checkpoint | None:
        """Store where the attempt stands, for jobs that go on from there; None where none can."""
        step = self.last
        if step is None or step.snapshot is None or not step.is_resumable:
            return None
        key = checkpoint_key(self.job.id, self.job.attempts)
        write_checkpoint(self._blobs, key, step.snapshot()())
        return Checkpoint(key, step.epoch)

    def _finish_with_model(
        self,
        status: Status,
        model: NewModel,
        metrics: Mapping[str, Any] | None,
        state: Checkpoint | None,
    ) -> None:
        model_id = new_id("mdl")
        key = model_key(model_id)
        self._blobs.put_bytes(key, model.weights)
        row = NewModelRow(
            id=model_id,
            name=model.name,
            owner=self.job.owner,
            document=model.document,
            weights=key,
        )
        try:
            finished = self._finish(status, metrics=metrics, model=row, state=state)
        except BaseException:
            self._blobs.delete(key)
            raise
        if finished.model != model_id:  # cancelled at the last moment
            self._blobs.delete(key)

    def _finish(
        self,
        status: Status,
        *,
        metrics: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        model: NewModelRow | None = None,
        dataset: StagedDataset | None = None,
        state: Checkpoint | None = None,
    ) -> Job:
        try:
            finished = self._jobs.finish(
                self.job,
                status,
                events=self._events,
                progress=self._progress,
                metrics=metrics or self._metrics,
                error=error,
                model=model,
                dataset=dataset,
                checkpoint=state,
            )
        except StorageFull:
            raise  # it is tried again, with the same state
        except BaseException:
            if state is not None:
                self._blobs.delete(state.key)
            raise
        if state is not None and self._checkpoint_key is not None:
            self._blobs.delete(self._checkpoint_key)
        self._blobs.delete_parts(self.job.id)
        self._forget()
        return finished
