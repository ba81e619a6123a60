"""The audit trail: each change leaves an entry, which says who made it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.store.blobs import Blobs
from service.store.retention import Limit, Retention
from tests.service.conftest import Api, Serve, assert_problem


def trail(api: Api, **query: str) -> list[dict[str, Any]]:
    """Return the entries, the oldest first."""
    answer = api.get("/audit", params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data[::-1]


def told(entries: list[dict[str, Any]]) -> list[tuple[str, str, str | None]]:
    return [(entry["action"], entry["object"], entry["key"]) for entry in entries]


@pytest.fixture
def keyed(serve: Serve) -> Api:
    return serve()


def key(api: Api, scopes: str) -> tuple[str, dict[str, str]]:
    made, secret = api.state["keys"].create("tests", scopes=scopes.split(","))
    return made.id, {"Authorization": f"Bearer {secret}"}


def test_what_a_key_makes_shares_and_deletes_is_told_as_its_own(keyed: Api) -> None:
    mine, headers = key(keyed, "train,predict")
    root, admin = key(keyed, "admin")
    keyed.headers.update(headers)
    dataset = keyed.upload()
    job = keyed.train(dataset, epochs=1)["id"]
    keyed.work()
    model = keyed.get(f"/jobs/{job}").json()["model"]
    for shared in (True, True, False):  # to share what is shared already changes nothing
        keyed.patch(f"/datasets/{dataset}", json={"shared": shared})
    assert_problem(keyed.get("/audit"), 403)
    keyed.headers.update(admin)
    assert keyed.delete(f"/models/{model}").status_code == 204
    assert told(trail(keyed)) == [
        ("created", mine, "command line"),
        ("created", root, "command line"),
        ("created", dataset, mine),
        ("created", job, mine),
        ("created", model, mine),
        ("shared", dataset, mine),
        ("unshared", dataset, mine),
        ("deleted", model, root),
    ]
    (made,) = trail(keyed, object=model, action="created")
    assert made["details"] == {"job": job}
    assert told(trail(keyed, key=root)) == [("deleted", model, root)]
    keyed.state["keys"].revoke(mine)
    keyed.state["keys"].revoke(mine)
    assert told(trail(keyed, action="revoked")) == [("revoked", mine, "command line")]


def test_moves_of_an_alias_tell_from_where(api: Api) -> None:
    first, second = (api.import_model().json()["id"] for _ in range(2))
    for model in (first, first, second):
        api.put("/aliases/best", json={"model": model})
    api.delete("/aliases/best")
    entries = trail(api, object="best")
    assert [(entry["action"], entry["details"]) for entry in entries] == [
        ("created", {"model": first}),
        ("moved", {"model": second, "before": first}),
        ("deleted", {"model": second}),
    ]
    assert {entry["key"] for entry in entries} == {None}


def test_what_is_refused_leaves_no_entry(api: Api) -> None:
    dataset = api.upload()
    job = api.train(dataset, epochs=1)["id"]
    before = trail(api)
    assert_problem(api.delete(f"/datasets/{dataset}"), 409)
    assert_problem(api.delete(f"/jobs/{job}"), 409)
    assert_problem(api.put("/aliases/best", json={"model": "mdl_" + "0" * 26}), 404)
    assert trail(api) == before


def test_a_job_is_cancelled_once(api: Api) -> None:
    job = api.train(api.upload(), epochs=1)["id"]
    for _ in range(2):
        api.post(f"/jobs/{job}/cancel")
    api.delete(f"/jobs/{job}")
    actions = [entry["action"] for entry in trail(api, object=job)]
    assert actions == ["created", "cancelled", "deleted"]


def test_the_trail_comes_in_pages_and_by_time(api: Api) -> None:
    start = datetime.now(UTC)
    made = [api.upload() for _ in range(3)]
    page = api.get("/audit", params={"limit": 2}).json()
    assert page["has_more"]
    rest = api.get("/audit", params={"after": page["data"][-1]["id"]}).json()
    assert [entry["object"] for entry in page["data"] + rest["data"]] == made[::-1]
    at = page["data"][0]["at"]
    assert told(trail(api, since=at)) == [("created", made[2], None)]
    assert len(trail(api, until=at)) == 2
    assert len(trail(api, since=start.isoformat())) == 3
    assert_problem(api.get("/audit", params={"since": "yesterday"}), 422, "#/query/since")
    assert_problem(api.get("/audit", params={"action": "seen"}), 422, "#/query/action")


def test_retention_is_told_and_drops_entries_by_age(api: Api) -> None:
    state = api.state
    dataset, other = api.upload(), api.upload()
    del other
    database, blobs = state["database"], state["blobs"]
    assert isinstance(blobs, Blobs)
    later = datetime.now(UTC) + timedelta(days=2)
    retention = Retention(
        database,
        blobs,
        state["datasets"],
        lambda: later,
        trail=Limit(days=1),
        results=Limit(days=1),
    )
    assert retention.apply()["audit"] == 2
    assert trail(api) == []
    retention._drop_result(dataset)
    assert told(trail(api)) == [("deleted", dataset, "retention")]
