"""The README: a newcomer who types its commands sees what it shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
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


def serve_command(data: Path) -> list[str]:
    """Return the README's command that serves, on another port and folder."""
    (line,) = (
        text.strip() for language, text in BLOCKS if language == "sh" and "bernoulli serve" in text
    )
    words = shlex.split(line.replace("8000", "0").replace("--data data", f"--data {data}"))
    beside = Path(sys.executable).with_name("bernoulli")
    return [str(ROOT / words[0] if (ROOT / words[0]).exists() else beside), *words[1:]]


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each of the README's blocks of curl commands prints, run in order in one shell.

    The server is that of the README's command.
    """
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    folder = tmp_path_factory.mktemp("readme")
    (folder / "docs").symlink_to(ROOT / "docs")
    with serving(folder / "data", command=serve_command(folder / "data")) as server:
        script = "printf '\\x1e'\n".join(CURLS).replace(ADDRESS, server.url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert server.stop() == 0
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


def test_every_block_of_commands_is_accounted_for() -> None:
    others = [text for language, text in BLOCKS if language == "sh" and "curl" not in text]
    assert [text.split()[0] for text in others] == ["git", ".venv/bin/bernoulli", "docker"]
    assert "make demo" in others[0]
    assert len(CURLS) == 5
