from __future__ import annotations

import pytest

from service.errors import IdempotencyInFlight, IdempotencyMismatch, Invalid
from service.store.database import Database
from service.store.idempotency import Answer, Idempotency, IdempotencyKeys, InFlight, Remember
from service.store.jobs import Job, Jobs, NewJob
from tests.service.store.conftest import Clock

KEY = Idempotency("k1", "key_1", "a" * 64)
TRAIN = NewJob(kind="train", spec={})


def answer(job: Job) -> Answer:
    return Answer(202, {"Location": f"/jobs/{job.id}"}, b"\x00\xff" + job.id.encode())


@pytest.fixture
def keys(database: Database, clock: Clock) -> IdempotencyKeys:
    return IdempotencyKeys(database, clock)


def test_the_first_answer_is_given_again(jobs: Jobs, keys: IdempotencyKeys) -> None:
    assert keys.lookup(KEY) is None
    job = jobs.create(TRAIN, remember=Remember(KEY, answer))

    assert keys.lookup(KEY) == answer(job)


def test_a_later_answer_takes_the_place_of_its_keys_first_only(
    jobs: Jobs, keys: IdempotencyKeys
) -> None:
    other = Idempotency("k2", KEY.owner, KEY.fingerprint)
    for key in (KEY, other):
        job = jobs.create(TRAIN, remember=Remember(key, answer))
    later = Answer(202, {"Location": "/jobs/x"}, b"later")
    keys.replace(KEY, later)

    assert keys.lookup(KEY) == later
    assert keys.lookup(other) == answer(job)


def test_the_same_key_with_other_content_is_refused(jobs: Jobs, keys: IdempotencyKeys) -> None:
    jobs.create(TRAIN, remember=Remember(KEY, answer))

    with pytest.raises(IdempotencyMismatch):
        keys.lookup(Idempotency("k1", "key_1", "b" * 64))


def test_keys_of_different_callers_are_different(jobs: Jobs, keys: IdempotencyKeys) -> None:
    jobs.create(TRAIN, remember=Remember(KEY, answer))

    assert keys.lookup(Idempotency("k1", "key_2", "a" * 64)) is None
    assert keys.lookup(Idempotency("k1", None, "a" * 64)) is None


def test_a_key_creates_once_even_if_the_look_up_came_too_early(
    jobs: Jobs, keys: IdempotencyKeys
) -> None:
    job = jobs.create(TRAIN, remember=Remember(KEY, answer))
    with pytest.raises(IdempotencyInFlight):
        jobs.create(TRAIN, remember=Remember(KEY, answer))

    assert [j.id for j in jobs.list().data] == [job.id]
    assert keys.lookup(KEY) == answer(job)


def test_a_key_in_flight_is_held_until_it_is_answered() -> None:
    in_flight = InFlight()
    other = Idempotency("k1", "key_2", "a" * 64)
    with in_flight.hold(KEY), in_flight.hold(other):
        again = Idempotency("k1", "key_1", "b" * 64)
        with pytest.raises(IdempotencyInFlight), in_flight.hold(again):
            pass
    with in_flight.hold(KEY):
        pass


@pytest.mark.parametrize("key", ["", "a b", "a" * 256, "é", "a\n", "\ud800"])
def test_a_key_that_no_header_carries_is_refused(key: str) -> None:
    with pytest.raises(Invalid):
        Idempotency(key, None, "a" * 64)
