"""What all clients saw together."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CORRUPT", "FIGURES", "LOST", "TWICE", "UNLIKE", "WRONG", "Asked", "Seen"]

LOST = "acknowledged jobs lost"
TWICE = "jobs run to two models"
CORRUPT = "corrupt artifacts"
WRONG = "wrong answers"
UNLIKE = "jobs unlike their undisturbed twins"
FIGURES = (LOST, TWICE, CORRUPT, WRONG, UNLIKE)
"""What must be zero by name; whatever else goes wrong is counted under names of its own."""


@dataclass(frozen=True)
class Asked:
    """A request that was acknowledged, to be asked once more at the end."""

    path: str
    key: str
    request: dict[str, Any]
    answer: bytes


@dataclass
class Seen:
    """Counts of what was acknowledged, and of all that must not be."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    """What was done and compared, by name."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Acknowledged jobs, with the work of each."""
    cancelled: dict[str, bool] = field(default_factory=dict)
    """Jobs that somebody has asked to cancel, and whether they are bound to end so."""
    uploads: dict[str, int] = field(default_factory=dict)
    """Acknowledged data sets, with the table of each."""
    removed: set[str] = field(default_factory=set)
    """Paths of what was deleted, which was acknowledged."""
    removing: set[str] = field(default_factory=set)
    """Jobs that are being compared, then deleted."""
    asked: list[Asked] = field(default_factory=list)
    fronts: dict[str, set[str]] = field(default_factory=dict)
    """Aliases with the models that each may point at: one, unless an answer was lost."""
    details: list[str] = field(default_factory=list)
    """Of faults."""
    interrupted: int = 0
    """Jobs that took more than one attempt, and were compared."""
    attempts: int = 0
    """Attempts of those beyond their first."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, name: str, detail: str = "") -> None:
        """Count what must not be."""
        with self.lock:
            self.faults[name] += 1
            if detail:
                self.details.append(f"{name}: {detail}")

    def did(self, name: str, count: int = 1) -> None:
        """Count what was done."""
        with self.lock:
            self.counts[name] += count
