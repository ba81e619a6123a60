"""How the HTTP process learns whether jobs will be served: its supervisor keeps a line about it."""

from __future__ import annotations

import os
from pathlib import Path

from service.settings import Settings

__all__ = ["Health", "publish"]


def _file(settings: Settings) -> Path:
    return settings.data / "workers"


def publish(settings: Settings, ready: int) -> None:
    """Say, as the supervisor, how many workers are alive and warm."""
    file = _file(settings)
    draft = file.with_suffix(".new")
    draft.write_text(f"{os.getpid()} {ready}\n")
    draft.replace(file)


class Health:
    """What the supervisor of this process says of the workers."""

    def __init__(self, settings: Settings) -> None:
        self._file = _file(settings)
        self._needed = settings.workers > 0

    def workers_ready(self) -> bool:
        """Whether a worker is alive and warm, or none is meant to be here."""
        return not self._needed or self.workers() > 0

    def workers(self) -> int:
        """Return how many workers are alive and warm; what another supervisor left counts as none.

        This process dies with its supervisor, so a line with the parent's pid is not stale.
        """
        try:
            pid, ready = map(int, self._file.read_text().split())
        except (OSError, ValueError):
            return 0
        return ready if pid == os.getppid() else 0
