"""What callers ask of jobs."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.errors import Conflict, Invalid, NotFound, QueueFull, QuotaExceeded
from service.store.blobs import Blobs, dataset_key, model_key
from service.store.database import Database, new_id
from service.store.datasets import Dataset, Datasets, NewDataset
from service.store.jobs import Checkpoint, Job, Jobs, NewJob, Status, job_error
from service.store.models import Models, NewModelRow
from service.store.quotas import Quotas
from tests.service.store.conftest import Clock
from tests.service.store.soundness import assert_sound

TRAIN = NewJob(kind="train", spec={"epochs": 3})


def types(jobs: Jobs, job: Job) -> list[str]:
    return [event.type for event in jobs.events(job.id).data]


def claim(jobs: Jobs, worker: str = "w1") -> Job:
    job = jobs.claim(worker)
    assert job is not None
    return job


def test_a_job_is_read_as_it_was_created(jobs: Jobs, clock: Clock) -> None:
    new = NewJob(
        kind="train",
        spec={"epochs": 3, "network": {"layers": [None, 50, None]}},
        name="Zürich",
        tags={"team": "a"},
        owner="key_1",
        resumed_from="job_0",
    )
    job = jobs.create(new)

    assert jobs.get(job.id) == job
    assert (job.kind, job.spec, job.name, job.tags) == ("train", new.spec, "Zürich", {"team": "a"})
    assert (job.owner, job.resumed_from) == ("key_1", "job_0")
    assert (job.status, job.terminal, job.attempts) == (Status.QUEUED, False, 0)
    assert (job.created_at, job.started_at, job.finished_at) == (clock.now, None, None)
    assert types(jobs, job) == ["queued"]


@pytest.mark.parametrize("job_id", ["", "job_x", "job_" + "1" * 26, "mdl_" + "0" * 26, "\ud800\0"])
def test_an_unknown_job_is_not_found(jobs: Jobs, job_id: str) -> None:
    for use in (jobs.get, jobs.cancel, jobs.delete, jobs.events, jobs.epochs):
        with pytest.raises(NotFound):
            use(job_id)


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "\ud800"])
def test_a_name_that_a_database_cannot_hold_is_invalid(jobs: Jobs, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        jobs.create(NewJob(kind="train", spec={}, name=name))

    assert caught.value.pointer == "#/name"


def test_numbers_that_json_cannot_carry_are_stored_as_null(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    jobs.record(job, metrics={"train": {"loss": float("nan")}}, progress={"eta": float("inf")})

    assert jobs.get(job.id).metrics == {"train": {"loss": None}}
    assert jobs.get(job.id).progress == {"eta": None}


def test_lists_are_newest_first_and_paged(jobs: Jobs) -> None:
    ids = [jobs.create(TRAIN).id for _ in range(5)][::-1]

    first = jobs.list(limit=2)
    second = jobs.list(limit=2, after=first.data[-1].id)
    last = jobs.list(limit=2, after=second.data[-1].id)

    assert [job.id for page in (first, second, last) for job in page.data] == ids
    assert (first.has_more, second.has_more, last.has_more) == (True, True, False)


def test_paging_goes_on_where_the_last_item_was_deleted(jobs: Jobs) -> None:
    old, mark = jobs.create(TRAIN), jobs.create(TRAIN)
    jobs.cancel(mark.id)
    jobs.delete(mark.id)

    assert [job.id for job in jobs.list(after=mark.id).data] == [old.id]


@pytest.mark.parametrize("after", ["", "x", "ds_" + "0" * 26, "\ud800"])
def test_paging_after_what_is_no_id_is_invalid(jobs: Jobs, after: str) -> None:
    with pytest.raises(Invalid) as caught:
        jobs.list(after=after)

    assert caught.value.pointer == "#/after"


def test_lists_and_counts_tell_states_and_kinds_apart(jobs: Jobs) -> None:
    waiting = jobs.create(TRAIN)
    predict = jobs.create(NewJob(kind="predict", spec={}))
    jobs.cancel(predict.id)

    assert [job.id for job in jobs.list(status=Status.QUEUED).data] == [waiting.id]
    assert [job.id for job in jobs.list(kind="predict").data] == [predict.id]
    assert {s: n for s, n in jobs.counts().items() if n} == {Status.QUEUED: 1, Status.CANCELLED: 1}


def test_the_queue_is_bounded_for_each_and_for_all(database: Database, clock: Clock) -> None:
    jobs = Jobs(database, clock, max_waiting=3, quotas=Quotas(queued_jobs=2))
    mine = NewJob(kind="train", spec={}, owner="key_1")
    jobs.create(mine)
    jobs.create(mine)
    with pytest.raises(QuotaExceeded) as caught:
        jobs.create(mine)
    assert caught.value.retry_after_s > 0
    jobs.create(NewJob(kind="train", spec={}, owner="key_2"))
    with pytest.raises(QueueFull) as full:
        jobs.create(TRAIN)
    assert not isinstance(full.value, QuotaExceeded)

    claim(jobs)
    jobs.create(mine)  # what runs does not wait


def test_cancelling_a_waiting_job_ends_it_at_once(jobs: Jobs, clock: Clock) -> None:
    job = jobs.cancel(jobs.create(TRAIN).id)

    assert (job.status, job.finished_at) == (Status.CANCELLED, clock.now)
    assert types(jobs, job) == ["queued", "finished"]
    assert jobs.claim("w1") is None


def test_cancelling_a_running_job_tells_its_worker(jobs: Jobs, database: Database) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    assert not jobs.record(job).cancelling

    assert jobs.cancel(job.id).status is Status.CANCELLING
    told = jobs.record(job, events=[("log", {"text": "on my way"})])
    assert (told.cancelling, told.keep) == (True, False)

    ended = jobs.finish(job, Status.CANCELLED)
    assert ended.status is Status.CANCELLED
    assert types(jobs, job) == ["queued", "started", "cancelling", "log", "finished"]
    assert_sound(database)


def test_keep_may_be_added_while_cancelling_but_not_withdrawn(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    for keep in (False, False, True, True, False):
        jobs.cancel(job.id, keep=keep)

    assert jobs.record(job).keep
    assert types(jobs, job) == ["queued", "started", "cancelling", "cancelling"]


def test_cancelling_twice_is_harmless(jobs: Jobs) -> None:
    job = jobs.cancel(jobs.create(TRAIN).id)

    assert jobs.cancel(job.id) == job


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED])
def test_what_has_ended_otherwise_cannot_be_cancelled(jobs: Jobs, status: Status) -> None:
    jobs.create(TRAIN)
    error = job_error("user", "diverged") if status is Status.FAILED else None
    job = jobs.finish(claim(jobs), status, error=error)

    with pytest.raises(Conflict, match=str(status)):
        jobs.cancel(job.id)
    assert jobs.get(job.id) == job


@pytest.mark.parametrize("keep", [False, True])
def test_a_cancel_that_was_acknowledged_holds_though_the_job_ends_first(
    jobs: Jobs, models: Models, keep: bool
) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    jobs.cancel(job.id, keep=keep)
    model_id = new_id("mdl")
    row = NewModelRow(id=model_id, document={}, weights=model_key(model_id))

    ended = jobs.finish(job, Status.SUCCEEDED, model=row)

    assert ended.status is Status.CANCELLED
    assert ended.model == (model_id if keep else None)
    assert [model.id for model in models.list().data] == ([model_id] if keep else [])


def test_kills_from_outside_count_as_nothing(jobs: Jobs) -> None:
    jobs.create(TRAIN)
    for attempt in range(1, 20):
        job = claim(jobs)
        assert job.attempts == attempt
        assert job.worker is not None
        left = jobs.worker_died(job.worker, "infrastructure", "killed", counts=False)
        assert left is not None
        assert (left.status, left.failures) == (Status.QUEUED, 0)


def test_only_an_ended_job_can_be_deleted(jobs: Jobs, database: Database) -> None:
    jobs.create(TRAIN)
    with pytest.raises(Conflict):
        jobs.delete(jobs.list().data[0].id)
    job = claim(jobs)
    with pytest.raises(Conflict):
        jobs.delete(job.id)
    jobs.record(job, checkpoint=Checkpoint("checkpoints/j/1", 1))
    jobs.finish(job, Status.SUCCEEDED)

    assert jobs.delete(job.id).checkpoint == Checkpoint("checkpoints/j/1", 1)
    with pytest.raises(NotFound):
        jobs.events(job.id)
    assert_sound(database)


def test_events_are_paged_oldest_first(jobs: Jobs, clock: Clock) -> None:
    jobs.create(TRAIN)
    job = claim(jobs)
    clock.advance(1)
    jobs.record(job, events=[("epoch", {"epoch": n}) for n in (1, 2, 3)])

    page = jobs.events(job.id, after=2, limit=2)
    assert [(e.id, e.type, e.data["epoch"]) for e in page.data] == [
        (3, "epoch", 1),
        (4, "epoch", 2),
    ]
    assert page.has_more
    rest = jobs.events(job.id, after=4, limit=2)
    assert ([e.id for e in rest.data], rest.has_more) == ([5], False)
    assert rest.data[0].at == clock.now
    assert jobs.events(job.id, after=99).data == []


def test_a_history_has_each_epoch_once_and_the_last_attempts(jobs: Jobs) -> None:
    def record(job: Job, epochs: range, checkpoint: int | None = None) -> None:
        data: list[tuple[str, dict[str, Any]]] = [
            ("epoch", {"epoch": epoch, "attempt": job.attempts}) for epoch in epochs
        ]
        key = None if checkpoint is None else Checkpoint(f"checkpoints/j/{epochs}", checkpoint)
        jobs.record(job, events=data, checkpoint=key)

    def history(job: Job) -> list[tuple[int, int]]:
        return [(e.data["epoch"], e.data["attempt"]) for e in jobs.epochs(job.id)]

    jobs.create(TRAIN)
    first = claim(jobs)
    record(first, range(1, 3), checkpoint=2)
    record(first, range(3, 6))
    jobs.release(first)
    assert history(first)[-1] == (5, 1)
    second = claim(jobs)
    assert history(second) == [(1, 1), (2, 1)]
    record(second, range(3, 5))

    assert history(second) == [(1, 1), (2, 1), (3, 2), (4, 2)]


@pytest.fixture
def dataset(datasets: Datasets, blobs: Blobs) -> Dataset:
    file: Path = blobs.temporary()
    file.write_bytes(b"content")
    new = NewDataset(
        kind="table",
        rows=1,
        schema={},
        bytes=7,
        sha256="0" * 64,
        blob=dataset_key("0" * 64, "arrow"),
    )
    return datasets.create(new, file)


def test_a_job_needs_data_sets_that_exist(jobs: Jobs, database: Database) -> None:
    missing = new_id("ds")
    for wrong in (missing, "x", "\ud800"):
        with pytest.raises(NotFound) as caught:
            jobs.create(NewJob(kind="train", spec={}, datasets={wrong: "#/dataset"}))
        assert caught.value.pointer == "#/dataset"

    assert jobs.list().data == []
    assert_sound(database)


def test_a_data_set_stays_until_no_job_needs_it(
    jobs: Jobs, datasets: Datasets, dataset: Dataset
) -> None:
    needing = NewJob(kind="train", spec={}, datasets={dataset.id: "#/dataset"})
    for end in ("cancel", "finish"):
        job = jobs.create(needing)
        with pytest.raises(Conflict, match=job.id):
            datasets.delete(dataset.id)
        if end == "cancel":
            jobs.cancel(job.id)
        else:
            held = claim(jobs)
            with pytest.raises(Conflict):
                datasets.delete(dataset.id)
            jobs.finish(held, Status.SUCCEEDED)

    datasets.delete(dataset.id)
    assert jobs.get(job.id).status is Status.SUCCEEDED


def test_times_come_back_as_they_were(jobs: Jobs, clock: Clock) -> None:
    clock.now = datetime.fromisoformat("2026-11-23T11:12:13.456789+05:00")
    job = jobs.create(TRAIN)

    assert job.created_at == clock.now
    assert job.created_at.utcoffset() == timedelta(0)
