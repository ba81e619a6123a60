"""Queries that the driver answers, and groups of events that it stores at once."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.errors import NotFound, Unavailable
from service.store import tables
from service.store.database import Database, Fetch
from service.store.jobs import Jobs, NewJob
from tests.service.store.new_databases import new_database

COUNT = Fetch(
    sa.select(sa.func.count())
    .select_from(tables.events)
    .where(tables.events.c.id > sa.bindparam("after"), tables.events.c.type != "log")
)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return new_database(tmp_path / "test.db")


@pytest.fixture
def jobs(database: Database) -> Jobs:
    return Jobs(database, lambda: datetime.now(UTC))


def claimed(jobs: Jobs, **new: Any) -> Any:
    jobs.create(NewJob(kind="train", spec={}, **new))
    return jobs.claim("worker")


def test_what_is_fetched_is_what_sqlalchemy_reads(database: Database, jobs: Jobs) -> None:
    job = claimed(jobs)
    jobs.record(job, events=[("log", {}), ("epoch", {"epoch": 1})])
    for after in (0, 1, 2, 9):
        with database.read() as connection:
            read = connection.execute(COUNT.statement, {"after": after}).all()
        assert database.fetch(COUNT, after=after) == [tuple(row) for row in read]


def test_what_others_have_committed_is_fetched(tmp_path: Path, jobs: Jobs) -> None:
    job = claimed(jobs)
    assert len(jobs.events(job.id).data) == 2
    others = Jobs(Database(f"sqlite:///{tmp_path / 'test.db'}"), lambda: datetime.now(UTC))
    others.record(job, events=[("log", {"message": "from elsewhere"})])
    assert jobs.events(job.id).data[-1].data == {"message": "from elsewhere"}


def test_a_closed_database_is_opened_anew(database: Database, jobs: Jobs) -> None:
    job = claimed(jobs)
    assert len(jobs.events(job.id).data) == 2
    database.close()
    assert len(jobs.events(job.id).data) == 2


def test_a_file_that_cannot_be_opened_is_told_as_such(tmp_path: Path) -> None:
    nowhere = Database(f"sqlite:///{tmp_path / 'no folder' / 'test.db'}")
    with pytest.raises(Unavailable, match="cannot be opened"):
        nowhere.fetch(COUNT, after=0)


@pytest.mark.parametrize("data", [
    {},
    {"text": "quotes \" ' \\ and \u0000 \n ä 🂡 </script>"},
    {"numbers": [0, -1, 2**53, 1.5e-300, 0.1], "none": None, "yes": True},
    {"nested": {"a": [{"b": [[]]}]}},
    {"long": "x" * 200_000},
])  # fmt: skip
def test_data_of_events_come_back_as_they_were(jobs: Jobs, data: dict[str, Any]) -> None:
    job = claimed(jobs)
    jobs.record(job, events=[("log", data), ("epoch", {"epoch": 1, **data})])
    found = jobs.events(job.id).data
    assert [event.id for event in found] == [1, 2, 3, 4]
    assert [event.type for event in found] == ["queued", "started", "log", "epoch"]
    assert found[2].data == data
    assert found[3].data == {"epoch": 1, **data}


def test_what_json_cannot_carry_is_null(jobs: Jobs) -> None:
    job = claimed(jobs)
    jobs.record(job, events=[("log", {"loss": float("nan"), "rate": float("inf")})])
    assert jobs.events(job.id).data[-1].data == {"loss": None, "rate": None}


def test_pages_end_where_they_are_to_and_say_whether_more_follows(jobs: Jobs) -> None:
    job = claimed(jobs)
    jobs.record(job, events=[("log", {"n": number}) for number in range(1000)])
    page = jobs.events(job.id, after=500, limit=100)
    assert [event.id for event in page.data] == list(range(501, 601))
    assert page.has_more
    last = jobs.events(job.id, after=902, limit=100)
    assert len(last.data) == 100
    assert not last.has_more
    assert jobs.events(job.id, after=10**6).data == []


def test_events_are_those_of_jobs_that_the_viewer_sees(jobs: Jobs) -> None:
    job = claimed(jobs, owner="key_a")
    assert jobs.seen_by("key_a").events(job.id).data == jobs.events(job.id).data
    for viewer, asked in [("key_b", job.id), (None, "job_" + 26 * "0"), (None, "'; DROP")]:
        with pytest.raises(NotFound, match="no job has the id"):
            jobs.seen_by(viewer).events(asked)
    jobs.share(job.id, shared=True)
    assert len(jobs.seen_by("key_b").events(job.id).data) == 2


def test_a_group_with_an_event_too_many_is_stored_as_a_whole_or_not_at_all(
    database: Database, jobs: Jobs
) -> None:
    job = claimed(jobs)
    with database.write() as connection:
        connection.execute(
            sa.insert(tables.events),
            {"job_id": job.id, "id": 4, "type": "log", "at": datetime.now(UTC), "data": {}},
        )
    with pytest.raises((sqlite3.IntegrityError, sa.exc.IntegrityError)):
        jobs.record(job, events=[("log", {}), ("log", {})])
    assert [event.id for event in jobs.events(job.id).data] == [1, 2, 4]
