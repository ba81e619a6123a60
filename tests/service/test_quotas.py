"""Quotas: what one key has too much of is refused with the quota, and others notice nothing."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import QuotaExceeded
from service.rates import Rates
from service.store.quotas import Quotas
from tests.service.conftest import Api, Serve, assert_problem

CSV = {"Content-Type": "text/csv"}
TABLE = b"x,y\n1,2\n2,4\n3,6\n4,8\n"


def with_key(api: Api, **quotas: int) -> dict[str, str]:
    _, secret = api.state["keys"].create("tests", quotas=Quotas(**quotas))
    return {"Authorization": f"Bearer {secret}"}


def refused(answer: Any, quota: str, limit: int) -> None:
    problem = assert_problem(answer, 429)
    assert problem["type"] == "urn:bernoulli:problem:quota-exceeded"
    assert f"`{quota}` of this key is {limit}" in problem["detail"]
    assert int(answer.headers["retry-after"]) >= 1


def test_a_key_stores_no_more_bytes_than_it_may(api: Api) -> None:
    other = with_key(api)
    probe = api.post("/datasets", content=TABLE, headers={**CSV, **other}).json()["id"]
    stored = api.state["datasets"].get(probe).stored_bytes
    assert stored > len(TABLE)
    limit = stored + 10
    own = with_key(api, stored_bytes=limit)
    first = api.post("/datasets", content=TABLE, headers={**CSV, **own})
    assert first.status_code == 201
    refused(api.post("/datasets", content=TABLE, headers={**CSV, **own}), "stored_bytes", limit)
    refused(api.import_model(**own), "stored_bytes", limit)
    assert api.post("/datasets", content=TABLE, headers={**CSV, **other}).status_code == 201
    assert api.delete(f"/datasets/{first.json()['id']}", headers=own).status_code == 204
    model = api.import_model(**own)
    assert model.status_code == 201
    # The blobs of what was refused are not kept.
    assert len(list(api.state["blobs"].keys("models"))) == 1


def test_what_is_full_is_refused_before_anything_is_sent_or_queued(api: Api) -> None:
    own = with_key(api, stored_bytes=0)
    refused(api.post("/datasets", content=b"x", headers={**CSV, **own}), "stored_bytes", 0)
    api.headers.update(with_key(api))
    dataset = api.upload()
    api.patch(f"/datasets/{dataset}", json={"shared": True})
    del api.headers["Authorization"]
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
    refused(api.post("/train", json=body, headers=own), "stored_bytes", 0)


def test_a_key_has_no_more_jobs_waiting_than_it_may(api: Api) -> None:
    api.headers.update(with_key(api, queued_jobs=2))
    dataset = api.upload()
    api.patch(f"/datasets/{dataset}", json={"shared": True})
    jobs = [api.train(dataset)["id"] for _ in range(2)]
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
    refused(api.post("/train", json=body), "queued_jobs", 2)
    assert api.post("/train", json=body, headers=with_key(api)).status_code == 202
    api.post(f"/jobs/{jobs[0]}/cancel", json={})
    assert api.post("/train", json=body).status_code == 202


def test_a_key_predicts_so_often_a_minute(api: Api) -> None:
    api.headers.update(with_key(api, predictions_per_minute=3))
    model = api.import_model().json()["id"]
    body = {"model": model, "inputs": [[1.0, 2.0]]}
    for _ in range(3):
        assert api.post("/predict", json=body).status_code == 200
    answer = api.post("/predict", json=body)
    refused(answer, "predictions_per_minute", 3)
    assert int(answer.headers["retry-after"]) <= 20
    for path in ("/rank", "/evaluate"):
        refused(api.post(path, json={}), "predictions_per_minute", 3)
    assert api.get("/models").status_code == 200


def test_settings_say_what_keys_without_quotas_of_their_own_have(serve: Serve) -> None:
    api = serve(keys="first", key_queued_jobs=1, key_predictions_per_minute=1)
    headers = {"Authorization": "Bearer first"}
    assert_problem(api.post("/predict", json={}, headers=headers), 422)
    refused(api.post("/predict", json={}, headers=headers), "predictions_per_minute", 1)
    own = with_key(api, predictions_per_minute=2)
    for _ in range(2):
        assert_problem(api.post("/predict", json={}, headers=own), 422)
    refused(api.post("/predict", json={}, headers=own), "predictions_per_minute", 2)
    api.headers.update(headers)
    dataset = api.upload()
    api.train(dataset)
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
    refused(api.post("/train", json=body), "queued_jobs", 1)
    api.headers.update(with_key(api, queued_jobs=2))
    dataset = api.upload()
    api.train(dataset)
    api.train(dataset)


def test_a_rate_is_steady_and_never_more_than_a_minutes_worth() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    for _ in range(30):
        rates.take("a", 30)
    with pytest.raises(QuotaExceeded) as full:
        rates.take("a", 30)
    assert full.value.retry_after_s == 2
    rates.take("b", 30)  # each key has its own
    now = 2.0
    rates.take("a", 30)
    with pytest.raises(QuotaExceeded):
        rates.take("a", 30)
    now = 1e6
    for _ in range(30):
        rates.take("a", 30)
    with pytest.raises(QuotaExceeded):
        rates.take("a", 30)
    with pytest.raises(QuotaExceeded) as never:
        rates.take("c", 0)
    assert never.value.retry_after_s == 60


def test_own_quotas_go_before_the_default_ones() -> None:
    default = Quotas(queued_jobs=5, running_jobs=1)
    assert Quotas(queued_jobs=0).over(default) == Quotas(queued_jobs=0, running_jobs=1)
    assert Quotas().given() == {}
