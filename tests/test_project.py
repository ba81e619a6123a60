"""The project's own files: they agree with the code and with one another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import engine
from engine.kernels import BUILDS
from service.cli import app
from service.settings import Settings

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE)
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")] if path.is_file())


def make(*arguments: str) -> str:
    # A `make test` that runs this passes its own flags down by the environment.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=clean, check=True, capture_output=True, text=True)
    return done.stdout


# -- make ------------------------------------------------------------------------------------------


def test_help_lists_every_target() -> None:
    listed = re.findall(r"^  make (\w+) +\S", make("help"), re.MULTILINE)
    assert listed == TARGETS
    assert make() == make("help")


def test_every_target_is_phony() -> None:
    found = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert found is not None
    assert found.group(1).split() == TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_targets_that_exist(page: Path) -> None:
    commands = re.findall(r"(?:^|`)make ((?:[a-z]+ ?)+)", page.read_text(), re.MULTILINE)
    assert {word for words in commands for word in words.split()} <= set(TARGETS)


def test_ci_runs_check_and_test_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make check test")


def test_setup_installs_only_the_pinned_cpu_build_of_torch() -> None:
    (pin,) = [line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch")]
    version = pin.removeprefix("torch==")
    assert f"TORCH := {version}\n" in MAKEFILE
    assert f"torch=={version}\n" in (ROOT / "Dockerfile").read_text()
    script = make("--dry-run", "--always-make", "setup")
    first, second = script.index("install 'torch=="), script.index("--editable .")
    assert first < second
    if sys.platform == "linux":
        assert f"install 'torch=={version}+cpu'" in script


def test_setup_compiles_with_the_compiler_at_hand_or_a_fetched_one() -> None:
    script = make("--dry-run", "--always-make", "setup", "CC=clang")
    assert "CC='clang' LDSHARED='clang -shared'" in script
    assert "ziglang" not in script
    script = make("--dry-run", "--always-make", "setup", "CC=")
    assert (
        script.index("install 'ziglang") < script.index("ziglang cc") < script.index("--editable")
    )


def test_an_edit_of_the_kernels_compiles_them_again() -> None:
    for source in (ROOT / "engine" / "kernels").glob("*.c"):
        assert "--editable" in make("--dry-run", f"--what-if={source.relative_to(ROOT)}", "setup")


def test_each_build_of_the_kernels_is_declared_and_may_be_left_out() -> None:
    modules = PYPROJECT["tool"]["setuptools"]["ext-modules"]
    assert [module["name"] for module in modules] == [f"engine.kernels._{name}" for name in BUILDS]
    portable = modules[-1]["extra-compile-args"]
    for module in modules:
        assert module["optional"]
        assert all((ROOT / source).exists() for source in module["sources"])
        arguments = module["extra-compile-args"]
        assert arguments[: len(portable)] == portable
        assert all(re.fullmatch("-m[a-z0-9]+", feature) for feature in arguments[len(portable) :])


# -- versions, licence, changelog ------------------------------------------------------------------


def test_versions_agree() -> None:
    version = PYPROJECT["project"]["version"]
    assert engine.__version__ == version
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == f"bernoulli {version}"


def test_the_licence_is_the_one_that_is_declared() -> None:
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert len(text.splitlines()) > 170


def test_the_changelog_is_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


# -- documents -------------------------------------------------------------------------------------


def test_the_readme_lists_every_setting_as_the_code_has_it() -> None:
    rows = re.findall(
        r"^\| `(BERNOULLI_\w+)` \| (.*?) ?\| (.+) \|$",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    expected = [
        (
            f"BERNOULLI_{name.upper()}",
            "" if field.default is None else f"`{field.default}`",
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]
    assert rows == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_decisions_are_numbered_and_dated() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    for number, page in enumerate(pages, start=1):
        title, _, date, *_ = page.read_text().splitlines()
        assert page.name.startswith(f"{number:04}-")
        assert title.startswith(f"# {number}. ")
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)


def test_contributing_is_short() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 45


def test_no_file_is_an_attic() -> None:
    banned = {"utils.py", "util.py", "helpers.py", "common.py", "manager.py", "base.py"}
    for package in ("bench", "engine", "service"):
        assert not {path.name for path in (ROOT / package).rglob("*.py")} & banned
