"""What is dropped, and what never is: retention by age and by bytes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.blobs import Blobs, checkpoint_key
from service.store.database import Database
from service.store.datasets import Datasets
from service.store.idempotency import Answer, Idempotency, IdempotencyKeys, Remember
from service.store.jobs import Checkpoint, Job, Jobs, NewJob, Status
from service.store.retention import Kept, Limit, Retention
from service.store.sweep import missing, sweep
from tests.service.store.conftest import Clock
from tests.service.store.test_datasets import upload
from tests.service.store.test_prediction_jobs import staged

DAY = 24 * 3600.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FOUND = st.lists(
    st.builds(
        Kept,
        name=st.uuids().map(str),
        since=st.integers(0, 100).map(lambda days: NOW - timedelta(days=days)),
        bytes=st.integers(0, 50),
    ),
    max_size=10,
)


@given(FOUND, st.none() | st.integers(0, 100), st.none() | st.integers(0, 200))
def test_what_stays_is_young_and_fits_and_what_goes_is_older(
    found: list[Kept], days: int | None, most: int | None
) -> None:
    gone = Limit(days, most).past(found, NOW)
    stays = [kept for kept in found if kept not in gone]
    assert gone == sorted(gone, key=lambda kept: (kept.since, kept.name))
    assert days is None or all(NOW - kept.since <= timedelta(days=days) for kept in stays)
    assert most is None or sum(kept.bytes for kept in stays) <= most
    if most is None:
        assert days is not None or not gone
        assert all(NOW - kept.since > timedelta(days=days or 0) for kept in gone)


class Store:
    """A store with jobs that have ended, and what becomes of it under some limits."""

    def __init__(
        self, database: Database, blobs: Blobs, datasets: Datasets, jobs: Jobs, clock: Clock
    ) -> None:
        self.database, self.blobs, self.datasets = database, blobs, datasets
        self.jobs, self.clock = jobs, clock

    def running(self, size: int = 10) -> Job:
        """A job with a checkpoint of `size` bytes and some events."""
        self.jobs.create(NewJob(kind="train", spec={}))
        job = self.jobs.claim("w")
        assert job is not None
        key = checkpoint_key(job.id, 1)
        self.blobs.put_bytes(key, b"s" * size)
        self.jobs.record(job, events=[("log", {"message": "m"})], checkpoint=Checkpoint(key, 1))
        return job

    def ended(self, size: int = 10, **left: Any) -> Job:
        """The same, at its end."""
        return self.jobs.finish(self.running(size), Status.SUCCEEDED, **left)

    def apply(self, **limits: Limit) -> dict[str, int]:
        retention = Retention(self.database, self.blobs, self.datasets, self.clock, **limits)
        return dict(retention.apply())

    def checkpoints(self) -> list[str]:
        return sorted(key.split("/")[1] for key, _ in self.blobs.keys("checkpoints"))


@pytest.fixture
def store(database: Database, blobs: Blobs, datasets: Datasets, jobs: Jobs, clock: Clock) -> Store:
    return Store(database, blobs, datasets, jobs, clock)


def test_nothing_goes_without_limits(store: Store) -> None:
    store.ended()
    store.clock.advance(10_000 * DAY)
    assert store.apply() == {}
    assert len(store.checkpoints()) == 1


def test_checkpoints_of_ended_jobs_go_by_age_and_by_bytes_and_never_a_running_ones(
    store: Store,
) -> None:
    old = store.ended()
    store.clock.advance(2 * DAY)
    large, young = store.ended(100), store.ended()
    store.jobs.renew("w")
    running = store.running(1000)
    assert store.apply(checkpoints=Limit(days=1)) == {"checkpoints": 1}
    assert store.checkpoints() == sorted([large.id, young.id, running.id])
    assert store.jobs.get(old.id).checkpoint is None
    assert store.apply(checkpoints=Limit(bytes=50)) == {"checkpoints": 1}
    assert store.checkpoints() == sorted([young.id, running.id])
    assert store.apply(checkpoints=Limit(bytes=50)) == {"checkpoints": 0}


def test_of_old_jobs_events_the_last_stays(store: Store) -> None:
    old = store.ended()
    store.clock.advance(2 * DAY)
    young, running = store.ended(), store.running()
    assert store.apply(events=Limit(days=1)) == {"events": 1}
    (last,) = store.jobs.events(old.id).data
    assert (last.type, last.id) == ("finished", old.last_event)
    for job in (young, running):
        assert len(store.jobs.events(job.id).data) > 2
    assert store.apply(events=Limit(bytes=0)) == {"events": 1}
    assert len(store.jobs.events(young.id).data) == 1
    assert len(store.jobs.events(running.id).data) > 2


def test_results_go_by_age_unless_a_job_needs_them_and_uploads_never(store: Store) -> None:
    uploaded = upload(store.datasets, store.blobs)
    contents = (b"a", b"b")
    made = [store.ended(dataset=staged(store.datasets, store.blobs, each)) for each in contents]
    first, second = (str((job.result or {})["dataset"]) for job in made)
    store.jobs.create(NewJob(kind="train", spec={}, datasets={second: "#/dataset"}))
    store.clock.advance(2 * DAY)
    assert store.apply(results=Limit(days=1, bytes=0)) == {"results": 1}
    assert [dataset.id for dataset in store.datasets.list().data] == [second, uploaded.id]
    assert not store.blobs.exists(f"datasets/{first}")
    assert missing(store.database, store.blobs) == []


def test_answers_are_kept_at_least_a_day_and_not_for_ever(store: Store) -> None:
    keys = IdempotencyKeys(store.database, store.clock)
    for owner in (None, "key_1"):
        key = Idempotency("k1", owner, "a" * 64)
        remember = Remember[Job](key, lambda job: Answer(202, {}, job.id.encode()))
        store.jobs.create(NewJob(kind="train", spec={}), remember=remember)
    store.clock.advance(DAY)
    limit = Limit(days=2, bytes=0)
    assert store.apply(idempotency=limit) == {"idempotency_keys": 0}
    store.clock.advance(1)
    assert store.apply(idempotency=Limit(days=2)) == {"idempotency_keys": 0}
    assert keys.lookup(key) is not None
    assert store.apply(idempotency=limit) == {"idempotency_keys": 2}
    assert keys.lookup(key) is None


def test_a_sweep_beside_workers_leaves_what_a_working_job_has_stored(store: Store) -> None:
    job = store.running()
    waiting = checkpoint_key(job.id, 1)
    store.blobs.put_bytes(waiting, b"the last state, whose row waits for room")
    assert sweep(store.database, store.blobs, older_than_s=1e-9) == 0
    assert store.blobs.exists(waiting)


def test_content_that_is_lost_is_told(store: Store) -> None:
    dataset = upload(store.datasets, store.blobs)
    assert missing(store.database, store.blobs) == []
    store.blobs.delete(dataset.blob)
    assert missing(store.database, store.blobs) == [dataset.id]
