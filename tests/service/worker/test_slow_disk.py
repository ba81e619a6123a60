"""Checkpoints that are written while the job goes on, by a disk that is slow."""

from __future__ import annotations

import shutil
import threading

import pytest

from engine.errors import DivergedError
from service.store.jobs import Status
from service.store.sweep import sweep
from tests.service.worker.worlds import SlowWorld, World, counting, messages


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
