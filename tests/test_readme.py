"""The README: a newcomer who types its commands sees what it shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.servers import serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8000"

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_MADE_UP = re.compile(r"^(mdl_|job_|ds_|urn:bernoulli:request:).*")
BLOCKS: list[tuple[str, str]] = _BLOCK.findall(README)
CURLS = [text for language, text in BLOCKS if language == "sh" and "curl" in text]
ANSWERS = [json.loads(text) for language, text in BLOCKS if language == "json"]


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each of the README's blocks of curl commands prints, run in order in one shell."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    folder = tmp_path_factory.mktemp("readme")
    (folder / "docs").symlink_to(ROOT / "docs")
    with serving(folder / "data") as server:
        script = "printf '\\x1e'\n".join(CURLS).replace(ADDRESS, server.url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    printed = done.stdout.split("\x1e")
    assert len(printed) == len(CURLS)
    return printed


def resembles(shown: Any, real: Any) -> bool:
    """Compare JSON: the same keys and words; ids by kind, numbers roughly (CPUs round apart)."""
    if isinstance(shown, dict):
        return isinstance(real, dict) and (
            shown.keys() == real.keys() and all(resembles(shown[key], real[key]) for key in shown)
        )
    if isinstance(shown, list):
        return (
            isinstance(real, list) and len(shown) == len(real) and all(map(resembles, shown, real))
        )
    if isinstance(shown, float):
        return isinstance(real, float) and real == pytest.approx(shown, rel=0.3)
    if isinstance(shown, str) and _MADE_UP.match(shown):
        return isinstance(real, str) and _MADE_UP.sub(r"\1", shown) == _MADE_UP.sub(r"\1", real)
    return bool(shown == real)


@pytest.mark.processes
def test_the_flow_works_as_it_is_written(transcript: list[str]) -> None:
    upload, train, follow, predict, refused = transcript
    assert json.loads(upload)["rows"] == 442
    assert json.loads(train)["status"] == "queued"
    assert "event: finished" in follow
    assert "BernoulliDropout(hid[12]:out) ~ B(0.1)" in follow
    assert '"predictive_quantiles"' in predict
    assert json.loads(refused)["status"] == 422


@pytest.mark.processes
def test_the_answers_shown_are_those_given(transcript: list[str]) -> None:
    prediction, problem = ANSWERS
    # The block's first command prints the alias, its second the prediction.
    _, end = json.JSONDecoder().raw_decode(transcript[3])
    real = json.loads(transcript[3][end:])
    assert resembles(prediction, real), real
    assert resembles(problem, json.loads(transcript[4])), transcript[4]


@pytest.mark.processes
def test_the_serve_command_serves(tmp_path: Path) -> None:
    (line,) = (
        text.strip() for language, text in BLOCKS if language == "sh" and "bernoulli serve" in text
    )
    words = shlex.split(line.replace("8000", "0").replace("--data data", f"--data {tmp_path}/data"))
    command = [str(ROOT / words[0]) if (ROOT / words[0]).exists() else "bernoulli", *words[1:]]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            assert "http://127.0.0.1:" in server.stdout.readline()
        finally:
            server.terminate()
        assert server.wait(40) == 0


def test_every_block_of_commands_is_accounted_for() -> None:
    others = [text for language, text in BLOCKS if language == "sh" and "curl" not in text]
    assert [text.split()[0] for text in others] == ["git", ".venv/bin/bernoulli", "docker"]
    assert "make demo" in others[0]
    assert len(CURLS) == 5
