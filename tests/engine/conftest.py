from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_process() -> None:
    """Compute as the service's processes do; threads of tests side by side only wait for cores."""
    torch.set_num_threads(1)
