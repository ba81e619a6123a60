"""Workers: claim a job, run it, record what it does, finish it. Nothing here knows PyTorch."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from engine.data import formats
from engine.data.dataset import Data
from engine.data.schema import Schema
from engine.data.scratch import Scratch
from engine.errors import ArtifactError, EngineError
from service.attempts import Attempt
from service.errors import Corrupt, LeaseLost, NotFound, ServiceError, StorageFull, Unavailable
from service.interruptions import Cancelled, Stopped, TimedOut
from service.memory import at_most, is_out_of_memory
from service.steps import LOOK_S, Step, Task, TaskResult
from service.store.blobs import Blobs, part_key
from service.store.datasets import Datasets
from service.store.jobs import Job, Jobs, Status
from service.store.models import Models
from service.store.room import is_full

__all__ = ["Worker"]

logger = structlog.get_logger(__name__)

STEP_S = 0.05
"""How often a task that goes on in small pieces says where it stands."""
ROOM_S = (1.0, 60.0)
"""How long a worker without room waits before it tries again, at first and at most."""


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What a task may ask for; see `TaskContext`."""

    job: Job
    datasets: Datasets
    models: Models
    blobs: Blobs
    checkpoint: bytes | None
    threads: int
    attempt: Attempt
    max_scratch_bytes: int | None

    @property
    def scratch(self) -> Scratch:
        folder = self.blobs.scratch
        most = self.max_scratch_bytes
        if most is None:
            most = shutil.disk_usage(folder).free // 2
        return Scratch(folder=folder, bytes=most)

    def wants_step(self, *, at_epoch: bool) -> bool:
        return self.attempt.wants_step(at_epoch=at_epoch)

    def data(self, dataset_id: str) -> Data:
        dataset = self.datasets.get(dataset_id)
        with _present(f"the content of data set {dataset_id}"):
            return self.blobs.load(dataset.blob, partial(formats.load, kind=dataset.kind))

    def schema(self, dataset_id: str) -> Schema:
        return Schema.model_validate(self.datasets.get(dataset_id).schema)

    def model(self, model_id: str) -> tuple[dict[str, Any], bytes]:
        model = self.models.get(model_id)
        what = f"model {model_id}"
        with _present(f"the weights of {what}"):
            self.blobs.verify(model.weights, model.document["weights"]["sha256"], what)
            with self.blobs.open(model.weights) as stream:
                return model.document, stream.read()

    def put_part(self, writer: Callable[[BinaryIO], None]) -> str:
        key = part_key(self.job.id, self.job.attempts)
        self.attempt.stored(partial(self.blobs.put, key, writer))
        return key

    def part(self, key: str) -> Path | None:
        return self.blobs.path(key) if self.blobs.exists(key) else None

    def temporary(self) -> Path:
        self.attempt.files.append(self.blobs.temporary())
        return self.attempt.files[-1]


