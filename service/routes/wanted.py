"""Work for callers who may go before it is done, and then want it no more."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

__all__ = ["CLIENT_CLOSED", "Gone", "while_wanted"]

T = TypeVar("T")

CLIENT_CLOSED = 499
"""The status of an answer that nobody reads."""


class Gone(Exception):
    """The caller has disconnected."""


async def while_wanted(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work comes to; its caller's going cancels it, and raises Gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # after the body, all that can come
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
