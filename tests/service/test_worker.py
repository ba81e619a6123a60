"""Workers: what becomes of a job under every way in which its attempt can end. No PyTorch here."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import sqlalchemy as sa

from engine.errors import ArtifactError, DivergedError
from service.errors import StorageFull, Unavailable
from service.steps import NewModel, Step, Task, TaskContext, TaskResult
from service.store.blobs import Blobs
from service.store.database import Database, sqlite_url
from service.store.datasets import Datasets
from service.store.jobs import Job, Jobs, NewJob, Status
from service.store.models import Models
from service.store.room import Room
from service.store.sweep import sweep
from service.worker import Worker
from tests.service.at_once import AtOnce


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
        self.database = Database(sqlite_url(folder / "test.db"))
        self.database.migrate()
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
            **options,
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


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


def _result(name: str | None, number: int) -> TaskResult:
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
                result=partial(_result, job.name, number),
            )

    return task


def test_a_job_leaves_its_model_events_and_metrics(world: World) -> None:
    job_id = world.queue()
    assert world.work(counting(world))
    job = world.jobs.get(job_id)
    assert job.status is Status.SUCCEEDED
    assert job.metrics == {"train": {"loss": 0.2}}
    assert job.progress == {"completed": 5, "total": 5}
    assert job.model is not None
    model = world.models.get(job.model)
    assert model.document == {"counted": 5}
    with world.blobs.open(model.weights) as stream:
        assert stream.read() == b"wwwww"
    assert world.types(job_id).count("epoch") == 5
    assert world.ticks == 5
    assert not world.work(counting(world))


def test_events_are_stored_in_groups_and_all_of_them(world: World) -> None:
    job_id = world.queue()
    seen: list[int] = []

    def count(_: int) -> None:
        seen.append(world.types(job_id).count("epoch"))

    world.work(counting(world, 10, seconds=0.13, on_step=count))
    assert seen == [0, 1, 2, 2, 4, 4, 6, 6, 8, 8]
    assert world.types(job_id).count("epoch") == 10


def test_a_killed_attempt_goes_on_from_its_last_checkpoint(world: World) -> None:
    job_id = world.queue(checkpoint_every={"seconds": 2})

    def die(number: int) -> None:
        if number == 6:
            raise KeyboardInterrupt  # as abrupt as a kill: nothing more is stored

    with pytest.raises(KeyboardInterrupt):
        world.work(counting(world, 8, on_step=die))
    world.jobs.worker_died("worker", "infrastructure", "killed")
    started: list[int] = []
    world.work(counting(world, 8, on_step=started.append), name="another")
    assert started[0] == 5
    job = world.jobs.get(job_id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 2)
    (retried,) = [e for e in world.jobs.events(job_id).data if e.type == "retried"]
    assert retried.data["from_epoch"] == 4
    epochs = [event.data["epoch"] for event in world.jobs.epochs(job_id)]
    assert epochs == list(range(1, 9))
    assert len(world.blob_keys("checkpoints")) == 1
    assert len(world.blob_keys("models")) == 1


def test_checkpoints_can_be_counted_in_epochs(world: World) -> None:
    job_id = world.queue(checkpoint_every={"epochs": 3})
    world.work(counting(world, 10, seconds=0.001))
    epochs = [e.data["epoch"] for e in world.jobs.events(job_id).data if e.type == "checkpoint"]
    assert epochs == [3, 6, 9]


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, None])
def test_a_damaged_checkpoint_costs_its_work_not_the_job(
    world: World, damage: bytes | None
) -> None:
    job_id = world.queue(checkpoint_every={"seconds": 1})
    world.stops = True
    world.work(counting(world))
    (key,) = world.blob_keys("checkpoints")
    world.blobs.delete(key)
    if damage is not None:
        world.blobs.put_bytes(key, damage)
    world.stops = False
    started: list[int] = []
    world.work(counting(world, on_step=started.append))
    assert started[0] == 1
    assert world.jobs.get(job_id).status is Status.SUCCEEDED
    messages = [e.data["message"] for e in world.jobs.events(job_id).data if e.type == "log"]
    assert "damaged" in messages[0]


def test_a_checkpoint_of_something_else_costs_its_work_not_the_job(world: World) -> None:
    job_id = world.queue(checkpoint_every={"seconds": 1})
    world.stops = True
    world.work(counting(world))
    world.stops = False

    def picky(job: Job, context: TaskContext) -> Iterator[Step]:
        if context.checkpoint is not None:
            raise ArtifactError("the checkpoint belongs to another network")
        yield from counting(world)(job, context)

    world.work(picky)
    assert world.jobs.get(job_id).status is Status.SUCCEEDED


def test_a_stopping_worker_gives_its_job_back_with_a_checkpoint(world: World) -> None:
    job_id = world.queue(checkpoint_every={"seconds": 600})

    def stop(number: int) -> None:
        world.stops = number == 3

    world.work(counting(world, on_step=stop))
    job = world.jobs.get(job_id)
    assert (job.status, job.failures) == (Status.QUEUED, 0)
    assert job.checkpoint is not None
    assert job.checkpoint.epoch == 3
    world.stops = False
    started: list[int] = []
    world.work(counting(world, on_step=started.append))
    assert started == [4, 5]


@pytest.mark.parametrize("keep", [False, True])
def test_a_cancelled_job_stops_at_the_next_step(world: World, keep: bool) -> None:
    job_id = world.queue()
    ran: list[int] = []

    def cancel(number: int) -> None:
        ran.append(number)
        if number == 2:
            world.jobs.cancel(job_id, keep=keep)

    world.work(counting(world, on_step=cancel))
    job = world.jobs.get(job_id)
    assert ran == [1, 2]
    assert job.status is Status.CANCELLED
    assert (job.model is not None) == keep
    if job.model is not None:
        assert world.models.get(job.model).document == {"counted": 2}
    assert not world.work(counting(world))


def test_a_job_ends_at_its_time_limit(world: World) -> None:
    job_id = world.queue(limits={"seconds": 3})
    world.work(counting(world, 100))
    job = world.jobs.get(job_id)
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["kind"] == "timeout"
    assert "3 seconds" in job.error["detail"]


def test_the_time_limit_counts_all_attempts_and_not_the_time_between(world: World) -> None:
    job_id = world.queue(limits={"seconds": 10}, checkpoint_every={"epochs": 1})

    class Killed(BaseException):
        pass

    def kill(_: int) -> None:
        if world.clock.now - begun >= 3:
            raise Killed

    for attempt in range(4):
        world.clock.now += 1000  # in the queue
        begun = world.clock.now
        if attempt < 3:
            with pytest.raises(Killed):
                world.work(counting(world, 100, on_step=kill))
            world.jobs.worker_died("worker", "infrastructure", "killed", counts=False)
            # The two steps that were done are known; of the third nothing was told.
            assert world.jobs.get(job_id).ran_s == 2 * (attempt + 1)
        else:
            world.work(counting(world, 100))
    job = world.jobs.get(job_id)
    assert (job.status, job.attempts) == (Status.FAILED, 4)
    assert job.error is not None
    assert job.error["kind"] == "timeout"
    assert world.clock.now - begun == 4  # and 3 x 2 before


def test_a_job_that_has_had_its_time_ends_at_the_first_step_of_its_next_attempt(
    world: World,
) -> None:
    job_id = world.queue(limits={"seconds": 3})
    world.jobs.record(world.jobs.claim("first") or pytest.fail("no job"), ran_s=3.5)
    world.jobs.worker_died("first", "infrastructure", "killed", counts=False)
    world.work(counting(world, 100))
    job = world.jobs.get(job_id)
    assert job.error is not None
    assert job.error["kind"] == "timeout"
    assert world.types(job_id).count("epoch") == 1


def test_other_clocks_do_not_move_a_time_limit(world: World) -> None:
    instants = iter(datetime(2020 + 10 * (number % 2), 1, 1, tzinfo=UTC) for number in range(1000))
    world.jobs = Jobs(world.database, lambda: next(instants), max_failures=3)
    job_id = world.queue(limits={"seconds": 10})
    world.work(counting(world))
    assert world.jobs.get(job_id).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "kind", "shown"),
    [
        (DivergedError("the loss became nan", pointer="#/optimizer"), "user", "became nan"),
        (MemoryError("secret"), "memory", "memory"),
        (ZeroDivisionError("secret"), "infrastructure", "internal error"),
        (OSError(5, "secret"), "infrastructure", "internal error"),
    ],
)
def test_a_failed_job_says_whose_fault_it_was(
    world: World, error: Exception, kind: str, shown: str
) -> None:
    job_id = world.queue()

    def fail(number: int) -> None:
        if number == 2:
            raise error

    world.work(counting(world, on_step=fail))
    job = world.jobs.get(job_id)
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["kind"] == kind
    assert shown in job.error["detail"]
    assert "secret" not in str(job.error)
    assert world.types(job_id).count("epoch") == 1  # what it had said is kept


def test_a_worker_that_lost_its_lease_leaves_nothing_behind(world: World) -> None:
    job_id = world.queue(checkpoint_every={"seconds": 1000})

    def lose(number: int) -> None:
        if number == 3:
            world.jobs.void_leases()

    world.work(counting(world, seconds=0.001, on_step=lose))
    assert world.jobs.get(job_id).status is Status.QUEUED
    assert world.blob_keys("models") == []
    assert world.models.list().data == []
    world.work(counting(world))
    assert len(world.models.list().data) == 1


def test_an_unknown_kind_of_job_fails_and_harms_nobody(world: World) -> None:
    job_id = world.jobs.create(NewJob(kind="dance", spec={})).id
    world.work(counting(world))
    assert world.jobs.get(job_id).status is Status.FAILED


def test_a_milestone_is_checkpointed_though_none_is_due(world: World) -> None:
    job_id = world.queue(checkpoint_every={"seconds": 600})

    def task(_job: Job, _context: TaskContext) -> Iterator[Step]:
        for number in (1, 2, 3):
            world.clock.now += 0.9
            yield Step(
                epoch=number, snapshot=partial(partial, b"s".strip), is_milestone=number == 3
            )

    world.work(task)
    epochs = [e.data["epoch"] for e in world.jobs.events(job_id).data if e.type == "checkpoint"]
    assert epochs == [3]


@pytest.mark.parametrize("cancels", [False, True])
def test_what_goes_wrong_with_the_result_ends_the_job_not_the_worker(
    world: World, cancels: bool
) -> None:
    job_id = world.queue()

    def leave() -> TaskResult:
        raise ZeroDivisionError("secret")

    def task(_job: Job, _context: TaskContext) -> Iterator[Step]:
        yield Step(result=leave)
        if cancels:
            world.clock.now += 1
            world.jobs.cancel(job_id, keep=True)
            yield Step(result=leave)

    assert world.work(task)
    job = world.jobs.get(job_id)
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["kind"] == "infrastructure"


def test_a_job_cancelled_at_the_last_moment_leaves_no_model(world: World) -> None:
    job_id = world.queue()

    def leave() -> TaskResult:
        world.jobs.cancel(job_id)
        return _result(None, 3)

    def task(_job: Job, _context: TaskContext) -> Iterator[Step]:
        yield Step(result=leave)

    world.work(task)
    assert world.jobs.get(job_id).status is Status.CANCELLED
    assert world.blob_keys("models") == []


# -- a disk that is slow ---------------------------------------------------------------------------


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


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowWorld]:
    made = SlowWorld(tmp_path)
    yield made
    made.let_write()
    made.thread.shutdown()
    made.database.close()


def test_a_job_goes_on_while_its_checkpoint_is_written(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})
    seen: list[int | None] = []

    def on_step(number: int) -> None:
        seen.append(slow.checkpointed(job_id))
        if number == 5:
            assert slow.disk.asked.is_set()
            slow.let_write()

    slow.work(counting(slow, 8, on_step=on_step))
    # Taken at epoch 2, on the disk before step 5, the job's with it; the next was owed by then.
    assert seen[:6] == [None] * 5 + [2]
    events = slow.jobs.events(job_id).data
    said = [(e.type, e.data["epoch"]) for e in events if e.type in ("epoch", "checkpoint")]
    assert said[:6] == [("epoch", n) for n in range(1, 6)] + [("checkpoint", 2)]
    assert [n for kind, n in said if kind == "epoch"] == list(range(1, 9))
    assert slow.jobs.get(job_id).status is Status.SUCCEEDED


def test_a_kill_between_a_checkpoint_and_its_row_repeats_and_skips_nothing(
    slow: SlowWorld, tmp_path_factory: pytest.TempPathFactory
) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})
    copy = tmp_path_factory.mktemp("killed") / "data"

    def on_step(number: int) -> None:
        if number == 4:
            slow.let_write()
            shutil.copytree(slow.folder, copy)  # what a kill at this instant would leave

    slow.work(counting(slow, 5, on_step=on_step))
    after = World(copy)
    assert len(after.blob_keys("checkpoints")) == 1
    assert after.jobs.get(job_id).checkpoint is None
    after.jobs.void_leases()
    started: list[int] = []
    after.work(counting(after, 5, on_step=started.append))
    assert started == [1, 2, 3, 4, 5]
    assert after.jobs.get(job_id).status is Status.SUCCEEDED
    epochs = [event.data["epoch"] for event in after.jobs.epochs(job_id)]
    assert epochs == [1, 2, 3, 4, 5]
    # The checkpoint that is left is the job's, and nothing is nobody's.
    checkpoint = after.jobs.get(job_id).checkpoint
    assert after.blob_keys("checkpoints") == ([] if checkpoint is None else [checkpoint.key])
    assert sweep(after.database, after.blobs) == 0
    after.database.close()


def test_a_kill_after_the_row_repeats_what_was_said_after_the_copy(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})

    def on_step(number: int) -> None:
        if number == 4:
            slow.let_write()
            slow.disk.let.clear()
        if number == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slow.work(counting(slow, 8, on_step=on_step))
    assert slow.checkpointed(job_id) == 2
    slow.let_write()
    slow.jobs.worker_died("worker", "infrastructure", "killed")
    started: list[int] = []
    slow.work(counting(slow, 8, on_step=started.append), name="another")
    assert started[0] == 3
    (retried,) = [e for e in slow.jobs.events(job_id).data if e.type == "retried"]
    assert retried.data["from_epoch"] == 2
    assert [event.data["epoch"] for event in slow.jobs.epochs(job_id)] == list(range(1, 9))


def test_a_lease_lost_while_a_checkpoint_is_written_leaves_no_file(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})

    def on_step(number: int) -> None:
        if number == 3:
            slow.jobs.void_leases()

    slow.work(counting(slow, 6, on_step=on_step))
    slow.let_write()
    assert slow.blob_keys("checkpoints") == []
    job = slow.jobs.get(job_id)
    assert (job.status, job.checkpoint) == (Status.QUEUED, None)


def test_a_lease_lost_between_file_and_row_leaves_no_file(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})

    def on_step(number: int) -> None:
        if number == 3:
            slow.let_write()
            slow.jobs.void_leases()

    slow.work(counting(slow, 6, on_step=on_step))
    assert slow.blob_keys("checkpoints") == []
    assert slow.jobs.get(job_id).checkpoint is None


def test_a_stop_waits_for_the_checkpoint_and_takes_the_last(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})
    timer = threading.Timer(0.0, slow.disk.let.set)

    def on_step(number: int) -> None:
        if number == 4:
            slow.stops = True
            timer.start()

    slow.work(counting(slow, 6, on_step=on_step))
    job = slow.jobs.get(job_id)
    assert (job.status, slow.checkpointed(job_id)) == (Status.QUEUED, 4)
    assert len(slow.blob_keys("checkpoints")) == 1
    assert [e.data["epoch"] for e in slow.jobs.events(job_id).data if e.type == "checkpoint"] == [
        2,
        4,
    ]


def test_a_cancelled_job_drops_the_checkpoint_that_is_being_written(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})

    def on_step(number: int) -> None:
        if number == 3:
            slow.jobs.cancel(job_id)

    slow.work(counting(slow, 6, on_step=on_step))
    assert slow.jobs.get(job_id).status is Status.CANCELLED
    slow.let_write()
    assert slow.blob_keys("checkpoints") == []


def test_a_job_that_fails_leaves_the_checkpoint_that_was_being_written(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"seconds": 2})

    def on_step(number: int) -> None:
        if number == 3:
            slow.disk.let.set()
            raise DivergedError("the loss became nan")

    slow.work(counting(slow, 6, on_step=on_step))
    job = slow.jobs.get(job_id)
    assert (job.status, slow.checkpointed(job_id)) == (Status.FAILED, 2)
    assert job.checkpoint is not None
    assert slow.blob_keys("checkpoints") == [job.checkpoint.key]


def messages(world: World, job_id: str) -> list[str]:
    return [e.data["message"] for e in world.jobs.events(job_id).data if e.type == "log"]


def test_a_job_goes_on_without_a_checkpoint_that_finds_no_room(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"epochs": 2})
    slow.disk.is_full = True

    def on_step(number: int) -> None:
        if number == 3:
            slow.let_write()
        if number == 5:
            slow.disk.is_full = False

    slow.work(counting(slow, 8, on_step=on_step))
    assert slow.jobs.get(job_id).status is Status.SUCCEEDED
    assert any("no room for a checkpoint" in message for message in messages(slow, job_id))
    assert "checkpoint" in slow.types(job_id)


# -- a disk that is full ---------------------------------------------------------------------------


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


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullWorld]:
    made = FullWorld(tmp_path)
    yield made
    made.database.close()


def test_a_job_whose_result_finds_no_room_waits_and_goes_on_by_itself(full: FullWorld) -> None:
    job_id = full.queue(limits={"seconds": 8})
    waited = iter(range(20))  # longer than its time limit

    def on_pause() -> None:
        if next(waited) == 15:
            full.empty()

    full.on_pause = on_pause
    full.work(counting(full, 5, on_step=partial(full.fill, at=4)))
    job = full.jobs.get(job_id)
    assert (job.status, job.attempts) == (Status.SUCCEEDED, 1)
    assert job.model is not None
    assert full.types(job_id).count("epoch") == 5
    assert any("waits where it stands" in message for message in messages(full, job_id))
    assert len(full.blob_keys("models")) == 1
    assert full.ticks > 15  # it gave signs of life all the while


@pytest.mark.parametrize("keep", [False, True])
def test_a_job_that_waits_for_room_can_be_cancelled(full: FullWorld, keep: bool) -> None:
    job_id = full.queue()

    def on_pause() -> None:
        full.jobs.cancel(job_id, keep=keep)
        if keep:  # what is to be kept needs room
            full.empty()

    full.on_pause = on_pause
    full.work(counting(full, 5, on_step=partial(full.fill, at=4)))
    job = full.jobs.get(job_id)
    assert (job.status, job.model is not None) == (Status.CANCELLED, keep)
    assert len(full.blob_keys("models")) == keep


def test_a_job_that_waits_for_room_is_left_to_the_next_start_at_a_stop(full: FullWorld) -> None:
    job_id = full.queue(checkpoint_every={"epochs": 2})

    def stop() -> None:
        full.stops = True

    full.on_pause = stop
    full.work(counting(full, 5, on_step=partial(full.fill, at=5)))
    full.jobs.void_leases()
    full.empty()
    full.stops = False
    started: list[int] = []
    full.work(counting(full, 5, on_step=started.append))
    assert started == [5]
    job = full.jobs.get(job_id)
    assert (job.status, job.failures) == (Status.SUCCEEDED, 0)


def test_no_job_is_begun_without_room(full: FullWorld) -> None:
    job_id = full.queue()
    full.free = 999
    assert not full.work(counting(full))
    assert full.jobs.get(job_id).status is Status.QUEUED
    full.free = 1500
    assert full.work(counting(full, upto=1))


@pytest.mark.parametrize("error", [OSError(28, "secret"), StorageFull("the disk is full")])
def test_a_job_that_finds_no_room_within_a_step_waits_in_the_queue(
    full: FullWorld, error: Exception
) -> None:
    job_id = full.queue()
    worker = full.worker(counting(full, on_step=lambda _: raise_once.pop()()))

    def fail() -> None:
        raise error

    raise_once = [*[lambda: None] * 20, fail]
    assert worker.work_once()
    job = full.jobs.get(job_id)
    assert (job.status, job.failures, job.retry_reason) == (Status.QUEUED, 0, "storage_full")
    assert not worker.work_once()  # not at once
    full.clock.now += 1
    assert worker.work_once()
    assert full.jobs.get(job_id).status is Status.SUCCEEDED
    assert "secret" not in str(full.jobs.events(job_id).data)


def test_a_database_without_room_has_the_job_wait(full: FullWorld) -> None:
    job_id = full.queue()

    def limit(pages: int) -> None:
        with full.database.write() as connection:
            least = connection.scalar(sa.text("PRAGMA page_count"))
            connection.execute(sa.text(f"PRAGMA max_page_count = {pages or least}"))

    def on_step(number: int) -> None:
        if number == 3:
            limit(0)

    full.on_pause = lambda: limit(2**30)
    task = counting(full, 5, on_step=on_step)

    def wordy(job: Job, context: TaskContext) -> Iterator[Step]:
        for step in task(job, context):
            yield replace(step, events=(*step.events, ("log", {"message": "x" * 200_000})))

    full.work(wordy)
    assert full.jobs.get(job_id).status is Status.SUCCEEDED
    assert full.types(job_id).count("epoch") == 5
    assert any("there is room again" in message for message in messages(full, job_id) if message)


# -- checkpoints by epochs, which wait for each other ----------------------------------------------


def waits(slow: SlowWorld, on_wait: Callable[[], None]) -> Callable[[int], None]:
    """Have the worker's signs of life that are more than one a step do something."""
    begun: list[int] = []

    def on_tick() -> None:
        if slow.ticks > len(begun):
            begun.append(0)  # so that the next step's is not taken for one more
            on_wait()

    slow.on_tick = on_tick
    return begun.append


