"""The server as a process: its lock, its address, its keys, and nothing left after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.e2e.servers import Server, children_of, csv_of, serving, wait_for

pytestmark = pytest.mark.processes


def refused(*flags: str, **env: str) -> str:
    """Run `bernoulli serve` that is expected to give up, and return what it says."""
    run = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", *flags],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **env},
    )
    assert run.returncode != 0
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    return run.stderr


def test_one_server_owns_a_folder(tmp_path: Path) -> None:
    with serving(tmp_path / "data", workers=0):
        said = refused("--data", str(tmp_path / "data"), "--port", "0")
        assert "another server owns" in said
    with serving(tmp_path / "data", workers=0) as again:  # the lock died with its server
        assert again.client.get("/health/ready").status_code == 200


def test_one_server_owns_a_folder_of_artifacts(tmp_path: Path) -> None:
    """The sweep of another would take what its own database does not know: all of it."""
    with serving(tmp_path / "data", workers=0):
        artifacts = str(tmp_path / "data" / "artifacts")
        other = str(tmp_path / "other")
        said = refused("--data", other, "--port", "0", BERNOULLI_ARTIFACTS=artifacts)
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


@pytest.mark.parametrize("how", ["BERNOULLI_KEYS", "BERNOULLI_KEYS_FILE", "keys"])
def test_with_keys_a_key_is_needed(how: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    env: dict[str, str] = {}
    secret = "correct horse battery staple".replace(" ", "-")
    if how == "BERNOULLI_KEYS":
        env[how] = f"another,{secret}"
    elif how == "BERNOULLI_KEYS_FILE":
        (tmp_path / "keys").write_text(f"# those who may\n{secret}\n")
        env[how] = str(tmp_path / "keys")
    else:
        create = ["keys", "create", "--name", "tests", "--data", str(data)]
        made = subprocess.run(
            [sys.executable, "-m", "service.cli", *create],
            capture_output=True,
            text=True,
            check=True,
        )
        secret = made.stdout.split()[1]
        assert secret.encode() not in (data / "bernoulli.db").read_bytes()
    with serving(data, env=env, workers=0) as server:
        for path in ("/health/live", "/health/ready", "/docs", "/openapi.json", "/"):
            assert server.client.get(path).status_code == 200
        for path in ("/datasets", "/jobs", "/models", "/metrics", "/capabilities", "/nothing"):
            answer = server.client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["content-type"] == "application/problem+json"
        wrong = {"Authorization": "Bearer wrong"}
        assert server.client.get("/jobs", headers=wrong).status_code == 401
        right = {"Authorization": f"Bearer {secret}"}
        assert server.client.get("/jobs", headers=right).status_code == 200
        upload = server.client.post(
            "/datasets", content=csv_of(), headers={**right, "Content-Type": "text/csv"}
        )
        assert upload.status_code == 201
        if how == "keys":
            key_id = made.stdout.split()[0]
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "service.cli",
                    "keys",
                    "revoke",
                    key_id,
                    "--data",
                    str(data),
                ],
                check=True,
                capture_output=True,
            )
            wait_for(lambda: server.client.get("/jobs").status_code == 200)  # no key is left
            assert server.client.get("/jobs", headers=wrong).status_code == 200


def test_auth_off_serves_everybody_beyond_loopback(tmp_path: Path) -> None:
    with serving(
        tmp_path / "data", env={"BERNOULLI_HOST": "0.0.0.0", "BERNOULLI_AUTH": "off"}, workers=0
    ) as server:
        port = httpx.URL(server.url).port
        assert httpx.get(f"http://127.0.0.1:{port}/jobs").status_code == 200


def processes_of(server: Server) -> list[int]:
    return [server.process.pid, *server.children()]


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def test_sigterm_ends_streams_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        dataset = server.upload(csv_of())
        job = server.train(dataset=dataset, network={"layers": [None, 9, None]}, epochs=1_000_000)
        pids = processes_of(server)
        assert len(pids) == 3
        received: list[bytes] = []
        opened = threading.Event()

        def follow() -> None:
            headers = {"Accept": "text/event-stream"}
            url = f"{server.url}/jobs/{job['id']}/events"
            with httpx.stream("GET", url, headers=headers, timeout=30) as stream:
                for chunk in stream.iter_raw():
                    received.append(chunk)
                    opened.set()

        follower = threading.Thread(target=follow)
        follower.start()
        assert opened.wait(10)
        assert server.stop() == 0
        follower.join(10)
        assert not follower.is_alive()
        assert alive(pids) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_server(number: signal.Signals, tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        server.upload(csv_of())  # starts a process that parses
        pids = processes_of(server)
        pids += [pid for child in pids for pid in children_of(child) if pid not in pids]
        assert len(pids) == 4
        server.process.send_signal(number)
        server.process.wait(30)
        wait_for(lambda: alive(pids) == [], 10)


def test_dead_children_are_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        for _ in range(2):
            before = server.children()
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda before=before: len(set(server.children()) - set(before)) == 2)

            def ready() -> bool:
                try:
                    return bool(server.client.get("/health/ready").status_code == 200)
                except httpx.TransportError:
                    return False

            wait_for(ready, 40)


def test_a_server_without_its_worker_says_it_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGSTOP)  # still there: it has only stopped
        assert server.client.get("/health/ready").status_code == 200
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.client.get("/health/ready").status_code == 503)
        answer = server.client.get("/health/ready")
        assert "worker" in answer.json()["detail"]
        assert server.client.get("/health/live").status_code == 200
        wait_for(lambda: server.client.get("/health/ready").status_code == 200, 40)
