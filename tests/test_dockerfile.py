"""The image, as far as it can be tested without an engine that builds it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Dockerfile").read_text()
LINES = [
    line
    for line in re.sub(r"\\\n\s*", " ", TEXT).splitlines()
    if line.strip() and not line.startswith("#")
]
FINAL_STAGE = LINES[max(i for i, line in enumerate(LINES) if line.startswith("FROM ")) :]


def instructions(name: str, lines: list[str] = LINES) -> list[str]:
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def environment() -> dict[str, str]:
    """The variables that the image sets for the service."""
    words = " ".join(instructions("ENV", FINAL_STAGE)).split()
    pairs = [word.split("=", 1) for word in words]
    return {name: value for name, value in pairs if name.startswith("BERNOULLI_")}


def test_hadolint_finds_nothing() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_that_is_copied_exists_and_reaches_the_build() -> None:
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_bases_are_pinned_by_tag() -> None:
    for base in instructions("FROM"):
        assert re.fullmatch(r"python:\d+\.\d+-slim-\w+( AS build)?", base), base


def test_the_compiler_stays_in_the_build() -> None:
    installs = [line for line in LINES if re.search(r"apt-get install .*\bgcc\b", line)]
    assert len(installs) == 1
    assert installs[0] not in FINAL_STAGE
    assert "**/*.so" in (ROOT / ".dockerignore").read_text().splitlines()


def test_it_does_not_run_as_root_and_gets_its_signals_itself() -> None:
    (user,) = instructions("USER", FINAL_STAGE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    (entrypoint,), (command,) = instructions("ENTRYPOINT"), instructions("CMD", FINAL_STAGE)
    assert [*json.loads(entrypoint), *json.loads(command)] == ["bernoulli", "serve"]


def test_it_serves_where_it_says() -> None:
    variables = environment()
    assert variables["BERNOULLI_DATA"] in instructions("VOLUME")
    assert variables["BERNOULLI_PORT"] in instructions("EXPOSE")
    names = {name.removeprefix("BERNOULLI_").lower() for name in variables}
    assert names <= set(Settings.model_fields)


def test_it_refuses_to_start_without_keys(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if "BERNOULLI" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve"],
        env={**clean, **environment(), "BERNOULLI_DATA": str(tmp_path / "data")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "BERNOULLI_KEYS" in done.stderr


def test_cuda_is_a_matter_of_one_argument() -> None:
    assert instructions("ARG") == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    assert '--index-url "$TORCH_INDEX" torch==' in TEXT


@contextmanager
def answering(status: int) -> Iterator[int]:
    """Answer /health/live with a status, on the port that is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/live" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def healthcheck(port: int) -> int:
    (line,) = instructions("HEALTHCHECK")
    python, *arguments = json.loads(line[line.index("CMD") + 3 :])
    assert python == "python"
    variables = {**os.environ, "BERNOULLI_PORT": str(port)}
    done = subprocess.run([sys.executable, *arguments], env=variables, capture_output=True)
    return done.returncode


def test_the_healthcheck_tells_a_live_server_from_others() -> None:
    with answering(200) as port:
        assert healthcheck(port) == 0
    assert healthcheck(port) != 0
    with answering(503) as port:
        assert healthcheck(port) != 0


def test_compose_starts_the_image_locked_down_and_with_keys() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["bernoulli"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"]["BERNOULLI_KEYS"].startswith("${BERNOULLI_KEYS:?")
    assert service["volumes"] == [f"data:{environment()['BERNOULLI_DATA']}"]
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["shutdown_s"].default