def test_no_checkpoint_by_epochs_is_left_out_however_slow_the_disk(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"epochs": 2})
    seen: list[int | None] = []

    def on_wait() -> None:
        slow.let_write()
        slow.disk.let.clear()

    count = waits(slow, on_wait)

    def on_step(number: int) -> None:
        seen.append(slow.checkpointed(job_id))
        count(number)

    slow.work(counting(slow, 9, on_step=on_step))
    # The one of epoch 2 is the job's before the task goes on from epoch 4, and so on.
    assert seen == [None, None, None, None, 2, 2, 4, 4, 6]
    events = slow.jobs.events(job_id).data
    assert [e.data["epoch"] for e in events if e.type == "checkpoint"] == [2, 4, 6, 8]
    assert slow.jobs.get(job_id).status is Status.SUCCEEDED


def test_a_job_that_waits_for_its_disk_can_be_cancelled(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"epochs": 2})

    def on_wait() -> None:
        slow.clock.now += 1
        slow.jobs.cancel(job_id)

    slow.work(counting(slow, 8, on_step=waits(slow, on_wait)))
    assert slow.jobs.get(job_id).status is Status.CANCELLED
    assert [event.data["epoch"] for event in slow.jobs.epochs(job_id)] == [1, 2, 3, 4]
    slow.let_write()
    assert slow.blob_keys("checkpoints") == []


