from __future__ import annotations

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often one job is killed in a row")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Run PyTorch as the service does: small work on several threads takes longer than on one."""
    torch.set_num_threads(1)
