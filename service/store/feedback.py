"""Feedback: for each model a record of how good its predictions were, a document that others know.

It is changed within a transaction that holds the model, so that nothing is counted twice or lost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from service.errors import NotFound
from service.store import tables
from service.store.database import Clock, Database, is_id
from service.store.idempotency import Remember
from service.store.visibility import refuse_foreign, seen

__all__ = ["Feedback", "FeedbackRecord"]

T = TypeVar("T")
Document = dict[str, Any]
FEEDBACK = tables.feedback
MODELS = tables.models


@dataclass(frozen=True, kw_only=True)
class FeedbackRecord:
    """What is known of one model."""

    model: str
    document: Document
    updated_at: datetime


class Feedback:
    """The records of all models."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._viewer: str | None = None

    def seen_by(self, viewer: str | None) -> Feedback:
        """What the key `viewer` sees of the records: those of the models that it sees."""
        if viewer is None:
            return self
        view = copy.copy(self)
        view._viewer = viewer
        return view

    def get(self, model_id: str) -> Document | None:
        """Return the record of a model; None of one that nothing is known of."""
        query = sa.select(FEEDBACK.c.document).where(FEEDBACK.c.model_id == model_id)
        with self._database.read() as connection:
            document: Document | None = connection.scalar(query)
        return document

    def change(
        self,
        model_id: str,
        change: Callable[[Document | None, datetime], tuple[Document, T]],
        *,
        remember: Remember[T] | None = None,
    ) -> T:
        """Store another record of a model, and return what comes with it; NotFound if it is gone.

        `change` is given the record so far and the time. It is called within the transaction: it
        must not use the store.
        """
        now = self._clock()
        with self._database.write() as connection:
            _hold(connection, model_id, self._viewer)
            own = FEEDBACK.c.model_id == model_id
            old = connection.scalar(sa.select(FEEDBACK.c.document).where(own))
            document, made = change(old, now)
            values = {"document": document, "updated_at": now}
            if old is None:
                insertion = sa.insert(FEEDBACK).values({"model_id": model_id, **values})
                connection.execute(insertion)
            else:
                connection.execute(sa.update(FEEDBACK).where(own).values(values))
            if remember is not None:
                remember.store(connection, made, now)
        return made

    def reset(self, model_id: str) -> None:
        """Forget all that is known of a model; NotFound, or Forbidden of another key's."""
        with self._database.write() as connection:
            owner = _hold(connection, model_id, self._viewer)
            refuse_foreign(owner, self._viewer, f"model {model_id}")
            connection.execute(sa.delete(FEEDBACK).where(FEEDBACK.c.model_id == model_id))

    def latest(self, count: int) -> Sequence[FeedbackRecord]:
        """Return the records that were changed last, so many at most."""
        query = sa.select(FEEDBACK).join(MODELS, MODELS.c.id == FEEDBACK.c.model_id)
        query = query.where(seen(MODELS, self._viewer))
        query = query.order_by(FEEDBACK.c.updated_at.desc(), FEEDBACK.c.model_id)
        with self._database.read() as connection:
            rows = connection.execute(query.limit(count)).all()
        return [
            FeedbackRecord(model=row.model_id, document=row.document, updated_at=row.updated_at)
            for row in rows
        ]


def _hold(connection: sa.Connection, model_id: str, viewer: str | None) -> str | None:
    """Hold a model for this transaction, against its deletion and other feedback.

    Returns whose it is; NotFound where `viewer` sees no such model.
    """
    found = None
    if is_id(model_id, "mdl"):
        query = sa.select(MODELS.c.owner).where(MODELS.c.id == model_id, seen(MODELS, viewer))
        found = connection.execute(query.with_for_update()).one_or_none()
    if found is None:
        raise NotFound(f"no model has the id {model_id[:80]!r}")
    owner: str | None = found.owner
    return owner
