from __future__ import annotations

import pytest
import torch

import tests.thoroughness  # noqa: F401 - has a profile, which must be known when one is chosen


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=4, help="how often one job is killed in a row")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give time to tests that start processes: on a busy machine each takes a minute to start."""
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if "processes" in marks and "timeout" not in marks:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Run PyTorch as the service does: small work on several threads takes longer than on one."""
    torch.set_num_threads(1)
