"""Records of jobs: what is given to queue one, and what comes of recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.store.lifecycle import Checkpoint

__all__ = ["NewJob", "Recorded", "columns_of", "refuse_own"]

#: Events that only the store itself adds.
OWN_EVENTS = frozenset({"queued", "started", "retried", "checkpoint", "cancelling", "finished"})


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """A job about to be queued; its spec is valid."""

    kind: str
    spec: dict[str, Any]
    datasets: Mapping[str, str] = field(default_factory=dict)
    """Ids of the data sets that the job needs, each with the JSON pointer to where it is asked."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Ids of the models that it needs, in the same way."""
    name: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    owner: str | None = None
    shared: bool = False
    """Whether every key sees the job and what it leaves."""
    id: str | None = None
    """A new one where it is not given."""
    resumed_from: str | None = None
    checkpoint: Checkpoint | None = None
    """Where it begins, if not at the beginning."""


@dataclass(frozen=True)
class Recorded:
    """What a worker learns when it records."""

    cancelling: bool
    """The job is to stop now and to be finished as cancelled."""
    keep: bool
    """Only with `cancelling`: finish it with the best so far as its model."""
    replaced: str | None
    """Key of the checkpoint that the new one replaced; its blob is nobody's now."""


def columns_of(checkpoint: Checkpoint | None, attempt: int) -> dict[str, Any]:
    """Return the columns of a checkpoint of an attempt; none without one."""
    if checkpoint is None:
        return {}
    return {
        "checkpoint_key": checkpoint.key,
        "checkpoint_epoch": checkpoint.epoch,
        "checkpoint_attempt": attempt,
    }


def refuse_own(events: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    for kind, _ in events:
        if kind in OWN_EVENTS:
            raise ValueError(f"{kind!r} events are the store's own")
