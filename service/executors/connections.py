"""Connections: what a client may take its time with, and how many there may be.

Uvicorn's protocol waits for a request's head, and for a client that does not read its answer, as
long as they please; it takes heads of any size, and goes on reading a body that nobody wants. This
one has a time for each, and counts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.deadlines import BODY_CAME
from service.problems import MEDIA_TYPE

__all__ = ["ConnectionLimits", "guarded"]

_PER_BODY_BYTE = 8
"""Framing of a chunk of one byte, and some more."""


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """What one connection may take, and how many there may be."""

    max_connections: int
    head_s: float = 10.0
    """Seconds for the request line and the headers."""
    head_bytes: int = 65_536
    """Of request line and headers; also of what frames a body, beyond its own bytes."""
    unread_s: float = 60.0
    """Seconds in which a client reads nothing of an answer that waits for it."""
    linger_s: float = 2.0
    """Seconds for which the rest of a body that was refused is thrown away: a client that has not
    read the answer yet would lose it if the connection closed at once."""


def guarded(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """Return uvicorn's protocol with these limits."""

    class Guarded(_Guarded):
        pass

    Guarded.limits = limits
    return Guarded


class _Guarded(HttpToolsProtocol):
    limits: ConnectionLimits

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._is_open = False
        """A request is coming in, and its last byte has not."""
        self._is_over = False
        """The connection is closing; what still comes is nobody's."""
        self._framing = 0
        self._body = 0
        self._came = 0
        """Of bodies in the piece that is read; the counts above begin anew with each request."""

    # -- from the transport ------------------------------------------------------------------------

    # Uvicorn's own narrows what asyncio promises: a transport that writes.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            detail = f"{self.limits.max_connections} connections are open, the most that are taken"
            self._refuse(503, "queue-full", "The server has too much waiting", detail, retry_s=1)
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over = True
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if not self._is_open and self._timer is None and self._is_idle():
            self._expect_head()
        self._came = 0
        super().data_received(data)
        self._framing += len(data) - self._came
        if self._framing > self.limits.head_bytes + _PER_BODY_BYTE * self._body:
            self._refuse(
                431,
                "head-too-large",
                "The headers are too large",
                f"request line and headers are more than {self.limits.head_bytes} bytes",
            )

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.unread_s, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # -- from the parser ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_open = True
        self._framing = self._body = 0
        if self._timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        self._came += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_open = False
        cast(dict[str, Any], self.scope)[BODY_CAME] = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "malformed", "The request cannot be read", msg)

    # -- from the app ------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_open and not self.transport.is_closing():
            # Answered before the body was read: there is no telling when it ends.
            self._unset_keepalive_if_required()
            self._stop_timer()
            self._timer = self.loop.call_later(self.limits.linger_s, self._close_unless_done)

    # -- timers ------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        self._timer = self.loop.call_later(self.limits.head_s, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._is_open:
            detail = f"request line and headers did not come within {self.limits.head_s:g} s"
            self._refuse(408, "too-slow", "The request came too slowly", detail)
        else:
            self._is_over = True
            self.transport.close()

    def _close_unless_done(self) -> None:
        self._timer = None
        if self._is_open:
            self._is_over = True
            self.transport.close()
        elif self._is_idle() and not self.transport.is_closing():
            # The body did end: the connection may be used again.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _abort(self) -> None:
        self._unread = None
        self._is_over = True
        self.transport.abort()

    def _refuse(
        self, status: int, slug: str, title: str, detail: str, *, retry_s: int | None = None
    ) -> None:
        """Answer without the app, where no answer has begun, and close."""
        self._is_over = True
        self._stop_timer()
        if self._is_idle() and not self.transport.is_closing():
            self.transport.write(_answer(status, slug, title, detail, retry_s))
        self.transport.close()


def _answer(status: int, slug: str, title: str, detail: str, retry_s: int | None) -> bytes:
    body = orjson.dumps(
        {
            "type": f"urn:bernoulli:problem:{slug}",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": "urn:bernoulli:request:none",
        }
    )
    lines = [
        f"HTTP/1.1 {status} {title}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        *([] if retry_s is None else [f"retry-after: {retry_s}"]),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
