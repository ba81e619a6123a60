"""Stores, clocks and disks for workers that run a task of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from service.errors import StorageFull
from service.steps import NewModel, Step, Task, TaskContext, TaskResult
from service.store.blobs import Blobs
from service.store.datasets import Datasets
from service.store.jobs import Job, Jobs, NewJob
from service.store.models import Models
from service.store.room import Room
from service.worker import Worker
from tests.service.at_once import AtOnce
from tests.service.store.new_databases import new_database


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowDisk(Blobs):
    """A folder whose disk takes checkpoints only when it is let to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.let = threading.Event(), threading.Event()
        self.is_full = False

    def put(self, key: str, writer: Callable[[BinaryIO], None]) -> int:
        if key.startswith("checkpoints/"):
            self.asked.set()
            assert self.let.wait(60)
            if self.is_full:
                raise StorageFull("the disk is full")
        return super().put(key, writer)


class World:
    """A store, a clock and the means to run one job by a task of the test's own."""

    def __init__(
        self, folder: Path, blobs: Blobs | None = None, checkpointing: Executor | None = None
    ) -> None:
        self.folder = folder
        self.database = new_database(folder / "test.db")
        self.blobs = blobs or Blobs(folder / "artifacts")
        self.checkpointing = checkpointing or AtOnce()
        self.recording: Executor = AtOnce()
        self.clock = Clock()
        self.jobs = Jobs(self.database, lambda: datetime.now(UTC), max_failures=3)
        self.models = Models(self.database, lambda: datetime.now(UTC))
        self.ticks = 0
        self.on_tick: Callable[[], None] = lambda: None
        self.stops = False

    def queue(self, **spec: Any) -> str:
        return self.jobs.create(NewJob(kind="count", spec=spec)).id

    def work(self, task: Task, name: str = "worker", **options: Any) -> bool:
        return self.worker(task, name, **options).work_once()

    def worker(self, task: Task, name: str = "worker", **options: Any) -> Worker:
        return Worker(
            name,
            jobs=self.jobs,
            datasets=Datasets(self.database, lambda: datetime.now(UTC), self.blobs),
            models=self.models,
            blobs=self.blobs,
            tasks={"count": task},
            should_stop=lambda: self.stops,
            tick=self._tick,
            clock=self.clock,
            pause=self.pause,
            checkpointing=self.checkpointing,
            recording=self.recording,
            **{"step_s": 0.0} | options,
        )

    def _tick(self) -> None:
        self.ticks += 1
        self.on_tick()

    def pause(self, seconds: float) -> None:
        self.clock.now += seconds

    def types(self, job_id: str) -> list[str]:
        return [event.type for event in self.jobs.events(job_id).data]

    def blob_keys(self, folder: str) -> list[str]:
        return [key for key, _ in self.blobs.keys(folder)]


def result_of(name: str | None, number: int) -> TaskResult:
    model = NewModel(name=name, document={"counted": number}, weights=b"w" * number)
    return TaskResult(metrics={"train": {"loss": 1.0 / number}}, model=model)


def counting(
    world: World,
    upto: int = 5,
    *,
    seconds: float = 1.0,
    on_step: Callable[[int], None] = lambda _: None,
) -> Task:
    """A task that counts epochs, each taking `seconds`, and leaves a model that says how far."""

    def task(job: Job, context: TaskContext) -> Iterator[Step]:
        start = int(context.checkpoint or b"0")
        for number in range(start + 1, upto + 1):
            world.clock.now += seconds
            on_step(number)
            yield Step(
                events=(("epoch", {"epoch": number}),),
                progress={"completed": number, "total": upto},
                metrics={"train": {"loss": 1.0 / number}},
                epoch=number,
                snapshot=partial(partial, str(number).encode),
                result=partial(result_of, job.name, number),
            )

    return task


def messages(world: World, job_id: str) -> list[str]:
    return [e.data["message"] for e in world.jobs.events(job_id).data if e.type == "log"]


class SlowWorld(World):
    """A world whose checkpoints are written by a thread of their own, to a disk that waits."""

    def __init__(self, folder: Path) -> None:
        self.disk = SlowDisk(folder / "artifacts")
        self.thread = ThreadPoolExecutor(1)
        super().__init__(folder, self.disk, self.thread)

    def let_write(self) -> None:
        """Have the disk take what waits, and wait until all of it is done."""
        self.disk.let.set()
        self.thread.submit(int).result()

    def checkpointed(self, job_id: str) -> int | None:
        checkpoint = self.jobs.get(job_id).checkpoint
        return None if checkpoint is None else checkpoint.epoch


class FullWorld(World):
    """A world whose disk has as many bytes free as a test says."""

    def __init__(self, folder: Path) -> None:
        self.free = 10_000
        self.on_pause: Callable[[], object] = lambda: None
        room = Room(folder, min_free_bytes=1000, free=lambda _: self.free)
        super().__init__(folder, Blobs(folder / "artifacts", room))

    def pause(self, seconds: float) -> None:
        self.clock.now += seconds
        self.on_pause()

    def fill(self, number: int, at: int) -> None:
        """Have the disk be full from the step `at` on."""
        if number == at:
            self.free = 0

    def empty(self) -> None:
        self.free = 10_000
