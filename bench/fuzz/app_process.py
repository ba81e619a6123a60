"""The app under test, in a process of its own: called with the very bytes of a request."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from fastapi import FastAPI

from bench.fuzz.requests import HANG_S, Answer, HangError, Request
from service.app import create_app
from service.deps import State
from service.settings import Settings
from service.tasks import TASKS
from service.worker import Worker

__all__ = ["LOST_S", "serve"]

LOST_S = 120.0
"""An answer that takes longer ends the run: nothing more can be learnt from this process."""


def serve(pipe: Connection, data: Path) -> None:
    """Run an app on a data folder and do what comes through the pipe, until it is closed.

    Each message is the name of a method of the app and its arguments; the answer is what that has
    returned, or the error that it has raised.
    """
    app = _App(data)
    try:
        while True:
            name, arguments = pipe.recv()
            try:
                told: Any = getattr(app, name)(*arguments)
            except HangError as error:
                told = error
            except Exception:  # not all errors can be sent
                told = RuntimeError(traceback.format_exc())
            pipe.send(told)
    except EOFError:
        pass
    finally:
        app.close()


class _App:
    """An app, its event loop in a thread of its own."""

    def __init__(self, data: Path) -> None:
        """Start it; `max_answer_s` bounds what may take long, so that all else is a hang."""
        settings = Settings(data=data, workers=0, max_answer_s=2.0)
        data.mkdir(parents=True, exist_ok=True)
        self._app: FastAPI = create_app(settings)
        self._artifacts = settings.artifacts_path
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._state = cast(State, self._run(self._lifespan.__aenter__()))

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

    def document(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        return self._app.openapi()

    def content_of(self, dataset: str) -> Path:
        """Return the file of a data set."""
        return self._artifacts / self._state["datasets"].get(dataset).blob

    def weights_of(self, model: str) -> Path:
        """Return the file of a model's weights."""
        return self._artifacts / self._state["models"].get(model).weights

    def collect(self) -> None:
        """Have what is garbage collected."""
        gc.collect()

    def work(self) -> None:
        """Run the jobs that wait, as a worker would."""
        worker = Worker(
            "fuzz",
            jobs=self._state["jobs"],
            datasets=self._state["datasets"],
            models=self._state["models"],
            blobs=self._state["blobs"],
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
            "state": dict(self._state),
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

        call = cast(Callable[[Any, Any, Any], Awaitable[None]], self._app)
        try:
            await call(scope, receive, send)
        except Exception:
            if status != 500:  # the framework raises again what it has answered
                raise
        return status, headers, b"".join(pieces)
