"""Feedback records: one of each model, changed in one transaction, gone with the model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest

from service.errors import NotFound
from service.store.database import Database, new_id
from service.store.feedback import Feedback
from service.store.idempotency import Answer, Idempotency, IdempotencyKeys, Remember
from service.store.models import Models, NewModelRow
from tests.service.store.conftest import Clock

Document = dict[str, Any]


@pytest.fixture
def feedback(database: Database, clock: Clock) -> Feedback:
    return Feedback(database, clock)


@pytest.fixture
def model(models: Models) -> str:
    row = NewModelRow(id=new_id("mdl"), document={}, weights="models/1")
    return models.create(row).id


def one_more(old: Document | None, _: datetime) -> tuple[Document, int]:
    count = 1 if old is None else old["count"] + 1
    return {"count": count}, count


def test_a_change_sees_what_the_one_before_left(feedback: Feedback, model: str) -> None:
    assert feedback.get(model) is None
    assert [feedback.change(model, one_more) for _ in range(3)] == [1, 2, 3]
    assert feedback.get(model) == {"count": 3}


def test_changes_of_several_threads_are_all_counted(feedback: Feedback, model: str) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: feedback.change(model, one_more), range(20)))
    assert sorted(made) == list(range(1, 21))


def test_a_change_that_fails_leaves_nothing(
    database: Database, clock: Clock, feedback: Feedback, model: str
) -> None:
    def broken(_old: Document | None, _at: datetime) -> tuple[Document, int]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        feedback.change(model, broken)
    assert feedback.get(model) is None
    remember: Remember[int] = Remember(
        Idempotency("k", None, "f"), lambda made: Answer(201, {}, b"%d" % made)
    )
    feedback.change(model, one_more, remember=remember)
    stored = IdempotencyKeys(database, clock).lookup(remember.idempotency)
    assert stored == Answer(201, {}, b"1")


def test_a_record_goes_with_its_model(feedback: Feedback, models: Models, model: str) -> None:
    feedback.change(model, one_more)
    models.delete(model)
    assert feedback.get(model) is None
    for missing in (model, new_id("mdl"), "sum", ""):
        with pytest.raises(NotFound):
            feedback.change(missing, one_more)


def test_a_reset_begins_anew(feedback: Feedback, model: str) -> None:
    feedback.change(model, one_more)
    feedback.reset(model)
    feedback.reset(model)
    assert feedback.get(model) is None
    assert feedback.change(model, one_more) == 1


def test_the_latest_come_first(feedback: Feedback, models: Models, clock: Clock) -> None:
    made = []
    for index in range(4):
        row = NewModelRow(id=new_id("mdl"), document={}, weights=f"models/{index}")
        made.append(models.create(row).id)
        feedback.change(made[-1], one_more)
        clock.advance(1)
    feedback.change(made[1], one_more)
    latest = feedback.latest(3)
    assert [own.model for own in latest] == [made[1], made[3], made[2]]
    assert (latest[0].document, latest[0].updated_at) == ({"count": 2}, clock.now)
