from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command

from service.errors import Invalid, NotFound
from service.store.database import Database
from service.store.keys import ALL_SCOPES, ApiKeys
from service.store.migrations import config
from tests.service.store.conftest import Clock


@pytest.fixture
def keys(database: Database, clock: Clock) -> ApiKeys:
    return ApiKeys(database, clock)


def test_a_key_is_known_by_its_secret_until_it_is_revoked(keys: ApiKeys, clock: Clock) -> None:
    key, secret = keys.create("laptop")
    other, _ = keys.create("other")
    assert secret.startswith("bk_")
    assert keys.verify(secret) == key

    clock.advance(60)
    revoked = keys.revoke(key.id)
    clock.advance(60)
    assert revoked.revoked_at is not None
    assert keys.revoke(key.id) == revoked
    assert keys.verify(secret) is None
    assert keys.list() == [other, revoked]


@pytest.mark.parametrize("secret", ["", "bk_", "bk_x", "\ud800", "\0"])
def test_other_secrets_are_not_known(keys: ApiKeys, secret: str) -> None:
    keys.create("laptop")

    assert keys.verify(secret) is None


@pytest.mark.parametrize("key_id", ["", "x", "key_" + "1" * 26, "\ud800"])
def test_an_unknown_key_cannot_be_revoked(keys: ApiKeys, key_id: str) -> None:
    with pytest.raises(NotFound):
        keys.revoke(key_id)


def test_a_bad_name_is_refused(keys: ApiKeys) -> None:
    with pytest.raises(Invalid):
        keys.create("a\0b")


def test_a_key_has_the_scopes_that_it_was_given(keys: ApiKeys) -> None:
    key, secret = keys.create("one", scopes=["train", "predict"])
    assert key.scopes == ("predict", "train")
    assert keys.verify(secret) == key
    assert keys.create("all")[0].scopes == ALL_SCOPES


@pytest.mark.parametrize("scopes", [[], ["read"], ["predict", "Train"]])
def test_other_scopes_are_refused(keys: ApiKeys, scopes: list[str]) -> None:
    with pytest.raises(Invalid, match="predict, train, admin"):
        keys.create("laptop", scopes=scopes)


def test_a_key_is_void_once_it_has_expired(keys: ApiKeys, clock: Clock) -> None:
    key, secret = keys.create("laptop", expires_at=clock.now + timedelta(seconds=60))
    clock.advance(59)
    assert keys.verify(secret) == key
    clock.advance(1)
    assert keys.verify(secret) is None
    with pytest.raises(Invalid, match="later"):
        keys.create("late", expires_at=clock.now)


def test_what_another_process_does_to_a_key_is_seen_at_once(
    keys: ApiKeys, database: Database, clock: Clock
) -> None:
    other = ApiKeys(Database(database.engine.url), clock)
    assert keys.verify("bk_x") is None
    key, secret = other.create("made elsewhere")
    assert keys.verify(secret) == key
    other.revoke(key.id)
    assert keys.verify(secret) is None


def test_keys_of_before_there_were_scopes_may_do_everything(database: Database) -> None:
    with database.write() as connection:
        command.downgrade(config(connection), "0003")
        connection.execute(
            sa.text("INSERT INTO api_keys VALUES ('key_1', 'old', :sha256, 0, NULL)"),
            {"sha256": hashlib.sha256(b"secret").hexdigest()},
        )
        command.upgrade(config(connection), "head")
    key = ApiKeys(database, Clock()).verify("secret")
    assert key is not None
    assert (key.scopes, key.expires_at) == (ALL_SCOPES, None)


def test_no_secret_is_on_the_disk(keys: ApiKeys, tmp_path: Path) -> None:
    _, secret = keys.create("laptop")

    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
