"""How jobs and workers meet and part."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from service.errors import LeaseLost
from service.store import tables
from service.store.blobs import model_key
from service.store.database import Database, new_id
from service.store.jobs import Checkpoint, Job, Jobs, NewJob, Status, job_error
from service.store.keys import ApiKeys
from service.store.models import Models, NewModelRow
from service.store.quotas import Quotas
from tests.service.store.conftest import Clock
from tests.service.store.soundness import assert_sound

TRAIN = NewJob(kind="train", spec={"epochs": 3})
CHECKPOINT = Checkpoint("checkpoints/j/1-a", 7)


def claim(jobs: Jobs, worker: str = "w1") -> Job:
    job = jobs.claim(worker)
    assert job is not None
    return job


def types(jobs: Jobs, job: Job) -> list[str]:
    return [event.type for event in jobs.events(job.id).data]


def new_model() -> NewModelRow:
    model_id = new_id("mdl")
    return NewModelRow(id=model_id, document={"form": "regressor"}, weights=model_key(model_id))


def test_the_oldest_job_is_claimed_first_and_by_one_worker_only(jobs: Jobs, clock: Clock) -> None:
    assert jobs.claim("w1") is None
    first, second = jobs.create(TRAIN), jobs.create(TRAIN)
    clock.advance(5)

    job = claim(jobs, "w1")
    assert (job.id, job.status, job.attempts, job.worker) == (first.id, Status.RUNNING, 1, "w1")
    assert job.started_at == clock.now
    assert claim(jobs, "w2").id == second.id
    assert jobs.claim("w3") is None
    assert jobs.events(job.id).data[-1].data == {"attempt": 1}


def test_workers_that_claim_at_once_never_get_the_same_job(jobs: Jobs, database: Database) -> None:
    for _ in range(24):
        jobs.create(TRAIN)
    claimed: list[str] = []

    def work(worker: str) -> None:
        own = Jobs(Database(database.engine.url), jobs._clock)  # as another process would
        while job := own.claim(worker):
            claimed.append(job.id)
            own.finish(job, Status.SUCCEEDED)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(claimed) == len(set(claimed)) == 24
    assert_sound(database)


def test_a_lease_that_ran_out_gives_the_job_to_another(jobs: Jobs, clock: Clock) -> None:
    jobs.create(TRAIN)
    dead = claim(jobs, "w1")
    jobs.record(dead, checkpoint=CHECKPOINT)
    clock.advance(30)
    assert jobs.claim("w2") is None

    clock.advance(0.001)
    alive = claim(jobs, "w2")
    assert (alive.id, alive.attempts, alive.failures) == (dead.id, 2, 0)
    assert alive.checkpoint == CHECKPOINT
    assert alive.started_at == dead.started_at
    last = jobs.events(alive.id).data[-1]
    assert last.type == "retried"
    assert last.data == {"attempt": 2, "reason": "lease_expired", "from_epoch": 7}


def test_a_renewed_lease_holds(jobs: Jobs, clock: Clock) -> None:
    jobs.create(TRAIN)
    claim(jobs, "w1")
    for _ in range(5):
        clock.advance(29)
        assert jobs.renew("w1")
    assert jobs.claim("w2") is None
    assert not jobs.renew("w2")


@pytest.mark.parametrize("how", ["expired", "released", "died", "voided", "ended", "deleted"])
def test_a_worker_that_lost_its_lease_can_write_nothing(
    jobs: Jobs, models: Models, clock: Clock, database: Database, how: str
) -> None:
    jobs.create(TRAIN)
    lost = claim(jobs, "w1")
    if how == "expired":
        clock.advance(31)
        claim(jobs, "w2")
    elif how == "released":
        jobs.release(lost)
    elif how == "died":
        jobs.worker_died("w1", "infrastructure", "gone")
    elif how == "voided":
        jobs.void_leases()
    else:
        jobs.finish(lost, Status.SUCCEEDED)
        if how == "deleted":
            jobs.delete(lost.id)
    before = _everything(database)

    with pytest.raises(LeaseLost):
        jobs.record(lost, events=[("log", {})], progress={"completed": 1}, checkpoint=CHECKPOINT)
    with pytest.raises(LeaseLost):
        jobs.finish(lost, Status.SUCCEEDED, model=new_model())
    with pytest.raises(LeaseLost):
        jobs.finish(lost, Status.FAILED, error=job_error("user", "late"))
    with pytest.raises(LeaseLost):
        jobs.release(lost)
    assert _everything(database) == before
    assert models.list().data == []


def test_an_earlier_attempt_of_the_same_worker_is_fenced_too(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    first = claim(jobs, "w1")
    jobs.release(first)
    second = claim(jobs, "w1")

    with pytest.raises(LeaseLost):
        jobs.record(first)
    jobs.record(second)


def test_a_job_nobody_claimed_is_nobodys(jobs: Jobs) -> None:
    waiting = jobs.create(TRAIN)

    with pytest.raises(LeaseLost):
        jobs.record(waiting)


def test_recording_is_one_whole(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    first = jobs.record(
        job,
        events=[("epoch", {"epoch": 1}), ("epoch", {"epoch": 2})],
        progress={"completed": 2},
        metrics={"train": {"loss": 0.5}},
        checkpoint=Checkpoint("checkpoints/j/1-a", 2),
    )
    second = jobs.record(job, checkpoint=Checkpoint("checkpoints/j/1-b", 4))
    third = jobs.record(job, progress={"completed": 5})

    assert (first.replaced, second.replaced, third.replaced) == (None, "checkpoints/j/1-a", None)
    now = jobs.get(job.id)
    assert (now.progress, now.metrics) == ({"completed": 5}, {"train": {"loss": 0.5}})
    assert now.checkpoint == Checkpoint("checkpoints/j/1-b", 4)
    assert types(jobs, job)[2:] == ["epoch", "epoch", "checkpoint", "checkpoint"]
    assert jobs.events(job.id).data[-1].data == {"epoch": 4}


@pytest.mark.parametrize("kind", ["queued", "started", "retried", "checkpoint", "finished"])
def test_the_stores_own_events_cannot_be_forged(jobs: Jobs, kind: str) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)

    with pytest.raises(ValueError, match="the store's own"):
        jobs.record(job, events=[(kind, {})])
    with pytest.raises(ValueError, match="the store's own"):
        jobs.finish(job, Status.SUCCEEDED, events=[(kind, {})])


def test_finishing_stores_job_model_and_last_event_together(
    jobs: Jobs, models: Models, clock: Clock, database: Database
) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    model = new_model()
    clock.advance(9)
    ended = jobs.finish(
        job,
        Status.SUCCEEDED,
        events=[("epoch", {"epoch": 3})],
        progress={"completed": 3},
        metrics={"valid": {"rmse": 2.0}},
        model=model,
    )

    assert jobs.get(job.id) == ended
    assert (ended.status, ended.terminal, ended.finished_at) == (Status.SUCCEEDED, True, clock.now)
    assert (ended.model, ended.result) == (model.id, {"model": model.id})
    assert (ended.worker, ended.lease_expires_at) == (None, None)
    assert models.get(model.id).job == job.id
    assert types(jobs, job)[-2:] == ["epoch", "finished"]
    last = jobs.events(job.id).data[-1].data
    result = {"model": model.id}
    assert last == {"status": "succeeded", "model": model.id, "result": result, "error": None}
    assert_sound(database)


def test_a_failure_says_why(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    error = job_error("memory", "needs more than there is")
    job = jobs.finish(claim(jobs), Status.FAILED, error=error)

    assert job.error == error
    last = {"status": "failed", "model": None, "result": None, "error": error}
    assert jobs.events(job.id).data[-1].data == last


def test_a_result_other_than_a_model_is_kept(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    job = jobs.finish(claim(jobs), Status.SUCCEEDED, result={"dataset": "ds_1"})

    assert (job.model, job.result) == (None, {"dataset": "ds_1"})


def test_a_cancelled_job_may_leave_its_best_so_far(jobs: Jobs, database: Database) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    jobs.cancel(job.id, keep=True)
    assert jobs.record(job).keep
    model = new_model()

    assert jobs.finish(job, Status.CANCELLED, model=model).model == model.id
    assert_sound(database)


@pytest.mark.parametrize(
    ("status", "given"),
    [
        (Status.QUEUED, {}),
        (Status.RUNNING, {}),
        (Status.FAILED, {}),
        (Status.SUCCEEDED, {"error": job_error("user", "x")}),
        (Status.FAILED, {"error": job_error("user", "x"), "model": new_model()}),
        (Status.CANCELLED, {}),
    ],
)
def test_ends_that_make_no_sense_are_refused(
    jobs: Jobs, status: Status, given: dict[str, Any], database: Database
) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)

    with pytest.raises(ValueError):  # noqa: PT011  (each has its own words)
        jobs.finish(job, status, **given)
    assert jobs.get(job.id).status is Status.RUNNING
    assert_sound(database)


def test_a_released_job_waits_again_and_nothing_is_counted(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    for attempt in range(1, 10):
        job = claim(jobs)
        assert (job.attempts, job.failures) == (attempt, 0)
        assert jobs.release(job).status is Status.QUEUED

    assert claim(jobs).status is Status.RUNNING
    assert jobs.events(job.id).data[-1].data["reason"] == "stopped"


def test_a_requeued_job_comes_before_younger_ones(jobs: Jobs) -> None:
    old = jobs.create(TRAIN)
    jobs.create(TRAIN)
    jobs.release(claim(jobs))

    assert claim(jobs).id == old.id


def test_a_job_that_kills_its_workers_fails_at_the_cap(jobs: Jobs, database: Database) -> None:
    jobs.create(TRAIN)
    for failures in (1, 2):
        claim(jobs, f"w{failures}")
        job = jobs.worker_died(f"w{failures}", "memory", "the worker ran out of memory")
        assert job is not None
        assert (job.status, job.failures) == (Status.QUEUED, failures)
    claim(jobs, "w3")
    job = jobs.worker_died("w3", "memory", "the worker ran out of memory")

    assert job is not None
    assert (job.status, job.failures, jobs.claim("w4")) == (Status.FAILED, 3, None)
    assert job.error is not None
    assert job.error["kind"] == "memory"
    assert "3 attempts" in job.error["detail"]
    assert_sound(database)


def test_an_attempt_that_left_a_new_checkpoint_is_not_counted(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    for attempt in range(1, 8):
        job = claim(jobs)
        jobs.record(job, checkpoint=Checkpoint(f"checkpoints/j/{attempt}", attempt))
        died = jobs.worker_died("w1", "infrastructure", "killed")
        assert died is not None
        assert (died.status, died.failures) == (Status.QUEUED, 0)

    claim(jobs)  # an old checkpoint does not excuse an attempt that adds none
    died = jobs.worker_died("w1", "infrastructure", "killed")
    assert died is not None
    assert died.failures == 1


def test_the_death_of_an_idle_worker_changes_nothing(jobs: Jobs) -> None:
    job = jobs.create(TRAIN)

    assert jobs.worker_died("w1", "infrastructure", "killed") is None
    assert jobs.get(job.id) == job


def test_a_worker_that_claims_has_let_go_of_what_it_had(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    dropped = claim(jobs, "w1")
    again = claim(jobs, "w1")

    assert (again.id, again.attempts, again.failures) == (dropped.id, 2, 1)


@pytest.mark.parametrize("how", ["died", "voided", "expired", "released"])
def test_a_job_that_was_to_be_cancelled_never_runs_again(
    jobs: Jobs, clock: Clock, database: Database, how: str
) -> None:
    jobs.create(TRAIN)
    job = claim(jobs, "w1")
    jobs.cancel(job.id)
    if how == "died":
        jobs.worker_died("w1", "infrastructure", "killed")
    elif how == "voided":
        jobs.void_leases()
    elif how == "released":
        jobs.release(job)
    else:
        clock.advance(31)
    assert jobs.claim("w2") is None

    assert jobs.get(job.id).status is Status.CANCELLED
    assert types(jobs, job) == ["queued", "started", "cancelling", "finished"]
    assert_sound(database)


def test_a_server_that_starts_takes_back_every_job_without_blame(jobs: Jobs) -> None:
    for _ in range(3):
        jobs.create(TRAIN)
    claim(jobs, "w1")
    cancelled = claim(jobs, "w2")
    jobs.cancel(cancelled.id)

    statuses = [job.status for job in jobs.void_leases()]
    assert statuses == [Status.QUEUED, Status.CANCELLED]
    again = claim(jobs, "w1")
    assert (again.attempts, again.failures) == (2, 0)
    assert jobs.events(again.id).data[-1].data["reason"] == "service_restarted"
    assert jobs.void_leases()[0].id == again.id


def test_illegal_states_cannot_be_stored(jobs: Jobs, database: Database) -> None:
    jobs.create(TRAIN)
    jobs.create(TRAIN)
    running, waiting = claim(jobs, "w1"), jobs.list().data[0]
    jobs.record(running, events=[("log", {})])
    row = tables.jobs.c
    states: list[tuple[Job, dict[str, Any]]] = [
        (waiting, {"status": "lost"}),
        (waiting, {"worker": "w2"}),
        (waiting, {"status": "running"}),
        (waiting, {"status": "succeeded"}),
        (waiting, {"model": "mdl_1"}),
        (waiting, {"error": {}}),
        (waiting, {"checkpoint_key": "k"}),
        (running, {"lease_expires_at": None}),
        (running, {"status": "queued"}),
    ]
    for job, wrong in states:
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(sa.update(tables.jobs).where(row.id == job.id).values(wrong))
    values = {"status": "running", "worker": "w1", "lease_expires_at": running.created_at}
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(sa.update(tables.jobs).where(row.id == waiting.id).values(values))


def test_a_second_model_or_end_of_a_job_cannot_be_stored(jobs: Jobs, database: Database) -> None:
    jobs.create(TRAIN)
    job = jobs.finish(claim(jobs), Status.SUCCEEDED, model=new_model())
    event = {"job_id": job.id, "id": 9, "type": "finished", "at": job.created_at, "data": {}}
    model = {**vars(new_model()), "job_id": job.id, "created_at": job.created_at}

    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(sa.insert(tables.events).values(event))
    with pytest.raises(IntegrityError), database.write() as connection:
        connection.execute(sa.insert(tables.models).values(model))


def _everything(database: Database) -> list[Any]:
    with database.read() as connection:
        return [
            connection.execute(sa.select(table).order_by(*table.primary_key)).all()
            for table in (tables.jobs, tables.events, tables.models)
        ]


def queue(jobs: Jobs, owner: str | None) -> str:
    return jobs.create(NewJob(kind="train", spec={}, owner=owner)).id


def claimed(jobs: Jobs, worker: str) -> str | None:
    job = jobs.claim(worker)
    return None if job is None else job.owner or ""


def test_keys_take_turns_however_many_jobs_one_has_waiting(jobs: Jobs) -> None:
    order = []
    for owner in ["a"] * 4 + ["b"] * 2 + [None]:
        queue(jobs, owner)
    for _ in range(7):
        job = jobs.claim("w")
        assert job is not None
        order.append(job.owner or "")
        jobs.finish(job, Status.SUCCEEDED)
    assert order == ["a", "b", "", "a", "b", "a", "a"]
    # Who comes late goes before one that has been served, and does not catch up.
    for owner in ["a", "a", "c", "c"]:
        queue(jobs, owner)
    order = []
    for _ in range(4):
        job = jobs.claim("w")
        assert job is not None
        order.append(job.owner or "")
        jobs.finish(job, Status.SUCCEEDED)
    assert order == ["c", "a", "c", "a"]


def test_who_has_fewer_jobs_running_goes_first(jobs: Jobs) -> None:
    for owner in ["a", "a", "b", "b", "b"]:
        queue(jobs, owner)
    assert [claimed(jobs, f"w{i}") for i in range(2)] == ["a", "b"]
    job = jobs.get(queue(jobs, "c"))
    assert claimed(jobs, "w2") == "c"
    jobs.cancel(job.id)  # still at its worker, until that hears of it
    queue(jobs, "c")
    assert claimed(jobs, "w3") == "a"


def test_of_one_key_the_oldest_job_goes_first(jobs: Jobs) -> None:
    ids = [queue(jobs, "a") for _ in range(3)]
    found = []
    for i in range(3):
        job = jobs.claim(f"w{i}")
        assert job is not None
        found.append(job.id)
    assert found == ids


def test_no_key_has_more_jobs_running_than_it_may(database: Database, clock: Clock) -> None:
    key, _ = ApiKeys(database, clock).create("own", quotas=Quotas(running_jobs=2))
    jobs = Jobs(database, clock, quotas=Quotas(running_jobs=1))
    for owner in [key.id] * 3 + ["a"] * 2:
        queue(jobs, owner)
    queue(jobs, None)
    got = [claimed(jobs, f"w{i}") for i in range(6)]
    assert sorted(owner or "" for owner in got[:4]) == sorted([key.id, key.id, "a", ""])
    assert got[4:] == [None, None]
    job = jobs.list(status=Status.RUNNING).data[-1]
    assert job.worker is not None
    jobs.worker_died(job.worker, "infrastructure", "gone", counts=False)
    assert claimed(jobs, "w9") == job.owner


def test_a_worker_that_the_system_ended_for_its_memory_ends_its_job_alone(jobs: Jobs) -> None:
    first, second = queue(jobs, "a"), queue(jobs, "b")
    job = claim(jobs, "w1")
    other = claim(jobs, "w2")
    assert (job.id, other.id) == (first, second)
    jobs.record(job, checkpoint=CHECKPOINT)  # however far it has come
    assert jobs.held_by("w1") is not None
    died = jobs.worker_died("w1", "memory", "the system ended it", is_final=True)
    assert died is not None
    assert (died.status, died.attempts) == (Status.FAILED, 1)
    assert died.error is not None
    assert (died.error["kind"], died.error["detail"]) == ("memory", "the system ended it")
    assert died.checkpoint == CHECKPOINT  # for a job that goes on from it
    assert jobs.held_by("w1") is None
    assert jobs.get(second).status is Status.RUNNING
