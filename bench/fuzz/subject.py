"""The app under test: in this process, called with the very bytes of a request."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import orjson
from fastapi import FastAPI

from service.app import create_app
from service.deps import State
from service.parsing import Parsers
from service.settings import Settings
from service.tasks import TASKS
from service.worker import Worker

__all__ = ["HANG_S", "Answer", "HangError", "Request", "Subject", "running"]

HANG_S = 5.0
"""An answer that takes longer is a failure."""
LOST_S = 120.0
"""One that takes longer ends the run: nothing more can be learnt from this process."""


@dataclass(frozen=True)
class Request:
    """What is sent."""

    method: str
    target: str
    """Path and query, percent-encoded."""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, target: str, body: Any, method: str = "POST") -> Request:
        """Return one with a body of JSON."""
        return cls(method, target, orjson.dumps(body), {"Content-Type": "application/json"})

    def raw(self) -> bytes:
        """Return the request as it would be on the wire."""
        head = [f"{self.method} {self.target} HTTP/1.1", "Host: localhost"]
        head += [f"{name}: {value}" for name, value in self.headers.items()]
        head.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join(head).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Answer:
    """What comes back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float

    def json(self) -> Any:
        return orjson.loads(self.body)


class HangError(Exception):
    """No answer came in time, nor long after."""


class Subject:
    """An app on a data folder, its event loop in a thread of its own."""

    def __init__(self, data: Path, parsers: Parsers, **settings: Any) -> None:
        """Start it; `max_answer_s` bounds what may take long, so that all else is a hang."""
        self.settings = Settings(**{"data": data, "workers": 0, "max_answer_s": 2.0, **settings})
        data.mkdir(parents=True, exist_ok=True)
        self.app: FastAPI = create_app(self.settings, parsers=parsers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.state = cast(State, self._run(self._lifespan.__aenter__()))

    def close(self) -> None:
        """End the app and its loop."""
        self._run(self._lifespan.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        gc.collect()

    def _run(self, work: Awaitable[Any], timeout: float | None = None) -> Any:
        async def awaited() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(timeout)

    def send(self, request: Request) -> Answer:
        """Return the answer; HangError if none comes."""
        started = time.perf_counter()
        try:
            status, headers, body = self._run(self._exchange(request), LOST_S)
        except TimeoutError as error:
            raise HangError(f"no answer in {LOST_S:g} s") from error
        return Answer(status, headers, body, time.perf_counter() - started)

    def ok(self, request: Request) -> Any:
        """Return the JSON of an answer that has to be a good one; None of one without a body."""
        answer = self.send(request)
        if answer.status >= 300:
            raise RuntimeError(f"{request.method} {request.target}: {answer.body[:500]!r}")
        return answer.json() if answer.body else None

    def work(self) -> None:
        """Run the jobs that wait, as a worker would."""
        worker = Worker(
            "fuzz",
            jobs=self.state["jobs"],
            datasets=self.state["datasets"],
            models=self.state["models"],
            blobs=self.state["blobs"],
            tasks=TASKS,
        )
        while worker.work_once():
            pass

    async def _exchange(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        """Call the app; a client that has sent its body stays and listens, for so long."""
        path, _, query = request.target.partition("?")
        given = {"Host": "localhost", "Content-Length": str(len(request.body)), **request.headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(path, errors="surrogateescape"),
            "raw_path": path.encode("latin-1", "replace"),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": [
                (name.lower().encode("latin-1"), value.encode("utf-8", "surrogatepass"))
                for name, value in given.items()
            ],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 8000),
            "state": dict(self.state),
        }
        messages = iter([{"type": "http.request", "body": request.body, "more_body": False}])
        end = asyncio.get_running_loop().time() + HANG_S - 1
        status, headers, pieces = 0, {}, list[bytes]()

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            if message is None:
                await asyncio.sleep(max(0.0, end - asyncio.get_running_loop().time()))
                message = {"type": "http.disconnect"}
            return message

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {
                    name.decode("latin-1").lower(): value.decode("latin-1")
                    for name, value in message["headers"]
                }
            else:
                pieces.append(bytes(message.get("body", b"")))

        call = cast(Callable[[Any, Any, Any], Awaitable[None]], self.app)
        try:
            await call(scope, receive, send)
        except Exception:
            if status != 500:  # the framework raises again what it has answered
                raise
        return status, headers, b"".join(pieces)


@contextmanager
def running(data: Path, parsers: Parsers, **settings: Any) -> Iterator[Subject]:
    """Run the app for the length of a block."""
    subject = Subject(data, parsers, **settings)
    try:
        yield subject
    finally:
        subject.close()
