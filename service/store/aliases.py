"""Aliases: names that point at models, one for all keys together, and move atomically."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from service.errors import Conflict, Invalid, NotFound, PreconditionFailed
from service.store import audit, tables
from service.store.database import Clock, Database, Page, new_id, newest_first
from service.store.models import ALIAS_NAME, Alias, alias_of, find_alias, resolve_model
from service.store.visibility import refuse_foreign, seen

__all__ = ["AliasMove", "Aliases"]

ALIASES = tables.aliases
MOVES = tables.alias_moves


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """One entry of an alias' history; `model` is None where the alias was deleted."""

    version: int
    model: str | None
    at: datetime


class Aliases:
    """Names that point at models, and where they pointed before."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._viewer: str | None = None
        self._actor: str | None = None

    def seen_by(self, viewer: str | None, *, actor: str | None = None) -> Aliases:
        """What the key `viewer` sees of the aliases, all for None; `actor` is who changes any."""
        if viewer is None and actor is None:
            return self
        view = copy.copy(self)
        view._viewer = viewer
        view._actor = actor
        return view

    def get(self, name: str) -> Alias:
        with self._database.read() as connection:
            alias = find_alias(connection, name, viewer=self._viewer)
        if alias is None:
            raise NotFound(f"no alias is named {name[:80]!r}")
        return alias

    def list(self, *, limit: int = 100, after: str | None = None) -> Page[Alias]:
        """Newest name first; `after` is the name of an alias that exists."""
        with self._database.read() as connection:
            query = sa.select(ALIASES).where(seen(ALIASES, self._viewer))
            if after is not None:
                name = _alias_name(after, "after")
                mark = sa.select(ALIASES.c.id).where(
                    ALIASES.c.name == name, seen(ALIASES, self._viewer)
                )
                mark_id = connection.scalar(mark)
                if mark_id is None:
                    raise NotFound(f"no alias is named {after!r}", pointer="#/after")
                query = query.where(ALIASES.c.id < mark_id)
            page = newest_first(
                connection, query, ALIASES.c.id, limit=limit, after=None, prefix="als"
            )
        return Page([alias_of(row) for row in page.data], page.has_more)

    def history(self, name: str) -> Sequence[AliasMove]:
        """Every move of this name, the newest first, deletions among them.

        A key sees those since its own alias, or the one that is shared, was made.
        """
        with self._database.read() as connection:
            query = sa.select(MOVES).where(MOVES.c.name == _alias_name(name, "name"))
            if self._viewer is not None:
                made = sa.select(ALIASES.c.created_at).where(
                    ALIASES.c.name == name, seen(ALIASES, self._viewer)
                )
                query = query.where(MOVES.c.at >= made.scalar_subquery())
            rows = connection.execute(query.order_by(MOVES.c.version.desc())).all()
        if not rows:
            raise NotFound(f"no alias is or was named {name!r}")
        return [AliasMove(version=row.version, model=row.model_id, at=row.at) for row in rows]

    def set(
        self,
        name: str,
        model: str,
        *,
        owner: str | None = None,
        shared: bool | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> tuple[Alias, bool]:
        """Point `name` at `model` (an id or another alias); True with it if the name is new.

        A new name is `owner`'s; `shared` says whether every key sees it, as before where it is
        None. `if_match` is the header's text: `*`, or the entity tags of which one must be the
        alias' now, else PreconditionFailed; `if_none_match` likewise: `*`, or the entity tags of
        which none may be. To point where it points already is no move.
        """
        _alias_name(name, "name")
        now = self._clock()
        with self._database.write() as connection:
            self._database.lock(connection, f"alias {name}")
            old = self._own(connection, name)
            _check_match(name, old, if_match)
            _check_none_match(name, old, if_none_match)
            found = resolve_model(connection, model, "#/model", viewer=self._viewer, lock=True)
            is_shared = (old is not None and old.shared) if shared is None else shared
            if is_shared and not found.shared:
                raise Invalid(
                    f"every key would see this alias and not model {found.id}, which is not "
                    "shared; share the model first (PATCH /models/{model_id})",
                    pointer="#/model",
                )
            if old is not None and (old.model, old.shared) == (found.id, is_shared):
                return old, False
            is_move = old is None or old.model != found.id
            version = old.version if old is not None else 0
            alias = Alias(
                name=name,
                owner=owner if old is None else old.owner,
                shared=is_shared,
                model=found.id,
                version=_record_move(connection, name, found.id, now) if is_move else version,
                created_at=now if old is None else old.created_at,
                moved_at=now if is_move or old is None else old.moved_at,
            )
            _store(connection, alias, is_new=old is None)
            self._record(connection, now, old, alias)
        return alias, old is None

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Remove the name; its history stays, and its version goes on if it comes back."""
        with self._database.write() as connection:
            self._database.lock(connection, f"alias {name}")
            old = find_alias(connection, name, viewer=self._viewer)
            if old is None:
                raise NotFound(f"no alias is named {name[:80]!r}")
            refuse_foreign(old.owner, self._viewer, f"alias {name!r}")
            _check_match(name, old, if_match)
            now = self._clock()
            _record_move(connection, name, None, now)
            connection.execute(sa.delete(ALIASES).where(ALIASES.c.name == name))
            audit.record(connection, now, self._actor, "deleted", name, model=old.model)

    def _record(
        self, connection: sa.Connection, now: datetime, old: Alias | None, new: Alias
    ) -> None:
        """Add to the audit trail what became of an alias."""
        if old is None:
            audit.record(connection, now, self._actor, "created", new.name, model=new.model)
        elif old.model != new.model:
            told = {"model": new.model, "before": old.model}
            audit.record(connection, now, self._actor, "moved", new.name, **told)
        if new.shared != (old is not None and old.shared):
            action: audit.Action = "shared" if new.shared else "unshared"
            audit.record(connection, now, self._actor, action, new.name)

    def _own(self, connection: sa.Connection, name: str) -> Alias | None:
        """The alias of this name that the viewer may move; None where the name is free.

        Raises Conflict where it is another key's that the viewer does not see.
        """
        alias = find_alias(connection, name, viewer=None)
        if alias is None or self._viewer is None:
            return alias
        if alias.owner != self._viewer and not alias.shared:
            raise Conflict(f"the name {name!r} is taken by another key; choose another")
        refuse_foreign(alias.owner, self._viewer, f"alias {name!r}")
        return alias


