"""Attempts at a job: what one has said but not yet stored, and what it stores and leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.checkpoints import read_checkpoint, write_checkpoint
from service.errors import LeaseLost
from service.steps import NewModel, Step, TaskResult
from service.store.blobs import Blobs, checkpoint_key, model_key
from service.store.database import new_id
from service.store.datasets import Datasets, StagedDataset
from service.store.jobs import Checkpoint, ErrorKind, Job, Jobs, Recorded, Status, job_error
from service.store.models import NewModelRow

__all__ = ["Attempt", "Cancelled", "Stopped", "TimedOut"]

FLUSH_S = 0.2
FIRST_CHECKPOINT_S = 2.0
CHECKPOINT_S = 30.0


class Stopped(Exception):
    """The worker has been told to stop, and the job is checkpointed and given back."""


class Cancelled(Exception):
    """Somebody has asked to cancel the job, and perhaps to `keep` what it has so far."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep


class TimedOut(Exception):
    """The attempt has taken as long as it may."""


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
    ) -> None:
        self.job = job
        self.last: Step | None = None
        self.files: list[Path] = []
        """Temporary files of its task."""
        self._jobs = jobs
        self._datasets = datasets
        self._blobs = blobs
        self._clock = clock
        self._started = self._flushed = self._checkpointed = clock()
        self._checkpoint_epoch = 0
        self._has_checkpoint = False
        self._checkpoint_key = None if job.checkpoint is None else job.checkpoint.key
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._progress: Mapping[str, Any] | None = None
        self._metrics: Mapping[str, Any] | None = None
        every = job.spec.get("checkpoint_every") or {}
        self._every_s = every.get("seconds")
        self._every_epochs = every.get("epochs")
        if self._every_s is None and self._every_epochs is None:
            self._every_s = CHECKPOINT_S
        self._limit_s = (job.spec.get("limits") or {}).get("seconds")

    def clean(self) -> None:
        """Remove the temporary files that are still there."""
        for file in self.files:
            file.unlink(missing_ok=True)

    def note(self, message: str) -> None:
        """Add a line to the job's log."""
        self._events.append(("log", {"message": message}))

    def take(self, step: Step) -> None:
        """Keep what a step says, store it when it is time to, and end the attempt if it must."""
        self.last = step
        self._events.extend(step.events)
        self._progress = step.progress if step.progress is not None else self._progress
        self._metrics = step.metrics if step.metrics is not None else self._metrics
        now = self._clock()
        if self._is_checkpoint_due(step, now):
            self._obey(self._store_checkpoint(step))
        elif now - self._flushed >= min(FLUSH_S, (now - self._started) / 2):
            self._obey(self._flush())  # at first at once: somebody may be watching
        if self._limit_s is not None and now - self._started >= self._limit_s:
            raise TimedOut

    def _is_checkpoint_due(self, step: Step, now: float) -> bool:
        if step.snapshot is None or step.is_last_good:
            return False
        if step.is_milestone:
            return bool(now - self._checkpointed >= FIRST_CHECKPOINT_S)
        if self._every_epochs is not None:
            if step.epoch - self._checkpoint_epoch >= self._every_epochs:
                return True
            if self._every_s is None:
                return False
        assert self._every_s is not None
        wait = self._every_s if self._has_checkpoint else min(self._every_s, FIRST_CHECKPOINT_S)
        return bool(now - self._checkpointed >= wait)

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
        )
        self._forget()
        return recorded

    def _forget(self) -> None:
        self._events, self._progress, self._metrics = [], None, None
        self._flushed = self._clock()

    def _store_checkpoint(self, step: Step) -> Recorded:
        """Write the snapshot under a name of this attempt's own; the row makes it the job's."""
        assert step.snapshot is not None
        key = checkpoint_key(self.job.id, self.job.attempts)
        write_checkpoint(self._blobs, key, step.snapshot())
        try:
            recorded = self._flush(Checkpoint(key, step.epoch))
        except LeaseLost:
            self._blobs.delete(key)
            raise
        if recorded.replaced is not None:
            self._blobs.delete(recorded.replaced)
        self._has_checkpoint = True
        self._checkpoint_key = key
        self._checkpointed = self._clock()
        self._checkpoint_epoch = step.epoch
        return recorded

    def load_checkpoint(self) -> bytes | None:
        """Return the snapshot that the last attempt left, unless it is missing or damaged."""
        checkpoint = self.job.checkpoint
        if checkpoint is None:
            return None
        content = read_checkpoint(self._blobs, checkpoint.key)
        if content is None:
            self.note("the checkpoint is damaged or missing; the job starts again")
            return None
        self._checkpoint_epoch = checkpoint.epoch
        self._has_checkpoint = True
        return content

    def give_back(self) -> None:
        """Checkpoint the job where it stands and put it back into the queue."""
        if self.last is not None and self.last.snapshot is not None:
            self._store_checkpoint(self.last)
        else:
            self._flush()
        self._jobs.release(self.job)

    def fail(self, kind: ErrorKind, detail: str, *, pointer: str | None = None) -> None:
        """End the job as failed, with what it has said so far."""
        error = job_error(kind, detail)
        if pointer is not None:
            error["errors"] = [{"pointer": pointer, "detail": detail}]
        # An attempt that ran out of time stands between two steps; others broke within one.
        stands = kind == "timeout" or (self._is_last_good and not self._has_checkpoint)
        self._finish(Status.FAILED, error=error, state=self._state() if stands else None)

    @property
    def _is_last_good(self) -> bool:
        return self.last is not None and self.last.is_last_good

    def finish(self, status: Status, result: TaskResult | None) -> None:
        """End the job with what it leaves, in one transaction."""
        metrics = None if result is None else result.metrics
        state = self._state()
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
        write_checkpoint(self._blobs, key, step.snapshot())
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
        except BaseException:
            if state is not None:
                self._blobs.delete(state.key)
            raise
        if state is not None and self._checkpoint_key is not None:
            self._blobs.delete(self._checkpoint_key)
        self._blobs.delete_parts(self.job.id)
        self._forget()
        return finished
