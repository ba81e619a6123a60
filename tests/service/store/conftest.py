from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.store.aliases import Aliases
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.datasets import Datasets
from service.store.jobs import Jobs
from service.store.models import Models
from tests.service.store.new_databases import new_database


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = new_database(tmp_path / "a database?%.db")
    yield database
    database.close()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "artifacts")


@pytest.fixture
def jobs(database: Database, clock: Clock) -> Jobs:
    return Jobs(database, clock, lease_s=30, max_failures=3)


@pytest.fixture
def datasets(database: Database, clock: Clock, blobs: Blobs) -> Datasets:
    return Datasets(database, clock, blobs)


@pytest.fixture
def models(database: Database, clock: Clock) -> Models:
    return Models(database, clock)


@pytest.fixture
def aliases(database: Database, clock: Clock) -> Aliases:
    return Aliases(database, clock)
