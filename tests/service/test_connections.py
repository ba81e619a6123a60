"""Connections: who is slow, endless or too many is cut off, and nobody else notices.

A real server of a small app on a socket, and clients that write what they like.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from service.deadlines import BODY_CAME
from service.executors.connections import ConnectionLimits, guarded

WAIT_S = 20.0
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class App:
    """Answers at once, whatever comes; `/large` at length, `/slow` when it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.ended = threading.Event()
        self.came: list[bool] = []
        """Of each request whether its body was there when it began."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.came.append(BODY_CAME in scope)
        if scope["path"] == "/slow":
            await asyncio.to_thread(self.let_go.wait, WAIT_S)
        headers = [(b"content-type", b"text/plain")]
        status = 413 if scope["method"] == "POST" else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if scope["path"] == "/large":
            for _ in range(1000):
                await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": True})
            self.ended.set()
        if scope["path"] == "/all":
            while (await receive()).get("more_body"):
                pass
        await send({"type": "http.response.body", "body": b"answer"})


Connect = Callable[[], socket.socket]


@contextlib.contextmanager
def serving(app: App, limits: ConnectionLimits) -> Iterator[Connect]:
    config = uvicorn.Config(app, http=guarded(limits), lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listener, contextlib.ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        def connect() -> socket.socket:
            client = socket.create_connection(listener.getsockname(), timeout=WAIT_S)
            return clients.enter_context(client)

        try:
            yield connect
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
            assert not thread.is_alive()


def limits(**chosen: Any) -> ConnectionLimits:
    few: dict[str, Any] = {"max_connections": 100, "head_s": WAIT_S, "linger_s": WAIT_S}
    return ConnectionLimits(**{**few, **chosen})


def to_the_end(client: socket.socket) -> bytes:
    """Read until the server closes."""
    pieces = []
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def answer_of(client: socket.socket) -> bytes:
    """Read one answer, and no further."""
    content = b""
    while not content.endswith((b"0\r\n\r\n", b"answer")):
        piece = client.recv(65536)
        assert piece, content
        content += piece
    return content


def problem_of(content: bytes) -> dict[str, Any]:
    head, _, body = content.partition(b"\r\n\r\n")
    assert b"content-type: application/problem+json" in head
    assert b"connection: close" in head
    problem: dict[str, Any] = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {problem['status']} ".encode())
    return problem


def flood(client: socket.socket, piece: bytes, most: int = 2**26) -> bytes:
    """Write until the server has had enough; return what it said."""
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < most:
            sent += client.send(piece)
        pytest.fail("the server goes on reading")
    return to_the_end(client)


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\n", GET[:-2], GET[:-1]])
def test_a_head_that_does_not_come_is_not_waited_for(begun: bytes) -> None:
    with serving(App(), limits(head_s=0.05)) as connect:
        client = connect()
        client.sendall(begun)
        assert problem_of(to_the_end(client))["status"] == 408


def test_a_connection_that_says_nothing_is_closed() -> None:
    with serving(App(), limits(head_s=0.05)) as connect:
        assert to_the_end(connect()) == b""


def test_empty_lines_between_requests_keep_no_connection_open() -> None:
    with serving(App(), limits(head_s=0.05)) as connect:
        client = connect()
        client.sendall(GET)
        answer_of(client)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(b"\r\n")
        assert to_the_end(client) == b""


@pytest.mark.parametrize(
    "piece", [b"X-A: " + b"a" * 1000 + b"\r\n", b"a" * 1000], ids=["many", "one"]
)
def test_endless_headers_are_refused(piece: bytes) -> None:
    with serving(App(), limits(head_bytes=4096)) as connect:
        client = connect()
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        said = flood(client, piece)
        assert not said or problem_of(said)["status"] == 431


def test_an_endless_path_is_refused() -> None:
    with serving(App(), limits(head_bytes=4096)) as connect:
        client = connect()
        client.sendall(b"GET /")
        said = flood(client, b"a" * 1000)
        assert not said or problem_of(said)["status"] == 431


@pytest.mark.parametrize(
    "piece",
    [b"1;" + b"x" * 3000 + b"\r\na\r\n", b"0\r\n" + b"T: " + b"t" * 1000 + b"\r\n"],
    ids=["extensions", "trailers"],
)
def test_framing_without_end_around_a_body_is_cut_off(piece: bytes) -> None:
    app = App()
    with serving(app, limits(head_bytes=4096)) as connect:
        client = connect()
        client.sendall(POST.replace(b" / ", b" /all "))
        client.sendall(piece)
        flood(client, piece if piece.startswith(b"1;") else b"T: " + b"t" * 1000 + b"\r\n")


def test_small_chunks_are_no_attack() -> None:
    with serving(App(), limits(head_bytes=512)) as connect:
        client = connect()
        client.sendall(POST.replace(b" / ", b" /all ") + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n")
        assert answer_of(client).startswith(b"HTTP/1.1 413")


def test_a_body_that_nobody_wants_is_not_read_for_ever() -> None:
    with serving(App(), limits(linger_s=0.05)) as connect:
        client = connect()
        client.sendall(POST)
        answer = answer_of(client)  # which is not lost
        assert answer.startswith(b"HTTP/1.1 413")
        flood(client, b"400\r\n" + b"a" * 1024 + b"\r\n", most=2**40)


def test_after_a_body_that_ended_the_connection_serves_again() -> None:
    with serving(App(), limits(linger_s=0.2)) as connect:
        client = connect()
        for _ in range(3):
            client.sendall(POST)
            answer_of(client)
            client.sendall(b"1\r\na\r\n0\r\n\r\n")
            client.sendall(GET)
            assert answer_of(client).startswith(b"HTTP/1.1 200")


def test_a_request_after_a_large_body_is_answered() -> None:
    with serving(App(), limits()) as connect:
        client = connect()
        body = b"a" * 2**17
        head = b"GET /all HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % len(body))
        client.sendall(body)
        assert answer_of(client).startswith(b"HTTP/1.1 200")
        client.sendall(GET)
        assert answer_of(client).startswith(b"HTTP/1.1 200")


def test_a_body_that_came_with_its_head_is_marked_and_no_other() -> None:
    app = App()
    whole = b"POST /all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
    with serving(app, limits()) as connect:
        client = connect()
        for content in (GET, whole):
            client.sendall(content)
            answer_of(client)
        client.sendall(whole[:-3])
        while len(app.came) < 3:
            threading.Event().wait(0.001)
        client.sendall(whole[-3:])
        answer_of(client)
    assert app.came == [True, True, False]


def test_requests_in_a_row_are_answered_in_a_row() -> None:
    with serving(App(), limits()) as connect:
        client = connect()
        client.sendall(GET * 5)
        content = b""
        while content.count(b"HTTP/1.1 200") < 5:
            content += client.recv(65536)


def test_an_answer_may_take_longer_than_a_head() -> None:
    app = App()
    with serving(app, limits(head_s=0.05)) as connect:
        client, idle = connect(), connect()
        client.sendall(GET.replace(b" / ", b" /slow "))
        assert to_the_end(idle) == b""  # its time is over, and the other's head's would be
        app.let_go.set()
        assert answer_of(client).startswith(b"HTTP/1.1 200")


def test_who_does_not_read_an_answer_is_cut_off() -> None:
    app = App()
    with serving(app, limits(unread_s=0.05)) as connect:
        connect().sendall(GET.replace(b" / ", b" /large "))
        assert app.ended.wait(WAIT_S)  # what is written to nobody is not waited for


def test_more_connections_than_there_may_be_are_told_to_come_back() -> None:
    with serving(App(), limits(max_connections=3)) as connect:
        clients = [connect() for _ in range(3)]
        for client in clients:
            client.sendall(GET)
            answer_of(client)
        late = connect()
        said = to_the_end(late)
        assert problem_of(said)["status"] == 503
        assert b"retry-after: 1" in said
        clients[0].close()
        while True:  # until the server has heard of it
            client = connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(GET)
            try:
                if client.recv(100).startswith(b"HTTP/1.1 200"):
                    break
            except ConnectionResetError:
                continue


HEAD = b"POST /all HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\naa",
        HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\na",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\na",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\naa\r\n",
        HEAD + b"Transfer-Encoding: gzip, chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"No colon\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused_and_harms_nobody(content: bytes) -> None:
    with serving(App(), limits()) as connect:
        client = connect()
        client.sendall(content)
        said = to_the_end(client)
        assert not said or problem_of(said)["status"] == 400
        other = connect()
        other.sendall(GET)
        assert answer_of(other).startswith(b"HTTP/1.1 200")
