"""What every job is asked with, whatever it does: name and tags, limits, checkpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, Strict

from engine.spec import Spec, at_most

__all__ = ["CheckpointEvery", "Limits", "Name", "Tags", "TrainLimits", "often_enough"]


class CheckpointEvery(Spec):
    """How often a job's state is kept, so that a kill costs no more than what came since."""

    seconds: Annotated[float, Strict(), Field(gt=0, le=86400)] | None = None
    epochs: Annotated[int, Strict(), Field(ge=1)] | None = None

    @property
    def says_nothing(self) -> bool:
        return self.seconds is None and self.epochs is None


def often_enough(every: CheckpointEvery | None) -> CheckpointEvery:
    """Spell the default out, so that a job shows what holds for it."""
    return CheckpointEvery(seconds=30.0) if every is None or every.says_nothing else every


class Limits(Spec):
    """What a job may use."""

    seconds: Annotated[float, Strict(), Field(gt=0)] | None = None
    """Longest time that the job may run, all its attempts together, without the time that it waits;
    it then ends as failed, of kind `timeout`."""
    memory_bytes: Annotated[int, Strict(), Field(ge=1)] | None = None
    """Most bytes of memory that the job may allocate, beyond what its worker has before it; the
    system refuses it more, and it ends as failed, of kind `memory`. At most, and by default, what
    the server allows: `max_job_bytes` of `GET /capabilities`. A GPU's memory does not count."""


class TrainLimits(Limits):
    """What a training job may use."""

    resident_bytes: Annotated[int, Strict(), Field(ge=1)] | None = None
    """Most bytes of encoded rows (4 for each input and target) that are held in memory; more are
    read from the stored data set by blocks, and shuffled in pools of several blocks. At most, and
    by default, what the server allows a worker: `max_resident_bytes` of `GET /capabilities`."""


def _plain_text(text: str) -> str:
    """Refuse what not every database can store."""
    if any(ord(character) < 32 for character in text):
        raise ValueError(f"must be text without control characters, got {text!r:.80}")
    return text


def _plain(tags: dict[str, str]) -> dict[str, str]:
    for text in (*tags, *tags.values()):
        _plain_text(text)
    return tags


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain_text)]
Tags = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=64)],
        Annotated[str, Field(max_length=512)],
    ],
    Field(max_length=16),
    at_most(16),
    AfterValidator(_plain),
]
