"""A job's events, as lists and as streams."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.store.jobs import Status
from tests.service.conftest import Api, assert_problem

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def job(api: Api) -> str:
    return str(api.train(api.upload())["id"])


def finish(api: Api, epochs: int) -> None:
    """Run the queued job as a worker would: some epochs, then the end."""
    jobs = api.state["jobs"]
    claimed = jobs.claim("w")
    assert claimed is not None
    for number in range(1, epochs + 1):
        jobs.record(claimed, events=[("epoch", {"epoch": number, "text": "line\nbreak é"})])
    jobs.finish(claimed, Status.SUCCEEDED)


def events_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """Parse a stream as the HTML standard says, checking each field against the event's own."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.content.decode().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if line[:1] not in ("", ":")
        )
        if fields:
            event = json.loads(fields["data"])
            assert (fields["id"], fields["event"]) == (str(event["id"]), event["type"])
            events.append(event)
    return events


def test_a_list_is_oldest_first_in_pages(api: Api, job: str) -> None:
    finish(api, 3)
    path = f"/jobs/{job}/events"
    events = api.get(path).json()["data"]
    assert [event["id"] for event in events] == [1, 2, 3, 4, 5, 6]
    types = ["queued", "started", "epoch", "epoch", "epoch", "finished"]
    assert [event["type"] for event in events] == types
    page = api.get(path, params={"after": 2, "limit": 2}).json()
    assert page == {"data": events[2:4], "has_more": True}
    assert api.get(path, params={"after": 6}).json() == {"data": [], "has_more": False}


def test_a_stream_of_an_ended_job_tells_all_and_ends(api: Api, job: str) -> None:
    finish(api, 2)
    listed = api.get(f"/jobs/{job}/events").json()["data"]
    assert events_of(api.get(f"/jobs/{job}/events", headers=STREAM)) == listed


def test_a_stream_follows_a_job_to_its_end(api: Api, job: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(api.get, f"/jobs/{job}/events", headers=STREAM)
        finish(api, 5)
        events = events_of(stream.result(timeout=20))
    assert events == api.get(f"/jobs/{job}/events").json()["data"]


@pytest.mark.parametrize("last", [0, 1, 3, 5])
def test_a_stream_goes_on_after_the_last_event_received(api: Api, job: str, last: int) -> None:
    finish(api, 3)
    path = f"/jobs/{job}/events"
    headers = {**STREAM, "Last-Event-ID": str(last)}
    expected = list(range(last + 1, 7))
    assert [event["id"] for event in events_of(api.get(path, headers=headers))] == expected
    by_query = api.get(path, headers=STREAM, params={"after": last})
    assert [event["id"] for event in events_of(by_query)] == expected


@pytest.mark.parametrize("last", ["6", "999999"])
def test_a_stream_that_nothing_can_follow_is_not_opened(api: Api, job: str, last: str) -> None:
    finish(api, 3)
    answer = api.get(f"/jobs/{job}/events", headers={**STREAM, "Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "", "²", "9" * 30])
def test_a_last_event_that_is_no_number_is_refused(api: Api, job: str, last: str) -> None:
    headers = {b"Accept": b"text/event-stream", b"Last-Event-ID": last.encode()}
    answer = api.get(f"/jobs/{job}/events", headers=headers)
    assert_problem(answer, 422, "#/header/Last-Event-ID")


def test_a_stream_ends_with_the_server(api: Api, job: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(api.get, f"/jobs/{job}/events", headers=STREAM)
        api.state["shutdown"].begin()
        assert [event["type"] for event in events_of(stream.result(timeout=20))] == ["queued"]


def test_a_stream_ends_when_its_job_is_deleted(api: Api, job: str) -> None:
    """Cancelled and deleted between two looks: nothing more can be told."""
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(api.get, f"/jobs/{job}/events", headers=STREAM)
        api.post(f"/jobs/{job}/cancel")
        api.delete(f"/jobs/{job}")
        answer = stream.result(timeout=20)
    assert answer.status_code in (200, 404)


def test_a_stream_of_no_job_is_a_problem(api: Api) -> None:
    assert_problem(api.get("/jobs/job_x/events", headers=STREAM), 404)
