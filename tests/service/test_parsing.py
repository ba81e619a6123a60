"""Parsing apart: what a file does to its parser, it does to nobody else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DataError
from service.errors import Unavailable
from service.parsing import Parsers
from tests.e2e.servers import children_of, wait_for

ASKS = """
import sys, pathlib
from service.parsing import Parsers
Parsers().parse(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + "-content"), "text/csv")
"""
Running = Callable[[], list[int]]
OUT_OF_MEMORY = object()
"""The system's kill where there is no memory left."""


@pytest.fixture
def running() -> Running:
    """Tells the parsers started since the test began; other tests' apps may keep some, too."""
    others = set(_parsers())
    return lambda: [pid for pid in _parsers() if pid not in others]


def is_running(pid: int) -> bool:
    """Whether a process has not ended, be it that nobody has asked for its end yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _parsers() -> list[int]:
    return children_of(os.getpid(), "service.executors.parser_process")


@pytest.fixture
def parsers(running: Running) -> Iterator[Parsers]:
    made = Parsers()
    yield made
    made.close()
    wait_for(lambda: running() == [])


def test_the_parsers_of_others_do_not_count(running: Running, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_text("a,b\n1,2\n")
    mine = Parsers()
    mine.parse(upload, tmp_path / "content", "text/csv")
    assert len(running()) == 1
    mine.close()
    assert running() == []


def test_a_file_is_parsed_profiled_and_saved(parsers: Parsers, tmp_path: Path) -> None:
    upload, content = tmp_path / "upload", tmp_path / "content"
    upload.write_text("a,b\n1,x\n2,y\n")
    parsed = parsers.parse(upload, content, "text/csv")
    assert parsed.schema["rows"] == 2
    assert [column["type"] for column in parsed.schema["columns"]] == ["integer", "text"]
    again = parsers.parse(upload, tmp_path / "other", "text/csv")
    assert again == parsed
    assert content.read_bytes() == (tmp_path / "other").read_bytes()


def test_what_is_wrong_with_a_file_is_told(parsers: Parsers, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_text("a,a\n1,2\n")
    with pytest.raises(DataError, match="a"):
        parsers.parse(upload, tmp_path / "content", "text/csv")


def test_a_bad_file_costs_no_parser(parsers: Parsers, running: Running, tmp_path: Path) -> None:
    """Each file has a copy of the parser to itself, which leaves nothing behind."""
    upload = tmp_path / "upload"
    upload.write_text("a,b\n1,x\n2,y\n")
    parsers.parse(upload, tmp_path / "content", "text/csv")
    (pid,) = running()
    for _ in range(3):
        with pytest.raises(DataError):
            parsers.parse(upload, tmp_path / "content", "application/x-npz")
    parsers.parse(upload, tmp_path / "content", "text/csv")
    assert running() == [pid]
    wait_for(lambda: children_of(pid) == [])
    assert len(list(Path(f"/proc/{pid}/task").iterdir())) <= 2  # it, and an allocator's


def test_a_parser_at_work_ends_with_who_asked_it(tmp_path: Path) -> None:
    upload = tmp_path / "pipe"
    os.mkfifo(upload)
    orphan = subprocess.Popen([sys.executable, "-c", ASKS, str(upload)])
    wait_for(lambda: any(children_of(pid) for pid in children_of(orphan.pid)))
    (parser,) = children_of(orphan.pid)
    at_work = [parser, *children_of(parser)]
    orphan.kill()
    orphan.wait()
    wait_for(lambda: not any(is_running(pid) for pid in at_work))


@pytest.mark.parametrize(
    ("kills", "refusal"),
    [
        ([signal.SIGSEGV], DataError),
        ([signal.SIGKILL] * 3, Unavailable),
        ([OUT_OF_MEMORY] * 2, DataError),
    ],
)
def test_a_file_of_which_parsers_die_is_refused_and_the_next_is_parsed(
    running: Running, tmp_path: Path, kills: list[Any], refusal: type[Exception]
) -> None:
    """At the first crash of its own, or when the system kills two in turn for want of memory."""
    endless = tmp_path / "pipe"
    os.mkfifo(endless)
    for_memory, told = [0], list[Exception]()
    parsers = Parsers(oom_kills=lambda: for_memory[0])

    def parse() -> None:
        try:
            parsers.parse(endless, tmp_path / "content", "text/csv")
        except (DataError, Unavailable) as error:
            told.append(error)

    thread = threading.Thread(target=parse)
    thread.start()
    killed: list[int] = []
    for kill in kills:
        wait_for(lambda: len(running()) == 1 and running() != killed[-1:])
        killed.extend(running())
        for_memory[0] += kill is OUT_OF_MEMORY
        os.kill(killed[-1], signal.SIGKILL if kill is OUT_OF_MEMORY else kill)
    thread.join(20)
    assert [type(error) for error in told] == [refusal]
    test_a_file_is_parsed_profiled_and_saved(parsers, tmp_path)
    parsers.close()


def test_a_parser_that_somebody_kills_does_not_cost_the_upload(
    parsers: Parsers, running: Running, tmp_path: Path
) -> None:
    upload, whole = tmp_path / "upload", tmp_path / "whole"
    os.mkfifo(upload)
    whole.write_text("a,b\n1,2\n3,4\n")
    rows: list[int] = []

    writers: list[int] = []

    def is_read() -> bool:
        with contextlib.suppress(OSError):  # nobody has opened the other end yet
            writers.append(os.open(upload, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    def parse() -> None:
        rows.append(parsers.parse(upload, tmp_path / "content", "text/csv").schema["rows"])

    thread = threading.Thread(target=parse)
    thread.start()
    wait_for(is_read)
    whole.replace(upload)
    (parser,) = running()
    at_work = [parser, *children_of(parser)]
    os.kill(parser, signal.SIGKILL)
    wait_for(lambda: not any(is_running(pid) for pid in at_work))
    os.close(writers[0])
    thread.join(20)
    assert rows == [2]


def test_no_more_than_two_parse_at_once(parsers: Parsers, running: Running, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_text("a,b\n" + "1,2\n" * 1000)

    def parse(number: int) -> None:
        parsers.parse(upload, tmp_path / f"content{number}", "text/csv")

    threads = [threading.Thread(target=parse, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, len(running()))
    assert most <= 2
    assert len(list(tmp_path.glob("content*"))) == 6


def test_after_closing_nothing_is_parsed(tmp_path: Path) -> None:
    closed = Parsers()
    closed.close()
    with pytest.raises(Unavailable):
        closed.parse(tmp_path / "upload", tmp_path / "content", "text/csv")