class Worker:
    """Runs jobs one after another, as one process."""

    def __init__(
        self,
        name: str,
        *,
        jobs: Jobs,
        datasets: Datasets,
        models: Models,
        blobs: Blobs,
        tasks: Mapping[str, Task],
        should_stop: Callable[[], bool] = lambda: False,
        tick: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
        threads: int = 1,
        max_scratch_bytes: int | None = None,
        checkpointing: Executor | None = None,
        recording: Executor | None = None,
        max_job_bytes: int | None = None,
        step_s: float = STEP_S,
    ) -> None:
        """`tick` is called at every step, as a sign of life; `clock` gives seconds.

        `pause` lets some of them pass, and may return sooner where the worker is to stop.
        One job may use `threads`; its files without a name may take `max_scratch_bytes`, by default
        half of what is free on the disk; it allocates at most `max_job_bytes`. While it goes on,
        `checkpointing` writes checkpoints and `recording` what it says: by default a thread each.
        Every `step_s` it is looked at, or after each piece of work that takes longer.
        """
        self.name = name
        self._jobs = jobs
        self._datasets = datasets
        self._models = models
        self._blobs = blobs
        self._tasks = tasks
        self._should_stop = should_stop
        self._tick = tick
        self._clock = clock
        self._pause = pause
        self._not_before = float("-inf")
        self._backoff_s = ROOM_S[0]
        self._threads = threads
        self._max_job_bytes = max_job_bytes
        self._max_scratch_bytes = max_scratch_bytes
        self._checkpointing = checkpointing or ThreadPoolExecutor(1, "checkpoint")
        self._recording = recording or ThreadPoolExecutor(1, "record")
        self._step_s = step_s

    def work_once(self) -> bool:
        """Claim and run one job; return False when none is runnable, or there is no room."""
        if self._clock() < self._not_before or not self._blobs.room.is_left():
            return False
        try:
            job = self._jobs.claim(self.name)
        except (StorageFull, Unavailable):
            return False
        if job is None:
            return False
        log = logger.bind(job=job.id, attempt=job.attempts)
        log.info("job started", kind=job.kind)
        try:
            self._run(job)
        except LeaseLost:
            log.warning("lease lost: the job's new owner decides how it ends")
        except Stopped:
            log.info("job given back: the worker stops")
        return True

    def _run(self, job: Job) -> None:
        """Run the job and finish it in whichever way it ends."""
        attempt = Attempt(
            job,
            jobs=self._jobs,
            datasets=self._datasets,
            blobs=self._blobs,
            clock=self._clock,
            checkpointing=self._checkpointing,
            recording=self._recording,
            step_s=self._step_s,
            wait=self._await_room,
        )
        try:
            with at_most(self._memory_of(job)):
                attempt.finish(*self._outcome(job, attempt))
            self._backoff_s = ROOM_S[0]
        except TimedOut:
            limit = job.spec["limits"]["seconds"]
            attempt.fail("timeout", f"the job ran for its limit of {limit:g} seconds")
        except (EngineError, NotFound) as error:
            attempt.fail("user", error.detail, pointer=error.pointer)
        except (LeaseLost, Stopped):
            raise
        except StorageFull as error:
            self._put_off(attempt, error.detail)
        except Exception as error:
            self._fail(job, attempt, error)
        finally:
            attempt.clean()

    def _memory_of(self, job: Job) -> int | None:
        """Return the most bytes that a job may allocate; None without a limit."""
        asked = (job.spec.get("limits") or {}).get("memory_bytes")
        limits = [limit for limit in (asked, self._max_job_bytes) if limit is not None]
        return min(limits) if limits else None

    def _fail(self, job: Job, attempt: Attempt, error: Exception) -> None:
        """End, or put back, a job that an error ended which is not one of its own spec."""
        if is_out_of_memory(error):
            limit = self._memory_of(job)
            than = "its worker has" if limit is None else f"the {limit} bytes that it may have"
            attempt.fail("memory", f"the job needs more memory than {than}")
        elif isinstance(error, OSError) and is_full(error):
            self._put_off(attempt, "the disk is full")
        elif isinstance(error, ServiceError):
            logger.exception("job broke on the store", job=job.id)
            attempt.fail("infrastructure", error.detail)
        else:
            logger.exception("job broke", job=job.id)
            attempt.fail("infrastructure", "an internal error ended the job; it has been logged")

    def _await_room(self) -> None:
        """Let a second pass before a full disk is tried again; raises Stopped at a stop."""
        self._tick()
        if self._should_stop():
            raise Stopped
        self._pause(ROOM_S[0])

    def _put_off(self, attempt: Attempt, why: str) -> None:
        """Put a job back that found no room within a step, and claim none for a while."""
        logger.error("the job waits for room in the queue", job=attempt.job.id, detail=why)
        attempt.note("the disk is full: the job waits in the queue for room")
        attempt.wait_in_queue("storage_full")
        self._not_before = self._clock() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, ROOM_S[1])

    def _outcome(self, job: Job, attempt: Attempt) -> tuple[Status, TaskResult | None]:
        """Run the job to its end, or to where it is cancelled; return what it leaves."""
        try:
            last = self._follow(job, attempt)
            return Status.SUCCEEDED, _result_of(last)
        except Cancelled as cancelled:
            kept = _result_of(attempt.last) if cancelled.keep else None
            if cancelled.keep and kept is None:
                attempt.note("there was nothing to keep yet: no epoch had ended")
            return Status.CANCELLED, kept

    def _follow(self, job: Job, attempt: Attempt) -> Step | None:
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
            attempt.begin_anew("the checkpoint could not be used; the job starts again")
            return self._steps(job, attempt, None)

    def _steps(self, job: Job, attempt: Attempt, checkpoint: bytes | None) -> Step | None:
        context = _Context(
            job=job,
            datasets=self._datasets,
            models=self._models,
            blobs=self._blobs,
            checkpoint=checkpoint,
            threads=self._threads,
            attempt=attempt,
            max_scratch_bytes=self._max_scratch_bytes,
        )
        with closing(_generator(self._tasks[job.kind](job, context))) as steps:
            for step in steps:
                self._tick()
                attempt.take(step)
                self._let_catch_up(attempt)
                if self._should_stop() and not step.is_last_good:
                    attempt.give_back()
                    raise Stopped
        attempt.take_no_more()
        self._let_catch_up(attempt)
        return attempt.last

    def _let_catch_up(self, attempt: Attempt) -> None:
        """Have the attempt wait for its disk, if it must, alive and ready to be ended."""
        while attempt.is_behind and not self._should_stop():
            self._tick()
            attempt.wait(LOOK_S)


def _result_of(step: Step | None) -> TaskResult | None:
    return None if step is None or step.result is None else step.result()


@contextmanager
def _present(what: str) -> Iterator[None]:
    """Raise Corrupt where what a job needs is missing, since nobody can have deleted it."""
    try:
        yield
    except NotFound as error:
        raise Corrupt(
            f"{what} cannot be found on the server's disk; restore it from a backup"
        ) from error


def _generator(steps: Iterator[Step]) -> Any:
    """Give any iterator the `close` of a generator."""
    yield from steps
