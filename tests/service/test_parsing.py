"""Parsing apart: what a file does to its parser, it does to nobody else."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import DataError
from service.errors import Unavailable
from service.parsing import Parsers
from tests.e2e.servers import children_of, wait_for

Running = Callable[[], list[int]]


@pytest.fixture
def running() -> Running:
    """Tells the parsers started since the test began; other tests' apps may keep some, too."""
    others = set(_parsers())
    return lambda: [pid for pid in _parsers() if pid not in others]


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


def test_a_parser_that_dies_refuses_its_file_and_is_replaced(
    parsers: Parsers, running: Running, tmp_path: Path
) -> None:
    endless = tmp_path / "pipe"
    os.mkfifo(endless)
    told: list[str] = []

    def parse() -> None:
        try:
            parsers.parse(endless, tmp_path / "content", "text/csv")
        except DataError as error:
            told.append(error.detail)

    thread = threading.Thread(target=parse)
    thread.start()
    wait_for(lambda: len(running()) == 1)
    os.kill(running()[0], signal.SIGKILL)
    thread.join(20)
    assert told == ["the file cannot be read: it is damaged, or takes too much to unpack"]
    test_a_file_is_parsed_profiled_and_saved(parsers, tmp_path)


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
