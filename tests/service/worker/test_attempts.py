"""Workers: what becomes of a job under every way in which its attempt can end. No PyTorch here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import pytest

from engine.errors import ArtifactError, DivergedError
from service.steps import Step, TaskContext, TaskResult
from service.store.jobs import Job, Jobs, NewJob, Status
from tests.service.worker.worlds import World, counting, result_of


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
        return result_of(None, 3)

    def task(_job: Job, _context: TaskContext) -> Iterator[Step]:
        yield Step(result=leave)

    world.work(task)
    assert world.jobs.get(job_id).status is Status.CANCELLED
    assert world.blob_keys("models") == []
