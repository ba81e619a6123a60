"""Whose things are whose: what a key sees of the store, and what of that it may change.

A viewer is the id of a key that sees its own things and those that are shared; None sees all: a
server without keys, an admin, a worker. What a viewer does not see is not there for it.
"""

from __future__ import annotations

import sqlalchemy as sa

from service.errors import Forbidden

__all__ = ["refuse_foreign", "seen", "seen_by_parameter"]


def seen(table: sa.Table, viewer: str | None) -> sa.ColumnElement[bool]:
    """Whether `viewer` sees a row of a table whose rows have owners."""
    if viewer is None:
        return sa.true()
    return sa.or_(table.c.owner == viewer, table.c.shared)


def seen_by_parameter(table: sa.Table) -> sa.ColumnElement[bool]:
    """The same of a statement that is built once, whose parameter `viewer` says who looks."""
    viewer = sa.bindparam("viewer", type_=sa.Text)
    return sa.or_(viewer.is_(None), table.c.owner == viewer, table.c.shared)


def refuse_foreign(owner: str | None, viewer: str | None, what: str) -> None:
    """Raise Forbidden where `viewer` sees `what` and may not change it: another key shares it."""
    if viewer is not None and owner != viewer:
        raise Forbidden(f"{what} belongs to another key, which shares it; only that key changes it")
