"""Reading what happened to a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
import sqlalchemy as sa

from service.store import tables
from service.store.database import Database, Fetch, Page
from service.store.lifecycle import Event
from service.store.visibility import seen_by_parameter

__all__ = ["EventText", "read_epochs", "read_event_texts"]

EVENTS = tables.events
JOBS = tables.jobs
_LATER = sa.and_(EVENTS.c.job_id == JOBS.c.id, EVENTS.c.id > sa.bindparam("after"))
# A job without later events has a row of nulls here, and one that its viewer does not see has none.
_AFTER = Fetch(
    sa.select(
        EVENTS.c.id,
        EVENTS.c.type,
        sa.type_coerce(EVENTS.c.at, sa.BigInteger),
        sa.type_coerce(EVENTS.c.data, sa.Text),
    )
    .select_from(JOBS.outerjoin(EVENTS, _LATER))
    .where(JOBS.c.id == sa.bindparam("job"), seen_by_parameter(JOBS))
    .order_by(EVENTS.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)


@dataclass(frozen=True)
class EventText:
    """An event whose data are still the JSON text that is stored, for whoever passes them on."""

    id: int
    type: str
    at: datetime
    data: str

    def event(self) -> Event:
        """Return the event with its data read."""
        return Event(self.id, self.type, self.at, orjson.loads(self.data))


def read_event_texts(
    database: Database, job_id: str, *, viewer: str | None, after: int, limit: int
) -> Page[EventText] | None:
    """The events with ids above `after`, oldest first; None if `viewer` sees no such job."""
    rows = database.fetch(_AFTER, job=job_id, viewer=viewer, after=after, most=limit + 1)
    if not rows:
        return None
    some = [
        EventText(number, kind, tables.instant(at), data)
        for number, kind, at, data in rows[:limit]
        if number is not None
    ]
    return Page(some, len(rows) > limit)


def read_epochs(connection: sa.Connection, job_id: str) -> Sequence[Event]:
    """The `epoch` events that the job's present state rests on, oldest first, each epoch once."""
    query = sa.select(EVENTS.c.id, EVENTS.c.type, EVENTS.c.at, EVENTS.c.data).where(
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
