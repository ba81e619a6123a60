"""What a server does for itself now and then, in a thread of its supervisor."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import structlog

from service.errors import ServiceError
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.retention import Retention
from service.store.sweep import sweep

__all__ = ["Housekeeping"]

logger = structlog.get_logger(__name__)

FORGOTTEN_S = 6 * 3600.0
"""How old what no row refers to must be: older than any work in hand."""


class Housekeeping:
    """Drops what is past its limits and what nobody refers to, every now and then."""

    def __init__(
        self, database: Database, blobs: Blobs, retention: Retention, *, every_s: float
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._retention = retention
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        self.once()
        while not self._stop.wait(self._every_s):
            self.once()

    def once(self) -> None:
        """Do all of it; a trouble with the disk or the database puts it off to the next time."""
        try:
            dropped = dict(self._retention.apply())
            dropped["forgotten"] = sweep(self._database, self._blobs, older_than_s=FORGOTTEN_S)
        except (OSError, ServiceError) as error:
            logger.warning("housekeeping is put off", detail=str(error))
            return
        if any(dropped.values()):
            logger.info("dropped what is not needed any more", **dropped)
