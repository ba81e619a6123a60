"""What a job says, stored while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from service.errors import StorageFull, Unavailable
from service.store.jobs import Status
from tests.service.worker.worlds import FullWorld, World, counting, messages


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
