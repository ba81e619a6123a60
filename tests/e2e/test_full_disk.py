"""A disk that is really full: a server on a small one, filled to the last byte, and emptied."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.servers import Server, csv_of, serving, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this process may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free; return the file to delete."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return ballast


def upload(server: Server) -> httpx.Response:
    headers = {"Content-Type": "text/csv"}
    return server.client.post("/datasets", content=csv_of(rows=2000), headers=headers)


def test_a_server_on_a_full_disk_goes_on_reading_and_recovers_by_itself(disk: Path) -> None:
    with serving(disk / "data", env={"BERNOULLI_MIN_FREE_BYTES": "0"}) as server:
        dataset = server.upload(csv_of())
        spec = {"dataset": dataset, "network": {"layers": [None, 8, None]}}
        first = server.finished(server.train(epochs=2, **spec)["id"])
        long = server.train(epochs=100_000, checkpoint_every={"seconds": 1}, **spec)["id"]
        wait_for(lambda: server.client.get(f"/jobs/{long}").json()["progress"])
        rows = {"model": first["model"], "inputs": [[1, 2, 3]], "num_samples": 5, "seed": 1}
        rows["hidden_dropout"] = 0.5
        before = server.predict(**rows)
        children = set(server.children())

        ballast = fill(disk)
        wait_for(lambda: upload(server).status_code == 507)
        refused = server.client.get("/health/ready")
        assert refused.status_code == 503
        assert "full" in refused.json()["detail"]
        assert server.client.get("/health/live").status_code == 200
        assert server.predict(**rows) == before
        assert server.client.get(f"/jobs/{first['id']}").json() == first
        queued = server.client.post("/train", json={**spec, "epochs": 1})
        assert queued.status_code in (202, 507)

        def stands_still() -> bool:
            seen = server.client.get(f"/jobs/{long}").json()
            assert not seen["terminal"], seen
            again = server.client.get(f"/jobs/{long}", headers={"Prefer": "wait=1"}).json()
            return bool(seen["progress"] == again["progress"])

        wait_for(stands_still)

        ballast.unlink()
        wait_for(lambda: server.client.get("/health/ready").status_code == 200, 40)
        at = server.client.get(f"/jobs/{long}").json()["progress"]
        wait_for(lambda: server.client.get(f"/jobs/{long}").json()["progress"] != at, 40)
        assert server.client.get(f"/jobs/{long}").json()["attempts"] == 1
        assert server.client.post(f"/jobs/{long}/cancel").status_code == 202
        assert server.finished(long)["status"] == "cancelled"
        assert upload(server).status_code == 201
        assert server.finished(server.train(epochs=1, **spec)["id"])["status"] == "succeeded"
        assert set(server.children()) >= children  # none of its processes has died of it


def test_a_server_that_cannot_start_for_want_of_room_says_so(disk: Path) -> None:
    env = {"BERNOULLI_MIN_FREE_BYTES": "0"}
    with serving(disk / "data", env=env, workers=0) as server:
        dataset = server.upload(csv_of())
        assert server.stop() == 0
    ballast = fill(disk)
    with pytest.raises(RuntimeError, match="the database's disk is full"):
        Server(disk / "data", env=env, workers=0)
    ballast.unlink()
    with serving(disk / "data", env=env, workers=0) as server:
        assert server.client.get(f"/datasets/{dataset}").status_code == 200
