"""Workers: claim a job, run it, record what it does, finish it. Nothing here knows PyTorch.

A task is an iterator of steps; between two steps its job can be checkpointed, cancelled, timed out
or given back, so a task yields at least once a second.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from engine.data import formats
from engine.data.dataset import Data
from engine.errors import ArtifactError, EngineError
from service.errors import LeaseLost, NotFound, ServiceError
from service.store.blobs import Blobs, checkpoint_key, model_key
from service.store.database import new_id
from service.store.datasets import Datasets
from service.store.jobs import Checkpoint, ErrorKind, Job, Jobs, Recorded, Status, job_error
from service.store.models import NewModelRow

__all__ = ["NewModel", "Step", "Task", "TaskContext", "TaskResult", "Worker"]

logger = structlog.get_logger(__name__)

FLUSH_S = 0.2
FIRST_CHECKPOINT_S = 2.0
CHECKPOINT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A trained model: its JSON document and its safetensors file."""

    name: str | None
    document: dict[str, Any]
    weights: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a job leaves."""

    metrics: dict[str, Any]
    model: NewModel | None


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a task says between two pieces of work."""

    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    progress: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    epoch: int = 0
    """Whole epochs behind it."""
    is_milestone: bool = False
    """A good moment for a checkpoint, due or not."""
    snapshot: Callable[[], bytes] | None = None
    """Everything that is needed to go on from here."""
    result: Callable[[], TaskResult] | None = None
    """What the job leaves if it ends here; the last step's is what it does leave."""


class TaskContext(Protocol):
    """What a task may ask of its worker."""

    @property
    def checkpoint(self) -> bytes | None:
        """An earlier attempt's last snapshot."""

    def data(self, dataset_id: str) -> Data:
        """Return a stored data set."""


Task = Callable[[Job, TaskContext], Iterator[Step]]


@dataclass(frozen=True, kw_only=True)
class _Context:
    datasets: Datasets
    blobs: Blobs
    checkpoint: bytes | None

    def data(self, dataset_id: str) -> Data:
        dataset = self.datasets.get(dataset_id)
        return formats.load(self.blobs.path(dataset.blob), dataset.kind)


class _Stopped(Exception):
    """The worker has been told to stop, and the job is checkpointed and given back."""


class _Cancelled(Exception):
    def __init__(self, *, keep: bool) -> None:
        self.keep = keep


class _TimedOut(Exception):
    pass


