"""Models, immutable once made, and the aliases that point at them."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from service.errors import Conflict, Invalid, NotFound, PreconditionFailed
from service.store import tables
from service.store.database import Clock, Database, Page, is_id, new_id, newest_first, plain_text
from service.store.idempotency import Remember
from service.store.needs import refuse_needed

__all__ = ["Alias", "AliasMove", "Aliases", "Model", "Models", "NewModelRow", "insert_model"]

MODELS = tables.models
ALIASES = tables.aliases
MOVES = tables.alias_moves

_MOST_FOUND = 256
_ALIAS_NAME = re.compile(r"(?!mdl_)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class NewModelRow:
    """A model about to be stored; its weights are a blob already."""

    document: dict[str, Any]
    weights: str
    """Key of the weights' blob."""
    id: str
    """From `new_id("mdl")`: the weights' key carries it, so it is drawn before the row."""
    name: str | None = None
    owner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A stored model: a JSON document that describes it, and a blob with its weights."""

    id: str
    owner: str | None
    job: str | None
    name: str | None
    document: dict[str, Any]
    weights: str
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A name for a model; `version` rises with every move of that name, for ever."""

    name: str
    model: str
    version: int
    created_at: datetime
    moved_at: datetime

    @property
    def etag(self) -> str:
        """What `If-Match` is compared with."""
        return f'"{self.version}"'


@dataclass(frozen=True, kw_only=True)
class AliasMove:
    """One entry of an alias' history; `model` is None where the alias was deleted."""

    version: int
    model: str | None
    at: datetime


