from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
import safetensors.numpy
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.types import Message, Receive

from service.app import create_app
from service.deps import State
from service.parsing import Parsers
from service.settings import Settings
from service.tasks import TASKS
from service.worker import Worker
from tests.service.store.new_databases import place_database


class _AppTransport(httpx.BaseTransport):
    """Calls the app in an event loop of its own; requests of several threads run side by side.

    Bodies come in one message, as short ones do from a server, or `in_pieces` by that extension.
    """

    def __init__(self, portal: BlockingPortal, app: FastAPI, state: State) -> None:
        async def in_pieces(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        async def whole(scope: Any, receive: Any, send: Any) -> None:
            await in_pieces(scope, _whole(receive), send)

        self._portal = portal
        self._transport = httpx.ASGITransport(whole, raise_app_exceptions=False)
        self._in_pieces = httpx.ASGITransport(in_pieces, raise_app_exceptions=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.stream = httpx.ByteStream(request.read())
        return self._portal.call(self._call, request)

    async def _call(self, request: httpx.Request) -> httpx.Response:
        is_cut = request.extensions.get("in_pieces", False)
        transport = self._in_pieces if is_cut else self._transport
        response = await transport.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(response.status_code, headers=response.headers, content=content)


def _whole(receive: Receive) -> Receive:
    """Return what gives a body's messages as one, and then those that follow."""
    pieces: list[bytes] = []

    async def once() -> Message:
        message = await receive()
        while message["type"] == "http.request" and message["more_body"]:
            pieces.append(message["body"])
            message = await receive()
        if message["type"] == "http.request":
            message = {**message, "body": b"".join([*pieces, message["body"]])}
        return message

    return once


class Api(httpx.Client):
    """A client of an app that runs in this process, and the state behind it."""

    def __init__(self, portal: BlockingPortal, app: FastAPI, state: State) -> None:
        super().__init__(transport=_AppTransport(portal, app, state), base_url="http://localhost")
        self.app = app
        self._portal = portal
        self.state = state

    def call(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something in the app's event loop."""
        self._portal.call(work)

    def upload(self, content: bytes = b"x,y\n1,2\n2,4\n3,6\n4,8\n", kind: str = "text/csv") -> str:
        answer = self.post("/datasets", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def train(self, dataset: str, **spec: Any) -> dict[str, Any]:
        network = {"layers": [None, 3, None]}
        body = {"dataset": dataset, "network": network, "epochs": 5, **spec}
        answer = self.post("/train", json=body)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def worker(self, **options: Any) -> Worker:
        """Return a worker of this process, which looks at a job after each piece of its work."""
        return Worker(
            "tests",
            jobs=self.state["jobs"],
            datasets=self.state["datasets"],
            models=self.state["models"],
            blobs=self.state["blobs"],
            tasks=TASKS,
            **{"step_s": 0.0} | options,
        )

    def work(self) -> None:
        """Run the jobs that wait, in this thread, as a worker would."""
        worker = self.worker()
        while worker.work_once():
            pass

    def import_model(self, **headers: str) -> httpx.Response:
        """Import a 2-1 linear network that adds its inputs."""
        weights = {"out.w": np.ones((2, 1), np.float32), "out.b": np.zeros(1, np.float32)}
        spec = {"network": {"layers": [2, 1]}, "name": "sum"}
        files: Any = {
            "spec": (None, json.dumps(spec), "application/json"),
            "weights": ("sum.safetensors", safetensors.numpy.save(weights)),
        }
        return self.post("/models", files=files, headers=headers)


#: Makes a client of an app with these settings.
Serve = Callable[..., Api]


_routers: dict[int, BaseRoute] = {}
"""What FastAPI has made of each router that an app includes."""


def _share_routers(app: FastAPI) -> None:
    """Let the app have what an earlier one made of the same routers on its first request.

    That takes longer than most tests. What is made knows of its app only the overrides of
    dependencies, which no test has; and routes that a test adds to an app stay there.
    """
    for i, route in enumerate(app.router.routes):
        router = getattr(route, "original_router", None)
        if router is not None:
            app.router.routes[i] = _routers.setdefault(id(router), route)


@contextmanager
def apps(folder: Path, parsers: Parsers | None = None) -> Iterator[Serve]:
    """Give a maker of apps, whose data are in `folder` unless their settings say otherwise.

    Each app has `parsers` of its own unless they are given.
    """
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())

        def start(**settings: Any) -> Api:
            chosen = Settings(**{"data": folder, "workers": 0, **settings})
            if chosen.database is None and chosen.data.is_dir():
                place_database(chosen.data / "bernoulli.db")
            app = create_app(chosen, parsers=parsers)
            _share_routers(app)
            state = stack.enter_context(
                portal.wrap_async_context_manager(app.router.lifespan_context(app))
            )
            return stack.enter_context(Api(portal, app, cast(State, state)))

        yield start


@pytest.fixture(scope="session")
def parsers() -> Iterator[Parsers]:
    """What parses uploads, for all apps: a process takes longer to start than any test takes."""
    started = Parsers()
    yield started
    started.close()


@pytest.fixture
def serve(tmp_path: Path, parsers: Parsers) -> Iterator[Serve]:
    with apps(tmp_path, parsers) as start:
        yield start


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, parsers: Parsers) -> Iterator[Api]:
    """One app for all tests that do not mind what the others leave in it."""
    with apps(tmp_path_factory.mktemp("shared"), parsers) as start:
        yield start()


@pytest.fixture
def api(serve: Serve) -> Api:
    """A client of an app without keys and without workers: jobs stay queued."""
    return serve()


def assert_problem(answer: httpx.Response, status: int, *pointers: str) -> dict[str, Any]:
    """Check that an answer is a problem, with errors at the pointers; return its body."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["type"].startswith("urn:bernoulli:problem:")
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == f"urn:bernoulli:request:{answer.headers['x-request-id']}"
    if pointers:
        assert [error["pointer"] for error in body["errors"]] == list(pointers)
    return body
