"""Reading what happened to a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sqlalchemy as sa

from service.store import tables
from service.store.database import Page
from service.store.lifecycle import Event

__all__ = ["read_epochs", "read_events"]

EVENTS = tables.events
_FIELDS = (EVENTS.c.id, EVENTS.c.type, EVENTS.c.at, EVENTS.c.data)


def read_events(connection: sa.Connection, job_id: str, *, after: int, limit: int) -> Page[Event]:
    """The events with ids above `after`, oldest first."""
    query = sa.select(*_FIELDS).where(EVENTS.c.job_id == job_id, EVENTS.c.id > after)
    rows = connection.execute(query.order_by(EVENTS.c.id).limit(limit + 1)).all()
    return Page([Event(*row) for row in rows[:limit]], len(rows) > limit)


def read_epochs(connection: sa.Connection, job_id: str) -> Sequence[Event]:
    """The `epoch` events that the job's present state rests on, oldest first, each epoch once."""
    query = sa.select(*_FIELDS).where(
        EVENTS.c.job_id == job_id, EVENTS.c.type.in_(["epoch", "retried"])
    )
    return _line(Event(*row) for row in connection.execute(query.order_by(EVENTS.c.id)))


def _line(events: Iterable[Event]) -> Sequence[Event]:
    epochs: dict[int, Event] = {}
    for event in events:
        if event.type == "epoch":
            epochs[event.data["epoch"]] = event
        else:  # a retry: what came after its checkpoint did not happen
            kept = event.data["from_epoch"]
            epochs = {number: seen for number, seen in epochs.items() if number <= kept}
    return [epochs[number] for number in sorted(epochs)]
