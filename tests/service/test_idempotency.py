"""Idempotency keys: what was created once is answered again, and not created again."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import orjson
import pytest

from service.store.idempotency import Idempotency
from service.store.jobs import Status
from tests.service.conftest import Api, Serve, assert_problem

CSV = b"x,y\n1,2\n2,4\n3,6\n4,8\n"
ONCE = {"Idempotency-Key": "once"}


def count(api: Api, path: str) -> int:
    return len(api.get(path).json()["data"])


def test_a_repeated_upload_gets_the_first_answer(api: Api) -> None:
    headers = {"Content-Type": "text/csv", **ONCE}
    first = api.post("/datasets?name=a", content=CSV, headers=headers)
    again = api.post("/datasets?name=a", content=CSV, headers=headers)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert count(api, "/datasets") == 1
    # The same file as a form is the same content.
    form = api.post("/datasets?name=a", files={"file": ("a.csv", CSV, "text/csv")}, headers=ONCE)
    assert form.content == first.content
    assert_problem(api.post("/datasets?name=b", content=CSV, headers=headers), 422)
    assert_problem(api.post("/datasets?name=a", content=CSV + b"5,1\n", headers=headers), 422)


def test_a_repeated_job_gets_the_first_answer_whatever_has_become_of_its_parts(api: Api) -> None:
    dataset = api.upload()
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
    first = api.post("/train", json=body, headers=ONCE)
    # The parsed content counts: defaults spelt out and another order of keys are the same.
    same = {"epochs": 100, "network": {"layers": [None, {"size": 3}, None]}, "dataset": dataset}
    assert api.post("/train", json=same, headers=ONCE).content == first.content
    assert_problem(api.post("/train", json={**body, "epochs": 3}, headers=ONCE), 422)
    assert count(api, "/jobs") == 1
    api.post(f"{first.headers['location']}/cancel")
    api.delete(f"/datasets/{dataset}")
    again = api.post("/train", json=body, headers=ONCE)
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["location"] == first.headers["location"]


def test_a_repeated_job_that_was_deleted_since_is_answered_too(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    first = api.post("/train", json=body, headers=ONCE)
    api.post(f"{first.headers['location']}/cancel")
    api.delete(first.headers["location"])
    again = api.post("/train", json=body, headers={**ONCE, "Prefer": "wait=1"})
    assert (again.status_code, again.content) == (202, first.content)


def test_a_repeated_job_that_was_waited_for_gets_the_first_answer(api: Api) -> None:
    """Whatever has become of the job since, and whether the repeated request waits or not."""
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    waiting = {**ONCE, "Prefer": "wait=0"}
    first = api.post("/train", json=body, headers=waiting)
    assert first.headers["preference-applied"] == "wait=0"
    assert api.post(f"{first.headers['location']}/cancel").json()["status"] == "cancelled"
    for headers in (waiting, {**ONCE, "Prefer": "wait=1"}, ONCE):
        again = api.post("/train", json=body, headers=headers)
        assert (again.status_code, again.content) == (202, first.content)
        for name in ("location", "preference-applied"):
            assert again.headers[name] == first.headers[name]


def test_a_job_that_is_waited_for_is_in_flight_and_its_end_the_first_answer(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    jobs = api.state["jobs"]
    with ThreadPoolExecutor(1) as pool:
        headers = {**ONCE, "Prefer": "wait=30"}
        waiting = pool.submit(api.post, "/train", json=body, headers=headers)
        while (job := jobs.claim("w")) is None:
            assert not waiting.done()
        assert_problem(api.post("/train", json=body, headers=ONCE), 409)
        jobs.finish(job, Status.SUCCEEDED)
        first = waiting.result()
    assert first.json()["status"] == "succeeded"
    assert api.post("/train", json=body, headers=ONCE).content == first.content
    assert count(api, "/jobs") == 1


def test_a_repeated_import_gets_the_first_answer(api: Api) -> None:
    first = api.import_model(**ONCE)
    again = api.import_model(**ONCE)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert count(api, "/models") == 1


def test_a_refused_request_leaves_its_key_free(api: Api) -> None:
    body = {"dataset": "ds_x", "network": {"layers": [None, 3, None]}}
    assert_problem(api.post("/train", json=body, headers=ONCE), 404)
    body["dataset"] = api.upload()
    assert api.post("/train", json=body, headers=ONCE).status_code == 202


def test_keys_are_the_callers_own(serve: Serve) -> None:
    api = serve(keys="one,two")
    made = set()
    for key in ("one", "two"):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "text/csv", **ONCE}
        made.add(api.post("/datasets", content=CSV, headers=headers).json()["id"])
    assert len(made) == 2


def test_a_request_still_in_flight_is_a_conflict(api: Api) -> None:
    content = ["POST", "/datasets", [], ["text/csv", hashlib.sha256(CSV).hexdigest()]]
    fingerprint = hashlib.sha256(orjson.dumps(content)).hexdigest()
    headers = {"Content-Type": "text/csv", **ONCE}
    with api.state["in_flight"].hold(Idempotency("once", None, fingerprint)):
        assert_problem(api.post("/datasets", content=CSV, headers=headers), 409)
    assert api.post("/datasets", content=CSV, headers=headers).status_code == 201


def test_requests_at_the_same_time_with_one_key_create_one_job(api: Api) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}

    def post(_: int) -> httpx.Response:
        return api.post("/train", json=body, headers=ONCE)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    told = {answer.content for answer in answers if answer.status_code == 202}
    assert len(told) == 1
    for answer in answers:
        if answer.status_code != 202:
            assert_problem(answer, 409)
    assert count(api, "/jobs") == 1
    assert {post(0).content} == told


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "\x7f"])
def test_a_key_is_visible_ascii(api: Api, key: str) -> None:
    body = {"dataset": api.upload(), "network": {"layers": [None, 3, None]}}
    answer = api.post("/train", json=body, headers={b"Idempotency-Key": key.encode()})
    assert_problem(answer, 422, "#/header/Idempotency-Key")
