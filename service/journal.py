"""What an attempt at a job says: gathered step by step, and stored in groups beside the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any

from service.steps import Step
from service.store.jobs import Checkpoint, Job, Jobs, Recorded

__all__ = ["Journal", "Said"]

FLUSH_S = 0.25


@dataclass
class Said:
    """What has been said since something was stored last."""

    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    progress: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None

    def add(self, later: Said) -> None:
        """Add what was said after it."""
        self.events.extend(later.events)
        self.progress = self.progress if later.progress is None else later.progress
        self.metrics = self.metrics if later.metrics is None else later.metrics


@dataclass(frozen=True)
class _Group:
    """What another thread is storing."""

    said: Said
    future: Future[Recorded]


class Journal:
    """What one attempt has said but not yet stored, and for how long it has run.

    One group at a time is stored, by another thread: a commit waits for the disk, and training
    need not. The attempt hears what came of it at one of its next steps.
    """

    def __init__(
        self, job: Job, *, jobs: Jobs, clock: Callable[[], float], thread: Executor
    ) -> None:
        """Begin with the attempt; `clock` gives seconds, `thread` stores."""
        self.said = Said()
        self._job = job
        self._jobs = jobs
        self._clock = clock
        self._thread = thread
        self._started = self._stored_at = clock()
        self._group: _Group | None = None

    @property
    def ran_s(self) -> float:
        """How long the job has run: by the attempts before, as recorded, and by this one."""
        return self._job.ran_s + self._clock() - self._started

    def leave_out(self, seconds: float) -> None:
        """Take note that the job has stood still for so long: that does not count as its time."""
        self._started += seconds

    def note(self, message: str) -> None:
        """Add a line to the job's log."""
        self.said.events.append(("log", {"message": message}))

    def take(self, step: Step) -> None:
        """Add what a step says."""
        self.said.add(Said(list(step.events), step.progress, step.metrics))

    @property
    def is_storing(self) -> bool:
        """Whether a group is being stored, or it has not been heard what came of it."""
        return self._group is not None

    @property
    def is_due(self) -> bool:
        """Whether it is time to store: at first at once, since somebody may be watching."""
        now = self._clock()
        late = now - self._stored_at >= min(FLUSH_S, (now - self._started) / 2)
        return late and not self.is_storing

    @property
    def has_answer(self) -> bool:
        """Whether `hear` returns, or raises, at once."""
        return self._group is not None and self._group.future.done()

    def begin(self, checkpoint: Checkpoint | None = None) -> None:
        """Begin to store all that has been said, and to make a checkpoint the job's."""
        assert self._group is None
        said, self.said = self.said, Said()
        self._stored_at = self._clock()
        future = self._thread.submit(
            self._jobs.record,
            self._job,
            events=said.events,
            progress=said.progress,
            metrics=said.metrics,
            checkpoint=checkpoint,
            ran_s=self.ran_s,
        )
        self._group = _Group(said, future)

    def wait_at_most(self, seconds: float) -> None:
        """Return once there is nothing to wait for, or the time is up."""
        if self._group is not None:
            wait([self._group.future], seconds)

    def hear(self) -> Recorded:
        """Wait for what came of storing; raises LeaseLost, or whatever else has prevented it.

        Then all that has been said is still to be stored.
        """
        group = self._group
        assert group is not None
        try:
            return group.future.result()
        except Exception:
            group.said.add(self.said)
            self.said = group.said
            raise
        finally:
            self._group = None

    def forget(self) -> None:
        """Take note that all that has been said is stored."""
        self.said = Said()
