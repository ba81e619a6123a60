"""Jobs that wait for room on a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa

from service.errors import StorageFull
from service.steps import Step, TaskContext
from service.store.jobs import Job, Status
from tests.service.worker.worlds import FullWorld, counting, messages


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
