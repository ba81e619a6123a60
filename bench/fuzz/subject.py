"""The app under test, and how it is asked."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from bench.fuzz import app_process
from bench.fuzz.requests import Answer, HangError, Request

__all__ = ["Subject", "running"]


class Subject:
    """An app in a process of its own, so that its memory is seen apart from that of who asks."""

    def __init__(self, data: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=app_process.serve, args=(theirs, data), daemon=False)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self._process.pid is not None
        return self._process.pid

    def close(self) -> None:
        """End the app and its process."""
        self._pipe.close()
        self._process.join(60)
        if self._process.exitcode is None:
            self._process.kill()

    def send(self, request: Request) -> Answer:
        """Return the answer; HangError if none comes."""
        return cast(Answer, self._told("send", request))

    def ok(self, request: Request) -> Any:
        """Return the JSON of an answer that has to be a good one; None of one without a body."""
        answer = self.send(request)
        if answer.status >= 300:
            raise RuntimeError(f"{request.method} {request.target}: {answer.body[:500]!r}")
        return answer.json() if answer.body else None

    def work(self) -> None:
        """Run the jobs that wait, as a worker would."""
        self._told("work")

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return cast(dict[str, Any], self._told("document"))

    def content_of(self, dataset: str) -> Path:
        """Return the file of a data set."""
        return cast(Path, self._told("content_of", dataset))

    def weights_of(self, model: str) -> Path:
        """Return the file of a model's weights."""
        return cast(Path, self._told("weights_of", model))

    def collect(self) -> None:
        """Have what is garbage in its process collected."""
        self._told("collect")

    def _told(self, name: str, *arguments: Any) -> Any:
        self._pipe.send((name, arguments))
        if not self._pipe.poll(2 * app_process.LOST_S):
            raise HangError("the app's process answers no more")
        told = self._pipe.recv()
        if isinstance(told, Exception):
            raise told
        return told


@contextmanager
def running(data: Path) -> Iterator[Subject]:
    """Run the app for the length of a block."""
    subject = Subject(data)
    try:
        yield subject
    finally:
        subject.close()
