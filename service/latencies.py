"""How long predictions wait, compute and are encoded, counted by duration."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["BOUNDS_S", "PHASES", "Latencies", "Spread", "Took"]

BOUNDS_S = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Durations by which predictions are counted, in seconds: up to so long each, then all longer."""
PHASES = ("queue", "compute", "encode")


@dataclass(slots=True)
class Took:
    """What one prediction took, in seconds."""

    queue_s: float = 0.0
    """Waiting for its turn; none where it was answered at once."""
    compute_s: float = 0.0
    """Passes and their statistics, of all that ran together with it."""
    encode_s: float = 0.0
    """Making rows of the request's inputs, and bytes of its answer."""
    passes: int = 0
    """Monte-Carlo passes that were drawn."""


@dataclass(frozen=True)
class Spread:
    """How long one phase of all predictions took."""

    up_to: Sequence[int]
    """How many took as long as each of the bounds, or less; last, all."""
    seconds: float
    """All of them together."""


class Latencies:
    """Counts what predictions took; of any thread, in about a microsecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [[0] * (len(BOUNDS_S) + 1) for _ in PHASES]
        self._seconds = [0.0] * len(PHASES)
        self._passes = 0

    def add(self, queue_s: float, compute_s: float, encode_s: float, passes: int) -> None:
        """Count a prediction; the arguments are those of `Took`."""
        queue, compute, encode = self._counts
        seconds = self._seconds
        with self._lock:
            queue[bisect_left(BOUNDS_S, queue_s)] += 1
            compute[bisect_left(BOUNDS_S, compute_s)] += 1
            encode[bisect_left(BOUNDS_S, encode_s)] += 1
            seconds[0] += queue_s
            seconds[1] += compute_s
            seconds[2] += encode_s
            self._passes += passes

    def spreads(self) -> Mapping[str, Spread]:
        """Return how long each phase took, by its name."""
        with self._lock:
            return {
                name: Spread(list(accumulate(counts)), seconds)
                for name, counts, seconds in zip(PHASES, self._counts, self._seconds, strict=True)
            }

    @property
    def passes(self) -> int:
        """Monte-Carlo passes drawn by all predictions so far."""
        return self._passes
