"""What is true of every store at every moment, whatever was done to it."""

from __future__ import annotations

import sqlalchemy as sa

from service.store import tables
from service.store.database import Database
from service.store.jobs import Status


def assert_sound(database: Database) -> None:
    with database.read() as connection:
        if database.is_sqlite:
            assert connection.scalar(sa.text("PRAGMA integrity_check")) == "ok"
            assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []
        models = {
            row.job_id: row.id
            for row in connection.execute(sa.select(tables.models))
            if row.job_id is not None
        }
        needed = set(connection.scalars(sa.select(tables.job_datasets.c.job_id)))
        for job in connection.execute(sa.select(tables.jobs)).all():
            query = sa.select(tables.events).where(tables.events.c.job_id == job.id)
            events = connection.execute(query.order_by(tables.events.c.id)).all()
            types = [event.type for event in events]
            terminal = Status(job.status).terminal

            assert [event.id for event in events] == list(range(1, job.last_event + 1))
            assert types[0] == "queued"
            assert types.count("started") + types.count("retried") == job.attempts
            assert types.count("finished") == terminal
            assert not terminal or types[-1] == "finished"
            assert not terminal or events[-1].data["status"] == job.status
            assert job.model == models.get(job.id)
            assert not (terminal and job.id in needed)
