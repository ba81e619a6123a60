from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.worker.worlds import FullWorld, SlowWorld, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowWorld]:
    made = SlowWorld(tmp_path)
    yield made
    made.let_write()
    made.thread.shutdown()
    made.database.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullWorld]:
    made = FullWorld(tmp_path)
    yield made
    made.database.close()
