from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import Invalid, NotFound
from service.store.database import Database
from service.store.keys import ApiKeys
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


def test_no_secret_is_on_the_disk(keys: ApiKeys, tmp_path: Path) -> None:
    _, secret = keys.create("laptop")

    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()
