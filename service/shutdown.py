"""The server's intention to stop, for what would otherwise go on: streams and long waits."""

from __future__ import annotations

import asyncio
import threading

__all__ = ["Shutdown"]


class Shutdown:
    """Set once, when the server has been told to stop; never unset."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def begin(self) -> None:
        """Tell everybody; safe in a signal handler."""
        self._event.set()

    @property
    def has_begun(self) -> bool:
        return self._event.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Wait for so long or until the stop begins; return whether it has begun."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not self.has_begun and (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, 0.05))
        return self.has_begun