def test_a_lease_lost_while_a_job_waits_for_its_disk_ends_the_attempt(slow: SlowWorld) -> None:
    job_id = slow.queue(checkpoint_every={"epochs": 2})

    def on_wait() -> None:
        slow.clock.now += 1
        slow.jobs.void_leases()

    slow.work(counting(slow, 8, on_step=waits(slow, on_wait)))
    slow.let_write()
    assert slow.blob_keys("checkpoints") == []
    job = slow.jobs.get(job_id)
    assert (job.status, job.checkpoint) == (Status.QUEUED, None)


def test_a_job_that_waits_for_its_disk_is_given_back_when_the_worker_stops(
    slow: SlowWorld,
) -> None:
    job_id = slow.queue(checkpoint_every={"epochs": 2})
    timer = threading.Timer(0.0, slow.disk.let.set)

    def on_wait() -> None:
        slow.stops = True
        timer.start()

    slow.work(counting(slow, 8, on_step=waits(slow, on_wait)))
    timer.join()
    assert slow.jobs.get(job_id).status is Status.QUEUED
    assert slow.checkpointed(job_id) == 4
    assert len(slow.blob_keys("checkpoints")) == 1


def test_a_job_that_starts_again_is_checkpointed_from_its_first_epochs_on(world: World) -> None:
    job_id = world.queue(checkpoint_every={"epochs": 2})

    def stop(number: int) -> None:
        world.stops = number == 4

    world.work(counting(world, on_step=stop))
    world.stops = False

    def picky(job: Job, context: TaskContext) -> Iterator[Step]:
        if context.checkpoint is not None:
            raise ArtifactError("the checkpoint belongs to another network")
        yield from counting(world)(job, context)

    world.work(picky)
    events = world.jobs.events(job_id).data
    assert [e.data["epoch"] for e in events if e.type == "checkpoint"] == [2, 4, 4, 2, 4]


