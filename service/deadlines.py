"""Deadlines: a body comes in within its time, or it is not waited for any longer."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TooSlow
from service.problems import problem_of
from service.settings import Settings

__all__ = ["BODY_CAME", "DeadlineMiddleware"]

BODY_CAME = "bernoulli.body_came"
"""In the scope of a request whose last byte was there before anybody asked for it."""


class DeadlineMiddleware:
    """Gives every body `body_s` seconds, and one more for each `min_body_rate` bytes that came.

    What trickles is cut off; a large body on a slow line is not.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._body_s = settings.body_s
        self._rate = settings.min_body_rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or BODY_CAME in scope:
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        begin: float | None = None
        received = 0
        is_open = True
        has_begun = False

        async def in_time() -> Message:
            nonlocal begin, received, is_open
            if not is_open:  # all that can come now is the caller's going
                return await receive()
            begin = loop.time() if begin is None else begin
            deadline = begin + self._body_s + received / self._rate
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise TooSlow(
                    f"the body did not come within {self._body_s:g} s and one more for each "
                    f"{self._rate} bytes of it"
                ) from error
            received += len(message.get("body", b""))
            is_open = bool(message.get("more_body", False))
            return message

        async def noticing(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, in_time, noticing)
        except TooSlow as error:  # ahead of the routes, which answer it themselves
            if has_begun:
                return  # the server closes what has no end
            await problem_of(Request(scope), error)(scope, receive, send)