class Models:
    """The models of the service."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._finding = threading.Lock()
        self._found_at: int | None = None
        self._found: dict[str, Model] = {}

    def create(self, new: NewModelRow, *, remember: Remember[Model] | None = None) -> Model:
        """Store an imported model; a trained one is stored by `Jobs.finish`."""
        now = self._clock()
        with self._database.write() as connection:
            model = insert_model(connection, new, job_id=None, now=now)
            if remember is not None:
                remember.store(connection, model, now)
        return model

    def get(self, model_id: str) -> Model:
        """The model with this id; for an alias see `resolve`."""
        with self._database.read() as connection:
            return _model(connection, model_id)

    def resolve(self, name_or_id: str, *, pointer: str = "#/model") -> Model:
        """The model with this id, or the one that the alias of this name points at now."""
        with self._database.read() as connection:
            return _resolve(connection, name_or_id, pointer)

    def find(self, name_or_id: str, *, pointer: str = "#/model") -> Model:
        """Return what `resolve` does, in microseconds while nothing in the database changes."""
        version = self._database.version()
        if version is None:
            return self.resolve(name_or_id, pointer=pointer)
        with self._finding:
            if version != self._found_at or len(self._found) > _MOST_FOUND:
                self._found_at, self._found = version, {}
            found = self._found
        model = found.get(name_or_id)
        if model is None:
            # What is read is of that version or a later one, after which it is forgotten.
            model = found[name_or_id] = self.resolve(name_or_id, pointer=pointer)
        return model

    def list(self, *, limit: int = 100, after: str | None = None) -> Page[Model]:
        """Newest first."""
        with self._database.read() as connection:
            page = newest_first(
                connection, sa.select(MODELS), MODELS.c.id, limit=limit, after=after, prefix="mdl"
            )
        return Page([_model_of(row) for row in page.data], page.has_more)

    def delete(self, model_id: str) -> Model:
        """Remove the row and return what it was: its weights' blob is then nobody's.

        Conflict while an alias points at it, or a job that has not ended needs it.
        """
        with self._database.write() as connection:
            model = _model(connection, model_id, lock=True)
            names = connection.scalars(
                sa.select(ALIASES.c.name).where(ALIASES.c.model_id == model_id).order_by("name")
            ).all()
            if names:
                raise Conflict(
                    f"model {model_id} is what the alias {', '.join(names)} points at; "
                    f"move or delete the alias first"
                )
            refuse_needed(connection, tables.job_models.c.model_id, model_id, "model")
            connection.execute(sa.delete(MODELS).where(MODELS.c.id == model_id))
        return model


class Aliases:
    """Names that point at models, and where they pointed before."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def get(self, name: str) -> Alias:
        with self._database.read() as connection:
            alias = _alias(connection, name)
        if alias is None:
            raise NotFound(f"no alias is named {name[:80]!r}")
        return alias

    def list(self, *, limit: int = 100, after: str | None = None) -> Page[Alias]:
        """Newest name first; `after` is the name of an alias that exists."""
        with self._database.read() as connection:
            query = sa.select(ALIASES)
            if after is not None:
                mark = sa.select(ALIASES.c.id).where(ALIASES.c.name == _alias_name(after, "after"))
                mark_id = connection.scalar(mark)
                if mark_id is None:
                    raise NotFound(f"no alias is named {after!r}", pointer="#/after")
                query = query.where(ALIASES.c.id < mark_id)
            page = newest_first(
                connection, query, ALIASES.c.id, limit=limit, after=None, prefix="als"
            )
        return Page([_alias_of(row) for row in page.data], page.has_more)

    def history(self, name: str) -> Sequence[AliasMove]:
        """Every move of this name, the newest first, deletions among them."""
        with self._database.read() as connection:
            query = sa.select(MOVES).where(MOVES.c.name == _alias_name(name, "name"))
            rows = connection.execute(query.order_by(MOVES.c.version.desc())).all()
        if not rows:
            raise NotFound(f"no alias is or was named {name!r}")
        return [AliasMove(version=row.version, model=row.model_id, at=row.at) for row in rows]

    def set(
        self,
        name: str,
        model: str,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> tuple[Alias, bool]:
        """Point `name` at `model` (an id or another alias); True with it if the name is new.

        `if_match` is the header's text: `*`, or the entity tags of which one must be the alias'
        now, else PreconditionFailed; `if_none_match` likewise: `*`, or the entity tags of which
        none may be. To point where it points already is no move.
        """
        _alias_name(name, "name")
        now = self._clock()
        with self._database.write() as connection:
            self._database.lock(connection, f"alias {name}")
            old = _alias(connection, name)
            _check_match(name, old, if_match)
            _check_none_match(name, old, if_none_match)
            model_id = _resolve(connection, model, "#/model", lock=True).id
            if old is not None and old.model == model_id:
                return old, False
            alias = Alias(
                name=name,
                model=model_id,
                version=_record_move(connection, name, model_id, now),
                created_at=now if old is None else old.created_at,
                moved_at=now,
            )
            values = {"model_id": model_id, "version": alias.version, "moved_at": now}
            if old is None:
                row = {"id": new_id("als"), "name": name, "created_at": now, **values}
                connection.execute(sa.insert(ALIASES).values(row))
            else:
                connection.execute(sa.update(ALIASES).where(ALIASES.c.name == name).values(values))
        return alias, old is None

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Remove the name; its history stays, and its version goes on if it comes back."""
        with self._database.write() as connection:
            self._database.lock(connection, f"alias {name}")
            old = _alias(connection, name)
            if old is None:
                raise NotFound(f"no alias is named {name[:80]!r}")
            _check_match(name, old, if_match)
            _record_move(connection, name, None, self._clock())
            connection.execute(sa.delete(ALIASES).where(ALIASES.c.name == name))


def insert_model(
    connection: sa.Connection, new: NewModelRow, *, job_id: str | None, now: datetime
) -> Model:
    """Store a model within the caller's transaction."""
    model = Model(
        id=new.id,
        owner=new.owner,
        job=job_id,
        name=plain_text(new.name, pointer="#/name"),
        document=new.document,
        weights=new.weights,
        created_at=now,
    )
    row = {**vars(model), "job_id": job_id}
    del row["job"]
    connection.execute(sa.insert(MODELS).values(row))
    return model


def _model_of(row: sa.Row[Any]) -> Model:
    fields = dict(row._mapping)
    return Model(job=fields.pop("job_id"), **fields)


def _alias_of(row: sa.Row[Any]) -> Alias:
    return Alias(
        name=row.name,
        model=row.model_id,
        version=row.version,
        created_at=row.created_at,
        moved_at=row.moved_at,
    )


def _model(
    connection: sa.Connection, model_id: str, *, pointer: str = "#", lock: bool = False
) -> Model:
    query = sa.select(MODELS).where(MODELS.c.id == model_id)
    row = None
    if is_id(model_id, "mdl"):
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"no model has the id {model_id[:80]!r}", pointer=pointer)
    return _model_of(row)


def _resolve(
    connection: sa.Connection, name_or_id: str, pointer: str, *, lock: bool = False
) -> Model:
    if name_or_id.startswith("mdl_"):
        return _model(connection, name_or_id, pointer=pointer, lock=lock)
    alias = _alias(connection, name_or_id)
    if alias is None:
        raise NotFound(
            f"no model has the id and no alias the name {name_or_id[:80]!r}; "
            f"model ids begin with mdl_",
            pointer=pointer,
        )
    return _model(connection, alias.model, pointer=pointer, lock=lock)


def _alias(connection: sa.Connection, name: str) -> Alias | None:
    if not _ALIAS_NAME.fullmatch(name):
        return None
    row = connection.execute(sa.select(ALIASES).where(ALIASES.c.name == name)).one_or_none()
    return None if row is None else _alias_of(row)


def _alias_name(name: str, pointer: str) -> str:
    if not _ALIAS_NAME.fullmatch(name):
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
