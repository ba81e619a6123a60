"""Figures of all jobs together."""

from __future__ import annotations

from typing import Any

from service.store.database import Database
from service.store.figures import JobFigures, job_figures
from service.store.jobs import Jobs, NewJob, Status, job_error
from tests.service.store.conftest import Clock

NONE = {"user": 0, "memory": 0, "timeout": 0, "infrastructure": 0}
TRAIN = NewJob(kind="train", spec={})


def test_without_jobs_all_figures_are_zero(database: Database, clock: Clock) -> None:
    assert job_figures(database, clock()) == JobFigures(0.0, NONE, 0.0)


def test_the_queue_is_as_old_as_its_oldest_job(
    database: Database, jobs: Jobs, clock: Clock
) -> None:
    jobs.create(TRAIN)
    clock.advance(5)
    jobs.create(TRAIN)
    clock.advance(2)
    assert job_figures(database, clock()).queue_age_s == 7
    jobs.claim("w")
    assert job_figures(database, clock()).queue_age_s == 2
    jobs.claim("v")
    assert job_figures(database, clock()).queue_age_s == 0


def test_failures_count_by_the_kind_of_the_error_and_not_by_its_words(
    database: Database, jobs: Jobs, clock: Clock
) -> None:
    errors: list[dict[str, Any]] = [
        job_error("user", 'the name was "kind":"memory"'),
        job_error("user", "b"),
        job_error("timeout", "c"),
    ]
    for error in errors:
        jobs.create(TRAIN)
        jobs.finish(jobs.claim("w") or jobs.create(TRAIN), Status.FAILED, error=error)
    assert job_figures(database, clock()).failed == {**NONE, "user": 2, "timeout": 1}


def test_rates_of_running_jobs_add_up(database: Database, jobs: Jobs, clock: Clock) -> None:
    for worker, rate in (("a", 10.5), ("b", None), ("c", 4.5)):
        jobs.create(TRAIN)
        job = jobs.claim(worker)
        assert job is not None
        jobs.record(job, progress={"rows_per_second": rate})
    jobs.create(TRAIN)
    jobs.claim("d")  # it has not told anything yet
    assert job_figures(database, clock()).rows_per_second == 15
