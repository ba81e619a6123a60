"""The audit trail: who created, moved, shared, cancelled and deleted what, and when.

An entry is written in the transaction of what it tells of: there is none without the other. Nothing
changes one; the retention drops them by age.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from service.store import tables
from service.store.database import Database, Page, new_id, newest_first

__all__ = ["COMMAND_LINE", "RETENTION", "Action", "AuditEntry", "AuditTrail", "record"]

AUDIT = tables.audit
Action = Literal["created", "moved", "shared", "unshared", "cancelled", "deleted", "revoked"]
COMMAND_LINE = "command line"
RETENTION = "retention"


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One change that somebody made."""

    id: str
    at: datetime
    key: str | None
    """Id of the key that it was made with, or COMMAND_LINE, or RETENTION; None without keys."""
    action: Action
    object: str
    """Id of what was changed; the name of an alias."""
    details: dict[str, Any]


def record(
    connection: sa.Connection,
    now: datetime,
    key: str | None,
    action: Action,
    changed: str,
    **details: Any,
) -> None:
    """Add to the trail, in the transaction of the change; details that are None are left out."""
    told = {name: value for name, value in details.items() if value is not None}
    row = {"id": new_id("aud"), "at": now, "key": key, "action": action, "object": changed}
    connection.execute(sa.insert(AUDIT).values({**row, "details": told}))


class AuditTrail:
    """What was changed; safe between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        key: str | None = None,
        action: Action | None = None,
        changed: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page[AuditEntry]:
        """Newest first: those of one key, action and object, not before `since`, before `until`."""
        wanted = {AUDIT.c.key: key, AUDIT.c.action: action, AUDIT.c.object: changed}
        query = sa.select(AUDIT)
        for column, value in wanted.items():
            if value is not None:
                query = query.where(column == value)
        if since is not None:
            query = query.where(AUDIT.c.at >= since)
        if until is not None:
            query = query.where(AUDIT.c.at < until)
        with self._database.read() as connection:
            page = newest_first(
                connection, query, AUDIT.c.id, limit=limit, after=after, prefix="aud"
            )
        return Page([AuditEntry(**row._mapping) for row in page.data], page.has_more)