class Worker:
    """Runs jobs one after another, as one process."""

    def __init__(
        self,
        name: str,
        *,
        jobs: Jobs,
        datasets: Datasets,
        blobs: Blobs,
        tasks: Mapping[str, Task],
        should_stop: Callable[[], bool] = lambda: False,
        tick: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tick` is called at every step, as a sign of life; `clock` gives seconds."""
        self.name = name
        self._jobs = jobs
        self._datasets = datasets
        self._blobs = blobs
        self._tasks = tasks
        self._should_stop = should_stop
        self._tick = tick
        self._clock = clock

    def work_once(self) -> bool:
        """Claim and run one job; return False when none is runnable."""
        job = self._jobs.claim(self.name)
        if job is None:
            return False
        log = logger.bind(job=job.id, attempt=job.attempts)
        log.info("job started", kind=job.kind)
        try:
            self._run(job)
        except LeaseLost:
            log.warning("lease lost: the job's new owner decides how it ends")
        except _Stopped:
            log.info("job given back: the worker stops")
        return True

    def _run(self, job: Job) -> None:
        """Run the job and finish it in whichever way it ends."""
        attempt = _Attempt(job, jobs=self._jobs, blobs=self._blobs, clock=self._clock)
        try:
            attempt.finish(*self._outcome(job, attempt))
        except _TimedOut:
            limit = job.spec["limits"]["seconds"]
            attempt.fail("timeout", f"the job ran for its limit of {limit:g} seconds")
        except (EngineError, NotFound) as error:
            attempt.fail("user", error.detail, pointer=error.pointer)
        except MemoryError:
            attempt.fail("memory", "the job needs more memory than its worker has")
        except (LeaseLost, _Stopped):
            raise
        except ServiceError as error:
            logger.exception("job broke on the store", job=job.id)
            attempt.fail("infrastructure", error.detail)
        except Exception:
            logger.exception("job broke", job=job.id)
            attempt.fail("infrastructure", "an internal error ended the job; it has been logged")

    def _outcome(self, job: Job, attempt: _Attempt) -> tuple[Status, TaskResult | None]:
        """Run the job to its end, or to where it is cancelled; return what it leaves."""
        try:
            last = self._follow(job, attempt)
            return Status.SUCCEEDED, _result_of(last)
        except _Cancelled as cancelled:
            return Status.CANCELLED, _result_of(attempt.last) if cancelled.keep else None

    def _follow(self, job: Job, attempt: _Attempt) -> Step | None:
        """Go through the task's steps to the last; raise to end it before."""
        if job.kind not in self._tasks:
            raise ServiceError(f"this worker knows no jobs of kind {job.kind!r}")
        checkpoint = attempt.load_checkpoint()
        try:
            return self._steps(job, attempt, checkpoint)
        except ArtifactError:
            if checkpoint is None:
                raise
            # A checkpoint that cannot be used costs the work it held, not the job.
            attempt.note("the checkpoint could not be used; training starts again")
            return self._steps(job, attempt, None)

    def _steps(self, job: Job, attempt: _Attempt, checkpoint: bytes | None) -> Step | None:
        context = _Context(datasets=self._datasets, blobs=self._blobs, checkpoint=checkpoint)
        with closing(_generator(self._tasks[job.kind](job, context))) as steps:
            for step in steps:
                self._tick()
                attempt.take(step)
                if self._should_stop():
                    attempt.give_back()
                    raise _Stopped
        return attempt.last


def _result_of(step: Step | None) -> TaskResult | None:
    return None if step is None or step.result is None else step.result()


def _generator(steps: Iterator[Step]) -> Any:
    """Give any iterator the `close` of a generator."""
    yield from steps


class _Attempt:
    """What one attempt has said but not yet stored, and what it stores."""

    def __init__(self, job: Job, *, jobs: Jobs, blobs: Blobs, clock: Callable[[], float]) -> None:
        self.job = job
        self.last: Step | None = None
        self._jobs = jobs
        self._blobs = blobs
        self._clock = clock
        self._started = self._flushed = self._checkpointed = clock()
        self._checkpoint_epoch = 0
        self._has_checkpoint = False
        self._events: list[tuple[str, Mapping[str, Any]]] = []
        self._progress: Mapping[str, Any] | None = None
        self._metrics: Mapping[str, Any] | None = None
        every = job.spec.get("checkpoint_every") or {}
        self._every_s = every.get("seconds")
        self._every_epochs = every.get("epochs")
        if self._every_s is None and self._every_epochs is None:
            self._every_s = CHECKPOINT_S
        self._limit_s = (job.spec.get("limits") or {}).get("seconds")

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
            raise _TimedOut

    def _is_checkpoint_due(self, step: Step, now: float) -> bool:
        if step.snapshot is None:
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
            raise _Cancelled(keep=recorded.keep)

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
        content = step.snapshot()
        key = checkpoint_key(self.job.id, self.job.attempts)
        self._blobs.put_bytes(key, hashlib.sha256(content).digest() + content)
        try:
            recorded = self._flush(Checkpoint(key, step.epoch))
        except LeaseLost:
            self._blobs.delete(key)
            raise
        if recorded.replaced is not None:
            self._blobs.delete(recorded.replaced)
        self._has_checkpoint = True
        self._checkpointed = self._clock()
        self._checkpoint_epoch = step.epoch
        return recorded

    def load_checkpoint(self) -> bytes | None:
        """Return the snapshot that the last attempt left, unless it is missing or damaged."""
        checkpoint = self.job.checkpoint
        if checkpoint is None:
            return None
        try:
            with self._blobs.open(checkpoint.key) as stream:
                stored = stream.read()
        except NotFound:
            stored = b""
        digest, content = stored[:32], stored[32:]
        if hashlib.sha256(content).digest() != digest:
            self.note("the checkpoint is damaged or missing; training starts again")
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
        self._finish(Status.FAILED, error=error)

    def finish(self, status: Status, result: TaskResult | None) -> None:
        """End the job with what it leaves, in one transaction."""
        if result is None or result.model is None:
            self._finish(status, metrics=None if result is None else result.metrics)
            return
        model_id = new_id("mdl")
        key = model_key(model_id)
        self._blobs.put_bytes(key, result.model.weights)
        row = NewModelRow(
            id=model_id,
            name=result.model.name,
            owner=self.job.owner,
            document=result.model.document,
            weights=key,
        )
        try:
            finished = self._finish(status, metrics=result.metrics, model=row)
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
    ) -> Job:
        finished = self._jobs.finish(
            self.job,
            status,
            events=self._events,
            progress=self._progress,
            metrics=metrics or self._metrics,
            error=error,
            model=model,
        )
        self._forget()
        return finished
