"""The server's intention to stop, for what would otherwise go on: streams and long waits."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

__all__ = ["Shutdown"]


class Shutdown:
    """Set once, when the server has been told to stop; never unset."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._sleepers: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def begin(self) -> None:
        """Tell everybody; safe in a signal handler."""
        self._event.set()
        for sleeper, loop in list(self._sleepers.items()):
            with suppress(RuntimeError):  # its loop has been closed
                loop.call_soon_threadsafe(_wake, sleeper)

    @property
    def has_begun(self) -> bool:
        return self._event.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Wait for so long or until the stop begins; return whether it has begun."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        self._sleepers[woken] = loop
        timer = loop.call_later(seconds, _wake, woken)
        try:
            if not self.has_begun:  # else nobody may wake it any more
                await woken
        finally:
            timer.cancel()
            del self._sleepers[woken]
        return self.has_begun


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
