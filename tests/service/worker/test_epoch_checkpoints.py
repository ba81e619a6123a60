"""Checkpoints by epochs, of which none is left out: the job waits for the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from engine.errors import ArtifactError
from service.steps import Step, TaskContext
from service.store.jobs import Job, Status
from tests.service.worker.worlds import SlowWorld, World, counting


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
