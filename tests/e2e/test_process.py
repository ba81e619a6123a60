"""The server as a process: its lock, its address, its keys, and nothing left after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.servers import Mortal, Server, csv_of, serving, wait_for

pytestmark = pytest.mark.processes


def refused(*flags: str, **env: str) -> str:
    """Run `bernoulli serve` that is expected to give up, and return what it says."""
    run = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, **env},
    )
    assert run.returncode != 0
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    return run.stderr


def test_one_server_owns_a_folder(server: Server) -> None:
    """Its lock dies with it, or no test that kills a server could start the next."""
    assert "another server owns" in refused("--data", str(server.data), "--port", "0")


def test_one_server_owns_a_folder_of_artifacts(server: Server, tmp_path: Path) -> None:
    """The sweep of another would take what its own database does not know: all of it."""
    artifacts = str(server.data / "artifacts")
    said = refused("--data", str(tmp_path), "--port", "0", BERNOULLI_ARTIFACTS=artifacts)
    assert "another server owns the artifacts folder" in said


def test_a_port_in_use_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "cannot listen" in refused("--data", str(tmp_path), "--port", str(port))


def test_a_folder_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "cannot be written" in refused("--data", str(tmp_path / "file" / "data"))


def test_settings_that_make_no_sense_are_told_at_once(tmp_path: Path) -> None:
    assert "port" in refused("--data", str(tmp_path), "--port", "99999")
    assert "executor" in refused("--data", str(tmp_path), BERNOULLI_EXECUTOR="magic")


def test_without_keys_it_listens_on_loopback_only(tmp_path: Path) -> None:
    said = refused("--data", str(tmp_path), "--host", "0.0.0.0", "--port", "0")
    for way_out in ("BERNOULLI_KEYS", "bernoulli keys create", "BERNOULLI_AUTH=off"):
        assert way_out in said


def keys(*words: str) -> str:
    """Run `bernoulli keys` and return what it prints."""
    command = [sys.executable, "-m", "service.cli", "keys", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_with_keys_a_key_is_needed(tmp_path: Path) -> None:
    """From the environment, from a file, or made by the command line."""
    data = tmp_path / "data"
    (tmp_path / "keys").write_text("# those who may\nin-a-file\n")
    made = keys("create", "--name", "tests", "--data", str(data))
    key_id, secret = made.split()[:2]
    assert secret.encode() not in (data / "bernoulli.db").read_bytes()
    env = {
        "BERNOULLI_KEYS": "another,correct-horse-battery-staple",
        "BERNOULLI_KEYS_FILE": str(tmp_path / "keys"),
    }
    with serving(data, env=env, workers=0) as server:
        for path in ("/health/live", "/health/ready", "/docs", "/openapi.json", "/"):
            assert server.client.get(path).status_code == 200
        for path in ("/datasets", "/jobs", "/models", "/metrics", "/capabilities", "/nothing"):
            answer = server.client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"

        def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "text/csv"}
            return server.client.post("/datasets", content=csv_of(), headers=headers).status_code

        assert status("wrong") == 401
        right = ["another", "correct-horse-battery-staple", "in-a-file", secret]
        assert [status(key) for key in right] == [201] * 4
        keys("revoke", key_id, "--data", str(data))
        wait_for(lambda: status(secret) == 401)
        assert status("in-a-file") == 201


def test_auth_off_serves_everybody_beyond_loopback(mortal: Mortal) -> None:
    url = httpx.URL(mortal.server.url)
    assert url.host == "0.0.0.0"
    assert httpx.get(f"http://127.0.0.1:{url.port}/jobs").status_code == 200


def readiness(server: Server) -> int:
    try:
        return server.client.get("/health/ready").status_code
    except httpx.TransportError:
        return 0


def test_dead_children_are_replaced_and_a_server_without_its_worker_is_not_ready(
    mortal: Mortal,
) -> None:
    server = mortal.server
    (worker,) = server.children("worker")
    os.kill(worker, signal.SIGSTOP)  # still there: it has only stopped
    assert readiness(server) == 200
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: readiness(server) == 503)
    assert "worker" in server.client.get("/health/ready").json()["detail"]
    assert server.client.get("/health/live").status_code == 200
    wait_for(lambda: readiness(server) == 200)
    before = server.children()  # one of them has taken another's place
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(set(server.children()) - set(before)) == 2)
    wait_for(lambda: readiness(server) == 200)
