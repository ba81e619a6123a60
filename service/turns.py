"""Turns: predictions computed in threads, a bounded number at once and a bounded queue behind.

What waits for one model and may run together does: whoever's turn it is takes along all that agree
with it. Nobody waits in order to be joined.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from engine.batching import run_together
from engine.data.inputs import Inputs
from engine.prediction import PredictionPlan
from engine.summary import Tree
from service.errors import QueueFull, TooLarge

__all__ = ["Joinable", "Turn", "Turns"]

T = TypeVar("T")

FLOPS_PER_SECOND = 5e9
"""Of one thread, on the cautious side; tells how long a queue will take."""
_WIDE_FLOPS = 1e8
"""Work of so many operations is worth all threads, while nobody else wants one."""
_JOINED_FLOPS = 5e9
"""Operations that are taken along at most, about a second of them."""
_MOST_RETRY_S = 60


@dataclass(frozen=True, kw_only=True)
class Joinable:
    """What it takes to run together with others of the same key."""

    key: Hashable
    plan: PredictionPlan
    x: Inputs
    row_ids: npt.NDArray[np.int64]
    finish: Callable[[Tree, float], bytes]
    """Writes the answer of what was computed in so many seconds."""


@dataclass(eq=False, kw_only=True)
class Turn(Generic[T]):
    """One answer to compute."""

    flops: float
    held: int
    """Bytes that it holds while it waits."""
    alone: Callable[[int], T]
    """Computes the answer, with so many threads."""
    joinable: Joinable | None = None
    owner: str | None = None
    """The key that asks."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when nobody wants the answer any more."""
    asked_at: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0
    """How long it waited for its turn, once that has come."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[T] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Turns:
    """A queue and the threads that serve it; for one event loop, whose thread alone calls it.

    Keys take turns; of each key the first that waits goes first. Where the queue is full, the last
    of the key that has most of it gives way to one of a key that has less.
    """

    def __init__(
        self,
        *,
        max_running: int,
        max_waiting: int,
        max_waiting_bytes: int,
        max_wait_s: float,
        max_run_s: float,
    ) -> None:
        """`max_running` threads; beyond `max_waiting` turns or their bytes more are refused.

        No turn waits for longer than `max_wait_s`, nor is computed for longer than `max_run_s`.
        """
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._max_wait_s = max_wait_s
        self._max_run_s = max_run_s
        self._threads = ThreadPoolExecutor(max_running, thread_name_prefix="predict")
        self._waiting: list[Turn[Any]] = []
        self._running: list[Turn[Any]] = []
        self._busy = 0
        self._served: dict[str | None, int] = {}
        """When each key had its last turn, as a number that rises."""
        self._count = 0

    @property
    def waiting(self) -> int:
        """How many wait for a thread."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many are being computed."""
        return len(self._running)

    async def take(self, turn: Turn[T]) -> T:
        """Return the answer when it is computed; to be cancelled where nobody wants it any more.

        Raises QueueFull where too much waits, or this has waited for too long, and TooLarge where
        it takes too long.
        """
        self._admit(turn)
        self._waiting.append(turn)
        self._begin()
        try:
            await self._begun(turn)
            async with asyncio.timeout(self._max_run_s) as time:
                return await turn.answer
        except TimeoutError as error:
            if not time.expired():
                raise
            raise TooLarge(
                f"the answer takes more than {self._max_run_s:g} s, the most that one online may "
                "take; take POST /predictions or POST /evaluations, which do it as a job, or ask "
                "for less"
            ) from error
        finally:
            turn.stop.set()
            if turn in self._waiting:
                self._waiting.remove(turn)

    def close(self) -> None:
        """Stop what runs, and end the threads."""
        for turn in (*self._waiting, *self._running):
            turn.stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def retry_after_s(self) -> int:
        """Return the seconds that what is here will take, about, and not less than one."""
        flops = sum(turn.flops for turn in (*self._waiting, *self._running))
        seconds = math.ceil(flops / (FLOPS_PER_SECOND * self._max_running))
        return max(1, min(_MOST_RETRY_S, seconds))

    def _admit(self, turn: Turn[Any]) -> None:
        if self._busy < self._max_running:
            return
        while self._is_full(turn):
            if self._give_way(turn):
                continue
            raise QueueFull(
                f"{len(self._waiting)} predictions are waiting already; try again shortly",
                retry_after_s=self.retry_after_s(),
            )

    def _is_full(self, turn: Turn[Any]) -> bool:
        held = sum(other.held for other in self._waiting) + turn.held
        return len(self._waiting) >= self._max_waiting or (
            bool(self._waiting) and held > self._max_waiting_bytes
        )

    def _give_way(self, turn: Turn[Any]) -> bool:
        """Send away the last of the key that has most waiting, if that is more than `turn`'s."""
        counts = Counter(other.owner for other in self._waiting)
        if not counts:
            return False
        owner, most = counts.most_common(1)[0]
        if most <= counts[turn.owner] + 1:
            return False
        last = next(other for other in reversed(self._waiting) if other.owner == owner)
        self._waiting.remove(last)
        last.begun.set()
        last.answer.set_exception(
            QueueFull(
                f"the queue is full, and {most} predictions of this key were in it; the last gives "
                "way to those of other keys",
                retry_after_s=self.retry_after_s(),
            )
        )
        return True

    async def _begun(self, turn: Turn[Any]) -> None:
        if turn.begun.is_set():
            return
        try:
            async with asyncio.timeout(self._max_wait_s):
                await turn.begun.wait()
        except TimeoutError as error:
            raise QueueFull(
                f"other predictions took all turns for {self._max_wait_s:g} s; try again later",
                retry_after_s=self.retry_after_s(),
            ) from error

    def _begin(self) -> None:
        """Give what waits to the threads that are free."""
        while self._waiting and self._busy < self._max_running:
            group = self._next()
            self._busy += 1
            self._running += group
            now = time.perf_counter()
            for turn in group:
                turn.waited_s = now - turn.asked_at
                turn.begun.set()
            is_alone = self._busy == 1 and not self._waiting
            is_wide = is_alone and sum(turn.flops for turn in group) >= _WIDE_FLOPS
            threads = self._max_running if is_wide else 1
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._threads, partial(_compute, group, threads))
            future.add_done_callback(partial(self._end, group))

    def _next(self) -> list[Turn[Any]]:
        """Take the first that waits of the key whose turn it is, and those that may run with it."""
        running = Counter(turn.owner for turn in self._running)
        firsts: dict[str | None, Turn[Any]] = {}
        for turn in self._waiting:
            firsts.setdefault(turn.owner, turn)
        owner = min(firsts, key=lambda key: (running[key], self._served.get(key, 0)))
        first = firsts[owner]
        self._waiting.remove(first)
        group = [first]
        if first.joinable is not None:
            flops = first.flops
            for turn in list(self._waiting):
                alike = turn.joinable is not None and turn.joinable.key == first.joinable.key
                if alike and flops + turn.flops <= _JOINED_FLOPS:
                    self._waiting.remove(turn)
                    group.append(turn)
                    flops += turn.flops
        self._count += 1
        self._served |= {turn.owner: self._count for turn in group}
        return group

    def _end(self, group: Sequence[Turn[Any]], done: asyncio.Future[list[Any]]) -> None:
        self._busy -= 1
        for turn in group:
            self._running.remove(turn)
        error = None if done.cancelled() else done.exception()
        for index, turn in enumerate(group):
            if turn.answer.done():  # cancelled: nobody waits for it
                continue
            if done.cancelled():
                turn.answer.cancel()
            elif error is not None:
                turn.answer.set_exception(error)
            else:
                turn.answer.set_result(done.result()[index])
        self._begin()


def _compute(group: Sequence[Turn[Any]], threads: int) -> list[Any]:
    """Compute in a thread what a group of turns asks for."""
    joined = [turn.joinable for turn in group if turn.joinable is not None]
    if len(group) == 1 or len(joined) < len(group):
        return [turn.alone(threads) for turn in group]
    began = time.perf_counter()
    trees = run_together(
        [each.plan for each in joined],
        [each.x for each in joined],
        [each.row_ids for each in joined],
        stop=lambda: all(turn.stop.is_set() for turn in group),
        threads=threads,
    )
    seconds = time.perf_counter() - began
    return [each.finish(tree, seconds) for each, tree in zip(joined, trees, strict=True)]