# -- rows that are slow ----------------------------------------------------------------------------


class Late(Future[Any]):
    """Something that is done when it is told to be, or when somebody waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def do(self) -> None:
        if not self.done():
            try:
                self.set_result(self._work())
            except Exception as error:
                self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        self.do()
        return super().result(timeout)


class LateExecutor(Executor):
    """Does what it is given when it must."""

    last: Late

    def submit(self, work: Any, /, *args: Any, **options: Any) -> Late:
        self.last = Late(partial(work, *args, **options))
        return self.last


def test_a_job_goes_on_while_what_it_says_is_stored(world: World) -> None:
    job_id = world.queue()
    world.recording = late = LateExecutor()
    seen: list[int] = []

    def on_step(number: int) -> None:
        if number == 5:
            late.last.do()
        seen.append(world.types(job_id).count("epoch"))
        if number > 5:
            late.last.do()

    world.work(counting(world, 9, on_step=on_step))
    # The first group is that of step 1; what came until it was stored is the second.
    assert seen == [0, 0, 0, 0, 1, 1, 5, 6, 7]
    said = [e.data["epoch"] for e in world.jobs.events(job_id).data if e.type == "epoch"]
    assert said == list(range(1, 10))
    assert world.jobs.get(job_id).status is Status.SUCCEEDED


def test_a_cancelled_job_hears_of_it_when_what_it_said_is_stored(world: World) -> None:
    job_id = world.queue()
    world.recording = late = LateExecutor()

    def on_step(number: int) -> None:
        if number == 2:
            world.jobs.cancel(job_id)
        if number == 4:
            late.last.do()

    world.work(counting(world, 9, on_step=on_step))
    assert world.jobs.get(job_id).status is Status.CANCELLED
    assert [event.data["epoch"] for event in world.jobs.epochs(job_id)] == [1, 2, 3, 4]


def test_what_could_not_be_stored_is_told_with_the_failure(world: World) -> None:
    """The database is away for a while, which ends the job; what it said is not lost."""
    job_id = world.queue()
    world.recording = late = LateExecutor()

    def on_step(number: int) -> None:
        if number == 3:
            late.last.set_exception(Unavailable("it is away", retry_after_s=5))

    world.work(counting(world, 9, on_step=on_step))
    job = world.jobs.get(job_id)
    assert job.error is not None
    assert (job.error["kind"], job.error["detail"]) == ("infrastructure", "it is away")
    said = [e.data["epoch"] for e in world.jobs.events(job_id).data if e.type == "epoch"]
    assert said == [1, 2, 3]


def test_a_checkpoint_follows_the_rows_of_what_was_said_before(world: World) -> None:
    job_id = world.queue(checkpoint_every={"epochs": 2})
    world.recording = late = LateExecutor()
    world.on_tick = lambda: late.last.do() if world.ticks > 3 else None

    world.work(counting(world, 7))
    events = world.jobs.events(job_id).data
    said = [(e.type, e.data["epoch"]) for e in events if e.type in ("epoch", "checkpoint")]
    assert [epoch for kind, epoch in said if kind == "epoch"] == list(range(1, 8))
    assert [epoch for kind, epoch in said if kind == "checkpoint"] == [2, 4, 6]
    for epoch in (2, 4, 6):
        assert said.index(("epoch", epoch)) < said.index(("checkpoint", epoch))
    checkpoint = world.jobs.get(job_id).checkpoint
    assert checkpoint is not None
    assert world.blob_keys("checkpoints") == [checkpoint.key]


def test_a_job_waits_for_room_where_the_rows_of_what_it_said_found_none(full: FullWorld) -> None:
    job_id = full.queue(checkpoint_every={"epochs": 2})
    full.recording = late = LateExecutor()

    def on_step(number: int) -> None:
        if number == 4:
            late.last.set_exception(StorageFull("the disk is full"))
        if number > 4:
            late.last.do()

    full.work(counting(full, 7, on_step=on_step))
    assert full.jobs.get(job_id).status is Status.SUCCEEDED
    assert [event.data["epoch"] for event in full.jobs.epochs(job_id)] == list(range(1, 8))
    assert full.types(job_id).count("checkpoint") == 3
    assert any("there is room again" in message for message in messages(full, job_id))


def test_what_is_stored_late_by_a_worker_that_lost_its_lease_is_stored_by_nobody(
    world: World,
) -> None:
    job_id = world.queue(checkpoint_every={"epochs": 2})
    world.recording = late = LateExecutor()
    stopped_at: list[int] = []

    def on_step(number: int) -> None:
        if number == 4:
            world.jobs.void_leases()
            late.last.do()
        stopped_at.append(number)

    before = world.types(job_id)
    world.work(counting(world, 9, on_step=on_step))
    assert stopped_at[-1] == 4
    assert "epoch" not in world.types(job_id)[len(before) :]
    assert world.jobs.get(job_id).status is Status.QUEUED
    assert world.blob_keys("checkpoints") == []
