from __future__ import annotations

import pytest

from service.errors import Conflict, Invalid, NotFound, PreconditionFailed
from service.store.aliases import Aliases
from service.store.blobs import model_key
from service.store.database import Database, new_id
from service.store.idempotency import Answer, Idempotency, IdempotencyKeys, Remember
from service.store.models import Model, Models, NewModelRow
from tests.service.store.conftest import Clock

BAD_NAMES = ["", "a b", "-a", ".a", "mdl_x", "a/b", "é", "a" * 65, "a\n", "\ud800", "a\0"]


def store(models: Models, name: str | None = None) -> Model:
    model_id = new_id("mdl")
    new = NewModelRow(
        id=model_id, document={"form": "regressor"}, weights=model_key(model_id), name=name
    )
    return models.create(new)


def test_a_model_is_read_as_it_was_created(models: Models, clock: Clock) -> None:
    model = store(models, "boston")

    assert models.get(model.id) == models.resolve(model.id) == model
    assert (model.job, model.name, model.created_at) == (None, "boston", clock.now)
    assert model.document == {"form": "regressor"}


def test_an_import_and_its_idempotency_key_are_stored_together(
    models: Models, database: Database, clock: Clock
) -> None:
    key = Idempotency("k1", None, "a" * 64)
    model_id = new_id("mdl")
    new = NewModelRow(id=model_id, document={}, weights=model_key(model_id))
    models.create(new, remember=Remember(key, lambda m: Answer(201, {}, m.id.encode())))

    assert IdempotencyKeys(database, clock).lookup(key) == Answer(201, {}, model_id.encode())


@pytest.mark.parametrize("text", ["", "mdl_x", "mdl_" + "1" * 26, "nobody", "a b", "\ud800\0"])
def test_what_names_no_model_is_not_found_and_said(models: Models, text: str) -> None:
    with pytest.raises(NotFound) as caught:
        models.resolve(text, pointer="#/model")

    assert repr(text) in caught.value.detail
    assert caught.value.pointer == "#/model"


def test_get_takes_ids_only(models: Models, aliases: Aliases) -> None:
    aliases.set("best", store(models).id)

    with pytest.raises(NotFound):
        models.get("best")
    with pytest.raises(NotFound):
        models.delete("best")


def test_lists_are_newest_first_and_paged(models: Models) -> None:
    ids = [store(models).id for _ in range(3)][::-1]
    first = models.list(limit=2)
    rest = models.list(limit=2, after=first.data[-1].id)

    assert [m.id for m in (*first.data, *rest.data)] == ids
    assert (first.has_more, rest.has_more) == (True, False)


def test_an_alias_resolves_to_its_model_and_moves(models: Models, aliases: Aliases) -> None:
    first, second = store(models), store(models)
    alias, created = aliases.set("best", first.id)
    assert created
    assert models.resolve("best") == first
    moved, created = aliases.set("best", second.id)

    assert not created
    assert models.resolve("best") == second
    assert moved.version > alias.version
    assert moved.etag != alias.etag
    assert aliases.get("best") == moved
    assert [move.model for move in aliases.history("best")] == [second.id, first.id]


def test_an_alias_may_be_set_by_another_alias(models: Models, aliases: Aliases) -> None:
    model, other = store(models), store(models)
    aliases.set("best", model.id)
    aliases.set("production", "best")
    aliases.set("best", other.id)

    assert models.resolve("production") == model


def test_pointing_where_it_points_already_is_no_move(models: Models, aliases: Aliases) -> None:
    model = store(models)
    alias, _ = aliases.set("best", model.id)

    assert aliases.set("best", model.id) == (alias, False)
    assert len(aliases.history("best")) == 1


def test_an_alias_of_nothing_is_refused(models: Models, aliases: Aliases) -> None:
    with pytest.raises(NotFound) as caught:
        aliases.set("best", new_id("mdl"))

    assert caught.value.pointer == "#/model"
    assert aliases.list().data == []
    assert models.list().data == []


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_alias_name_is_refused(models: Models, aliases: Aliases, name: str) -> None:
    model = store(models)
    with pytest.raises(Invalid):
        aliases.set(name, model.id)
    with pytest.raises(NotFound):
        aliases.get(name)
    with pytest.raises(NotFound):
        aliases.delete(name)


@pytest.mark.parametrize("name", ["a", "0", "A.b-c_d", "a" * 64, "MDL_x", "mdl"])
def test_a_good_alias_name_is_taken(models: Models, aliases: Aliases, name: str) -> None:
    model = store(models)
    aliases.set(name, model.id)

    assert models.resolve(name) == model


def test_if_match_is_honoured(models: Models, aliases: Aliases) -> None:
    first, second = store(models), store(models)
    with pytest.raises(PreconditionFailed):
        aliases.set("best", first.id, if_match="*")
    alias, _ = aliases.set("best", first.id)
    for wrong in ('"0"', f"W/{alias.etag}", "", '"x", "y"'):
        with pytest.raises(PreconditionFailed):
            aliases.set("best", second.id, if_match=wrong)
        with pytest.raises(PreconditionFailed):
            aliases.delete("best", if_match=wrong)
    assert models.resolve("best") == first

    aliases.set("best", second.id, if_match=f'"0", {alias.etag}')
    with pytest.raises(PreconditionFailed):
        aliases.set("best", first.id, if_match=alias.etag)
    aliases.delete("best", if_match="*")


def test_an_entity_tag_never_comes_back(models: Models, aliases: Aliases) -> None:
    model = store(models)
    old, _ = aliases.set("best", model.id)
    aliases.delete("best")
    new, created = aliases.set("best", model.id)

    assert created
    assert new.etag != old.etag
    assert [move.model for move in aliases.history("best")] == [model.id, None, model.id]


def test_a_model_stays_while_an_alias_points_at_it(models: Models, aliases: Aliases) -> None:
    model = store(models)
    aliases.set("best", model.id)
    with pytest.raises(Conflict, match="best"):
        models.delete(model.id)
    aliases.delete("best")

    assert models.delete(model.id) == model
    with pytest.raises(NotFound):
        models.get(model.id)
    with pytest.raises(NotFound):
        models.delete(model.id)
    assert [move.model for move in aliases.history("best")] == [None, model.id]


def test_aliases_are_listed_newest_first_and_paged(models: Models, aliases: Aliases) -> None:
    model = store(models)
    for name in ("a", "c", "b"):
        aliases.set(name, model.id)
    first = aliases.list(limit=2)

    assert ([a.name for a in first.data], first.has_more) == (["b", "c"], True)
    assert [a.name for a in aliases.list(after="c").data] == ["a"]
    with pytest.raises(NotFound):
        aliases.list(after="nobody")
    with pytest.raises(NotFound):
        aliases.history("nobody")
