"""What tasks and workers say to each other. Nothing here knows PyTorch.

A task is an iterator of steps; between two steps its job can be checkpointed, cancelled, timed out
or given back, so a task yields at least once a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from engine.data.dataset import Data
from engine.data.schema import Schema
from engine.data.scratch import Scratch
from service.store.datasets import NewDataset
from service.store.jobs import Job

__all__ = [
    "LOOK_S",
    "NewContent",
    "NewModel",
    "Snapshot",
    "Step",
    "Task",
    "TaskContext",
    "TaskResult",
    "attend",
]

T = TypeVar("T")

LOOK_S = 0.25
"""How long what waits in a worker goes without a sign of life."""


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A trained model: its JSON document and its safetensors file."""

    name: str | None
    document: dict[str, Any]
    weights: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class NewContent:
    """A data set that a job made, and the file with its content, from `TaskContext.temporary`."""

    dataset: NewDataset
    file: Path


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a job leaves."""

    metrics: dict[str, Any] = field(default_factory=dict)
    model: NewModel | None = None
    dataset: NewContent | None = None


Snapshot = Callable[[], Callable[[], bytes]]
"""Copies what is needed to go on, which is quick, and returns what makes bytes of the copy: that
takes longer, and may be called by another thread while the task goes on."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a task says between two pieces of work."""

    events: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    progress: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    epoch: int = 0
    """Whole epochs behind it; of a prediction, rows."""
    is_milestone: bool = False
    """A good moment for a checkpoint, due or not."""
    snapshot: Snapshot | None = None
    """Everything that is needed to go on from here."""
    is_resumable: bool = False
    """Whether another job may go on from here once this one has ended."""
    is_last_good: bool = False
    """What followed was wrong: the job fails, and others may go on from here."""
    result: Callable[[], TaskResult] | None = None
    """What the job leaves if it ends here; the last step's is what it does leave."""


class TaskContext(Protocol):
    """What a task may ask of its worker."""

    @property
    def checkpoint(self) -> bytes | None:
        """What an earlier attempt's last checkpoint holds."""

    @property
    def threads(self) -> int:
        """How many threads it may use at once."""

    @property
    def scratch(self) -> Scratch:
        """Where it may keep what it can make anew."""

    def wants_step(self, *, at_epoch: bool) -> bool:
        """Return whether a task that goes on in small pieces is to yield a step after this one.

        `at_epoch`: the piece ended an epoch. What is said of the others goes with the next step:
        to say and hear it takes 0.15 ms, as long as a piece may.
        """

    def data(self, dataset_id: str) -> Data:
        """Return a stored data set."""

    def schema(self, dataset_id: str) -> Schema:
        """Return what a stored data set looks like from outside."""

    def model(self, model_id: str) -> tuple[dict[str, Any], bytes]:
        """Return a stored model's document and weights."""

    def put_part(self, writer: Callable[[BinaryIO], None]) -> str:
        """Keep what `writer` writes until the job has ended; return its key, for snapshots."""

    def part(self, key: str) -> Path | None:
        """Return what was kept under this key, by whichever attempt; None if it is gone."""

    def temporary(self) -> Path:
        """Return the path of a file to write, which is gone once the attempt has ended."""


Task = Callable[[Job, TaskContext], Iterator[Step]]


def attend(
    thread: ThreadPoolExecutor,
    work: Callable[[Callable[[], bool]], T],
    step: Callable[[], Step],
) -> Generator[Step, None, T]:
    """Return what `work` returns, yielding a step now and then while it is at it.

    Closing the generator tells `work` to stop; the thread's end waits until it has.
    """
    stop = threading.Event()
    future = thread.submit(work, stop.is_set)
    try:
        while not wait([future], timeout=LOOK_S).done:
            yield step()
        return future.result()
    finally:
        stop.set()
