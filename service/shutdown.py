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
        self._sleepers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def begin(self) -> None:
        """Tell everybody; safe in a signal handler."""
        self._event.set()
        for sleeper, loop in list(self._sleepers.items()):
            with suppress(RuntimeError):  # its loop has been closed
                loop.call_soon_threadsafe(sleeper.set)

    @property
    def has_begun(self) -> bool:
        return self._event.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Wait for so long or until the stop begins; return whether it has begun."""
        woken = asyncio.Event()
        self._sleepers[woken] = asyncio.get_running_loop()
        try:
            if not self.has_begun:  # else nobody may wake it any more
                async with asyncio.timeout(seconds):
                    await woken.wait()
        except TimeoutError:
            pass
        finally:
            del self._sleepers[woken]
        return self.has_begun
