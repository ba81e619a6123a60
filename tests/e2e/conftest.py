from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.servers import Mortal, Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave its processes alone."""
    with serving(tmp_path_factory.mktemp("e2e") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def one_mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    env = {"BERNOULLI_HOST": "0.0.0.0", "BERNOULLI_AUTH": "off"}
    mortal = Mortal(tmp_path_factory.mktemp("mortal") / "data", env=env)
    yield mortal
    mortal.end()


@pytest.fixture
def mortal(one_mortal: Mortal) -> Iterator[Mortal]:
    """One server for all tests that kill or stop it; it listens on all addresses, without keys."""
    yield one_mortal
    one_mortal.calm_down()