def _store(connection: sa.Connection, alias: Alias, *, is_new: bool) -> None:
    row = {**vars(alias), "model_id": alias.model}
    del row["model"]
    if is_new:
        connection.execute(sa.insert(ALIASES).values(id=new_id("als"), **row))
    else:
        connection.execute(sa.update(ALIASES).where(ALIASES.c.name == alias.name).values(row))


def _alias_name(name: str, pointer: str) -> str:
    if not ALIAS_NAME.fullmatch(name):
        raise Invalid(
            "an alias' name is 1 to 64 letters, digits, '.', '_' and '-', begins with a letter or "
            f"digit and not with mdl_; got {name[:80]!r}",
            pointer=f"#/{pointer}",
        )
    return name


def _check_match(name: str, alias: Alias | None, if_match: str | None) -> None:
    if if_match is None:
        return
    if alias is None:
        raise PreconditionFailed(f"If-Match was given, but no alias is named {name!r}")
    # Weak tags never match: `If-Match` compares strongly (RFC 9110, 13.1.1).
    tags = [tag.strip() for tag in if_match.split(",")]
    if "*" not in tags and alias.etag not in tags:
        raise PreconditionFailed(
            f"alias {name!r} has the entity tag {alias.etag}, If-Match says {if_match[:80]!r}"
        )


def _check_none_match(name: str, alias: Alias | None, if_none_match: str | None) -> None:
    if if_none_match is None or alias is None:
        return
    # Compared weakly (RFC 9110, 13.1.2).
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    if "*" in tags or alias.etag in tags:
        raise PreconditionFailed(
            f"alias {name!r} exists with the entity tag {alias.etag}, and If-None-Match says "
            f"{if_none_match[:80]!r}"
        )


def _record_move(connection: sa.Connection, name: str, model_id: str | None, now: datetime) -> int:
    """Add to the history; return the new version.

    Versions go on after a deletion: an entity tag never comes back with another meaning.
    """
    last = connection.scalar(sa.select(sa.func.max(MOVES.c.version)).where(MOVES.c.name == name))
    version = (last or 0) + 1
    row = {"name": name, "version": version, "model_id": model_id, "at": now}
    connection.execute(sa.insert(MOVES).values(row))
    return version
