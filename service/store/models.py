"""Models, immutable once made."""

from __future__ import annotations

import copy
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from service.errors import Conflict, NotFound
from service.store import audit, tables
from service.store.database import Clock, Database, Page, is_id, newest_first, plain_text
from service.store.idempotency import Remember
from service.store.needs import refuse_needed
from service.store.quotas import NO_QUOTAS, Quotas, check_stored
from service.store.visibility import refuse_foreign, seen

__all__ = [
    "ALIAS_NAME",
    "Alias",
    "Model",
    "Models",
    "NewModelRow",
    "alias_of",
    "find_alias",
    "insert_model",
    "resolve_model",
]

MODELS = tables.models
ALIASES = tables.aliases

_MOST_FOUND = 256
ALIAS_NAME = re.compile(r"(?!mdl_)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
    shared: bool = False
    """Whether every key sees it."""

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return int((self.document.get("weights") or {}).get("bytes", 0))


@dataclass(frozen=True, kw_only=True)
class Model:
    """A stored model: a JSON document that describes it, and a blob with its weights."""

    id: str
    owner: str | None
    shared: bool
    job: str | None
    name: str | None
    document: dict[str, Any]
    weights: str
    bytes: int
    """Of the weights."""
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Alias:
    """A name for a model; `version` rises with every move of that name, for ever."""

    name: str
    owner: str | None
    shared: bool
    """Whether every key sees it; the model that it points at is shared then, too."""
    model: str
    version: int
    created_at: datetime
    moved_at: datetime

    @property
    def etag(self) -> str:
        """What `If-Match` is compared with."""
        return f'"{self.version}"'


@dataclass
class _Found:
    """What was found while nothing in the database has changed."""

    at: int | None = None
    models: dict[tuple[str | None, str], Model] = field(default_factory=dict)


class Models:
    """The models of the service."""

    def __init__(self, database: Database, clock: Clock, *, quotas: Quotas = NO_QUOTAS) -> None:
        """`quotas` are those of keys that have none of their own."""
        self._database = database
        self._clock = clock
        self._quotas = quotas
        self._finding = threading.Lock()
        self._found = _Found()
        self._viewer: str | None = None
        self._actor: str | None = None

    def seen_by(self, viewer: str | None, *, actor: str | None = None) -> Models:
        """What the key `viewer` sees of the models, all for None; `actor` is who changes any."""
        if viewer is None and actor is None:
            return self
        view = copy.copy(self)
        view._viewer = viewer
        view._actor = actor
        return view

    def create(self, new: NewModelRow, *, remember: Remember[Model] | None = None) -> Model:
        """Store an imported model; a trained one is stored by `Jobs.finish`.

        QuotaExceeded where its owner has too much stored.
        """
        now = self._clock()
        with self._database.write() as connection:
            check_stored(connection, new.owner, new.bytes, self._quotas)
            model = insert_model(connection, new, job_id=None, now=now)
            if remember is not None:
                remember.store(connection, model, now)
        return model

    def get(self, model_id: str) -> Model:
        """The model with this id; for an alias see `resolve`."""
        with self._database.read() as connection:
            return _model(connection, model_id, viewer=self._viewer)

    def resolve(self, name_or_id: str, *, pointer: str = "#/model") -> Model:
        """The model with this id, or the one that the alias of this name points at now."""
        with self._database.read() as connection:
            return resolve_model(connection, name_or_id, pointer, viewer=self._viewer)

    def find(
        self, name_or_id: str, *, viewer: str | None = None, pointer: str = "#/model"
    ) -> Model:
        """Return what `resolve` does for `viewer`, in microseconds while nothing has changed."""
        version = self._database.version()
        if version is None:
            return self.seen_by(viewer).resolve(name_or_id, pointer=pointer)
        with self._finding:
            if version != self._found.at or len(self._found.models) > _MOST_FOUND:
                self._found = _Found(version)
            found = self._found.models
        model = found.get((viewer, name_or_id))
        if model is None:
            # What is read is of that version or a later one, after which it is forgotten.
            model = self.seen_by(viewer).resolve(name_or_id, pointer=pointer)
            found[viewer, name_or_id] = model
        return model

    def list(self, *, limit: int = 100, after: str | None = None) -> Page[Model]:
        """Newest first."""
        query = sa.select(MODELS).where(seen(MODELS, self._viewer))
        with self._database.read() as connection:
            page = newest_first(
                connection, query, MODELS.c.id, limit=limit, after=after, prefix="mdl"
            )
        return Page([_model_of(row) for row in page.data], page.has_more)

    def delete(self, model_id: str) -> Model:
        """Remove the row and return what it was: its weights' blob is then nobody's.

        Conflict while an alias points at it, or a job that has not ended needs it.
        """
        with self._database.write() as connection:
            model = self._own(connection, model_id)
            self._refuse_named(connection, model_id, sa.true())
            column = tables.job_models.c.model_id
            refuse_needed(connection, column, model_id, "model", viewer=self._viewer)
            connection.execute(sa.delete(MODELS).where(MODELS.c.id == model_id))
            audit.record(connection, self._clock(), self._actor, "deleted", model_id)
        return model

    def share(self, model_id: str, shared: bool) -> Model:
        """Have every key see the model, or its own alone.

        Conflict where it is no longer to be shared and an alias that is points at it.
        """
        with self._database.write() as connection:
            before = self._own(connection, model_id)
            if not shared:
                self._refuse_named(connection, model_id, ALIASES.c.shared)
            if before.shared != shared:
                action: audit.Action = "shared" if shared else "unshared"
                audit.record(connection, self._clock(), self._actor, action, model_id)
            change = sa.update(MODELS).where(MODELS.c.id == model_id).values(shared=shared)
            return _model_of(connection.execute(change.returning(MODELS)).one())

    def _own(self, connection: sa.Connection, model_id: str) -> Model:
        """The model, locked, that the viewer may change; NotFound or Forbidden."""
        model = _model(connection, model_id, viewer=self._viewer, lock=True)
        refuse_foreign(model.owner, self._viewer, f"model {model_id}")
        return model

    def _refuse_named(
        self, connection: sa.Connection, model_id: str, which: sa.ColumnElement[bool]
    ) -> None:
        """Raise Conflict where aliases point at the model; it names those that the viewer sees."""
        query = sa.select(ALIASES.c.name, seen(ALIASES, self._viewer).label("is_seen"))
        query = query.where(ALIASES.c.model_id == model_id, which).order_by(ALIASES.c.name)
        rows = connection.execute(query).all()
        if rows:
            names = [row.name for row in rows if row.is_seen]
            told = f"the alias {', '.join(names)}" if names else "an alias of another key"
            raise Conflict(
                f"model {model_id} is what {told} points at; move or delete the alias first"
            )


def insert_model(
    connection: sa.Connection, new: NewModelRow, *, job_id: str | None, now: datetime
) -> Model:
    """Store a model within the caller's transaction."""
    model = Model(
        id=new.id,
        owner=new.owner,
        shared=new.shared,
        job=job_id,
        name=plain_text(new.name, pointer="#/name"),
        document=new.document,
        weights=new.weights,
        bytes=new.bytes,
        created_at=now,
    )
    row = {**vars(model), "job_id": job_id}
    del row["job"]
    connection.execute(sa.insert(MODELS).values(row))
    audit.record(connection, now, new.owner, "created", new.id, job=job_id)
    return model


def _model_of(row: sa.Row[Any]) -> Model:
    fields = dict(row._mapping)
    return Model(job=fields.pop("job_id"), **fields)


def alias_of(row: sa.Row[Any]) -> Alias:
    """The alias that a row of the table describes."""
    return Alias(
        name=row.name,
        owner=row.owner,
        shared=row.shared,
        model=row.model_id,
        version=row.version,
        created_at=row.created_at,
        moved_at=row.moved_at,
    )


def _model(
    connection: sa.Connection,
    model_id: str,
    *,
    viewer: str | None,
    pointer: str = "#",
    lock: bool = False,
) -> Model:
    query = sa.select(MODELS).where(MODELS.c.id == model_id, seen(MODELS, viewer))
    row = None
    if is_id(model_id, "mdl"):
        row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"no model has the id {model_id[:80]!r}", pointer=pointer)
    return _model_of(row)


def resolve_model(
    connection: sa.Connection,
    name_or_id: str,
    pointer: str,
    *,
    viewer: str | None,
    lock: bool = False,
) -> Model:
    """The model with this id, or the one that the alias of this name points at, if it is seen."""
    if name_or_id.startswith("mdl_"):
        return _model(connection, name_or_id, viewer=viewer, pointer=pointer, lock=lock)
    alias = find_alias(connection, name_or_id, viewer=viewer)
    if alias is None:
        raise NotFound(
            f"no model has the id and no alias the name {name_or_id[:80]!r}; "
            f"model ids begin with mdl_",
            pointer=pointer,
        )
    return _model(connection, alias.model, viewer=viewer, pointer=pointer, lock=lock)


def find_alias(connection: sa.Connection, name: str, *, viewer: str | None) -> Alias | None:
    """The alias of this name, if there is one that `viewer` sees."""
    if not ALIAS_NAME.fullmatch(name):
        return None
    query = sa.select(ALIASES).where(ALIASES.c.name == name, seen(ALIASES, viewer))
    row = connection.execute(query).one_or_none()
    return None if row is None else alias_of(row)
