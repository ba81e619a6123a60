"""Lanes: pieces of work that go on side by side, each on one thread at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, Protocol, TypeVar

__all__ = ["Lanes"]


class _Moving(Protocol):
    @property
    def ended(self) -> bool: ...

    @property
    def threads(self) -> int:
        """How many it takes."""

    def advance(self) -> None:
        """Go on for well under a second."""


Run = TypeVar("Run", bound=_Moving)


class Lanes(Generic[Run]):
    """Drives as many runs at a time as threads allow, each bit by bit until it has ended."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._moving: dict[Future[None], Run] = {}

    def drive(self, runs: Iterator[Run]) -> Iterator[Run]:
        """Advance all of `runs`, each taken when there is a lane for it.

        Yields a run whenever it has moved on; one that has ended is then at rest, others may be
        moving again. Whatever a run raises is raised here, once the others are at rest.
        """
        with ThreadPoolExecutor(self._threads) as pool:
            while True:
                while sum(run.threads for run in self._moving.values()) < self._threads:
                    run = next(runs, None)
                    if run is None:
                        break
                    self._moving[pool.submit(run.advance)] = run
                if not self._moving:
                    return
                for moved in self._moved():
                    if not moved.ended:
                        self._moving[pool.submit(moved.advance)] = moved
                    yield moved

    def _moved(self) -> list[Run]:
        done, _ = wait(self._moving, return_when=FIRST_COMPLETED)
        moved = []
        for future in done:
            moved.append(self._moving.pop(future))
            future.result()
        return moved

    def rest(self) -> None:
        """Wait until nothing moves; `drive` goes on from there."""
        wait(self._moving)
