"""Deadlines: a body that trickles is cut off, one that only takes long is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from starlette.types import Message

from service.deadlines import DeadlineMiddleware
from service.errors import TooLarge
from service.settings import Settings
from service.turns import Turn
from tests.service.conftest import Api, Serve
from tests.service.test_turns import Gate, turns_of

BODY = {"type": "http.request", "body": b'{"model":', "more_body": True}
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nx,y\r\n'


class Call:
    """One request to an app, whose body stops coming."""

    def __init__(self, api: Api, path: str, kind: str, begin: bytes) -> None:
        self.status, self.body = 0, b""
        self.headers: dict[str, str] = {}
        self._messages: Iterator[Message] = iter(
            [{"type": "http.request", "body": begin, "more_body": True}] if begin else []
        )
        self._api = api
        self._scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"host", b"localhost"), (b"content-type", kind.encode())],
            "state": dict(api.state),
        }

    async def _receive(self) -> Message:
        for message in self._messages:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]

    async def run(self) -> None:
        await self._api.app(self._scope, self._receive, self._send)


@pytest.mark.parametrize(
    ("path", "kind", "begin"),
    [
        ("/predict", "application/json", b""),
        ("/predict", "application/json", b'{"model":'),
        ("/predict", "application/vnd.apache.arrow.stream", b"x"),
        ("/train", "application/json", b'{"dataset":'),
        ("/rank", "application/json", b"{"),
        ("/jobs/job_1/cancel", "application/json", b"{"),
        ("/datasets", "text/csv", b"x,y\n"),
        ("/datasets", FORM, PART),
        ("/datasets", FORM, PART[:10]),
        ("/models", FORM, PART.replace(b"file;", b"weights;")),
        ("/models", "application/zip", b"PK"),
    ],
)
def test_a_body_that_stops_coming_is_not_waited_for(
    serve: Serve, path: str, kind: str, begin: bytes
) -> None:
    api = serve(body_s=0.05)
    call = Call(api, path, kind, begin)
    api.call(call.run)
    assert call.status == 408
    assert call.headers["connection"] == "close"
    problem = orjson.loads(call.body)
    assert problem["type"] == "urn:bernoulli:problem:too-slow"
    assert list(api.state["blobs"].root.glob("temporary/*")) == []


def pieces(count: int) -> Iterator[Message]:
    for index in range(count):
        yield {"type": "http.request", "body": b"x" * 1000, "more_body": index < count - 1}


def test_each_byte_gives_time_for_more() -> None:
    """Time is what the loop says it is: 60 s pass with each piece."""

    async def run(rate: int) -> int:
        loop = asyncio.get_running_loop()
        passed = 0.0
        begin, real = loop.time(), loop.time
        loop.time = lambda: begin + passed + (real() - begin)  # type: ignore[method-assign]
        body = pieces(100)
        read = 0

        async def receive() -> Message:
            nonlocal passed
            passed += 60.0
            await asyncio.sleep(0)
            return next(body)

        async def app(_scope: Any, receive: Any, _send: Any) -> None:
            nonlocal read
            while True:
                message = await receive()
                read += len(message["body"])
                if not message["more_body"]:
                    return

        answered: list[Message] = []

        async def send(message: Message) -> None:
            answered.append(message)

        settings = Settings(body_s=90.0, min_body_rate=rate)
        scope = {"type": "http", "headers": []}
        await DeadlineMiddleware(app, settings)(scope, receive, send)
        assert [m["status"] for m in answered if "status" in m] == ([408] if read < 1e5 else [])
        return read

    assert asyncio.run(run(16)) == 100_000  # 1000 bytes give 62.5 s
    assert asyncio.run(run(1000)) < 100_000


def test_what_takes_too_long_to_compute_is_stopped_and_says_what_to_do_instead() -> None:
    async def run() -> None:
        turns, gate = turns_of(max_run_s=0.05), Gate()
        turn = Turn(flops=1e6, held=1, alone=lambda _: gate())
        with pytest.raises(TooLarge, match=r"0\.05 s.*POST /predictions"):
            await turns.take(turn)
        assert turn.stop.is_set()
        gate.opened.set()
        turns.close()

    asyncio.run(run())
