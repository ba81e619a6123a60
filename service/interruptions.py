"""What ends an attempt at a job before its task does."""

from __future__ import annotations

__all__ = ["Cancelled", "Stopped", "TimedOut"]


class Stopped(Exception):
    """The worker has been told to stop, and the job is checkpointed and given back."""


class Cancelled(Exception):
    """Somebody has asked to cancel the job, and perhaps to `keep` what it has so far."""

    def __init__(self, *, keep: bool) -> None:
        self.keep = keep


class TimedOut(Exception):
    """The job has run as long as it may, over all its attempts."""
