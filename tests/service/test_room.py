"""What a server without room refuses and what goes on; what a machine refuses is no 500."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.errors import StorageFull
from service.store.room import Room, free_bytes
from tests.service.conftest import Api, Serve, assert_problem

CSV = {"Content-Type": "text/csv"}
TABLE = b"x,y\n1,2\n2,4\n3,6\n4,8\n"


@pytest.fixture
def model(api: Api) -> str:
    return str(api.import_model().json()["id"])


@contextmanager
def full(api: Api) -> Iterator[None]:
    """Have no byte of the disk be free beside those that are kept free."""
    room = api.state["blobs"].room
    before, room.min_free_bytes = room.min_free_bytes, 2**62
    try:
        yield
    finally:
        room.min_free_bytes = before


def test_what_is_free_is_told_of_folders_to_come_too(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") > 0


def test_room_counts_what_is_to_be_stored_and_what_is_kept_free(tmp_path: Path) -> None:
    room = Room(tmp_path, min_free_bytes=10, free=lambda _: 15)
    room.require(5)
    with pytest.raises(StorageFull, match="15 bytes free, 6 more are to be stored, and 10"):
        room.require(6)
    assert room.is_left()
    assert not Room(tmp_path, min_free_bytes=16, free=lambda _: 15).is_left()


def test_uploads_are_refused_while_there_is_no_room_and_taken_afterwards(api: Api) -> None:
    form: dict[str, Any] = {"file": ("t.csv", TABLE, "text/csv")}
    with full(api):
        for answer in (
            api.post("/datasets", content=TABLE, headers=CSV),
            api.post("/datasets", files=form),
            api.import_model(),
        ):
            problem = assert_problem(answer, 507)
            assert problem["type"] == "urn:bernoulli:problem:storage-full"
            assert "BERNOULLI_MIN_FREE_BYTES" in problem["detail"]
            assert "Delete" in problem["detail"]
    assert api.get("/datasets").json()["data"] == api.get("/models").json()["data"] == []
    assert list((api.state["blobs"].root / "temporary").iterdir()) == []
    api.upload(TABLE)
    assert api.import_model().status_code == 201


def test_an_idempotency_key_of_a_refused_upload_serves_the_next_try(api: Api) -> None:
    headers = {**CSV, "Idempotency-Key": "one"}
    with full(api):
        assert_problem(api.post("/datasets", content=TABLE, headers=headers), 507)
    assert api.post("/datasets", content=TABLE, headers=headers).status_code == 201


def test_reads_predictions_and_deletions_go_on_without_room(api: Api, model: str) -> None:
    dataset = api.upload()
    with full(api):
        assert api.get("/datasets").json()["data"][0]["id"] == dataset
        assert api.get(f"/datasets/{dataset}/content").status_code == 200
        body = {"model": model, "inputs": [[1, 2]]}
        assert api.post("/predict", json=body).json()["outputs"]["prediction"] == [[3.0]]
        assert api.get(f"/models/{model}/weights").status_code == 200
        job = api.train(dataset)
        assert api.post(f"/jobs/{job['id']}/cancel").status_code == 202
        assert api.delete(f"/datasets/{dataset}").status_code == 204
        assert api.delete(f"/models/{model}").status_code == 204


def test_jobs_wait_for_room_in_the_queue_and_go_on_by_themselves(api: Api) -> None:
    job = api.train(api.upload(), epochs=1)
    with full(api):
        api.work()
        assert api.get(f"/jobs/{job['id']}").json()["status"] == "queued"
    api.work()
    assert api.get(f"/jobs/{job['id']}").json()["status"] == "succeeded"


def test_a_server_without_room_is_live_but_not_ready_and_says_why(api: Api) -> None:
    assert api.get("/health/ready").status_code == 200
    with full(api):
        assert api.get("/health/live").status_code == 200
        answer = api.get("/health/ready")
        assert "bytes free" in assert_problem(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) > 0
    assert api.get("/health/ready").status_code == 200


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_the_machine_refuses_is_a_503_that_can_be_tried_again(
    serve: Serve, number: int
) -> None:
    api = serve()

    def refuse() -> None:
        raise OSError(number, "refused", "/secret/path")

    api.app.add_api_route("/refuse", refuse)
    answer = api.get("/refuse")
    assert "secret" not in str(assert_problem(answer, 503))
    assert int(answer.headers["retry-after"]) > 0


def test_a_file_that_may_not_grow_is_a_full_disk(api: Api) -> None:
    rows = "\n".join(f"{i},{i}.5" for i in range(40_000))  # 400 KB, and more as stored
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        answer = api.post("/datasets", content=f"x,y\n{rows}".encode(), headers=CSV)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_problem(answer, 507)
    assert list((api.state["blobs"].root / "temporary").iterdir()) == []
    assert api.get("/datasets").json()["data"] == []


def test_too_many_open_files_are_a_503_and_pass(api: Api, model: str) -> None:
    held = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
    try:
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        uploaded = api.post("/datasets", content=TABLE, headers=CSV)
        weights = api.get(f"/models/{model}/weights")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for file in held:
            os.close(file)
    assert_problem(uploaded, 503)
    assert weights.status_code in (200, 503)
    api.upload(TABLE)


def test_a_database_that_cannot_be_written_refuses_writes_alone(api: Api, model: str) -> None:
    dataset = api.upload()
    with api.state["database"].read() as connection:
        connection.execute(sa.text("PRAGMA query_only = ON"))
    try:
        body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
        answer = api.post("/train", json=body)
        assert "read-only" in assert_problem(answer, 503)["detail"]
        assert api.post("/predict", json={"model": model, "inputs": [[1, 2]]}).status_code == 200
    finally:
        api.state["database"].engine.dispose()
    api.train(dataset)


@pytest.mark.parametrize("table", ["jobs", "datasets", "models"])
def test_a_full_database_is_a_507(api: Api, table: str) -> None:
    """Every connection has the limit: SQLite says `database or disk is full` of all that grows."""
    dataset = api.upload()
    database = api.state["database"]

    def limit(connection: Any, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(database.engine, "connect", limit)
    database.engine.dispose()
    answers = []
    for number in range(200):  # the last page has room for some rows
        if table == "jobs":
            body = {"dataset": dataset, "network": {"layers": [None, 3, None]}}
            answers.append(api.post("/train", json=body))
        elif table == "models":
            answers.append(api.import_model())
        else:
            answers.append(api.post(f"/datasets?name={number}", content=TABLE, headers=CSV))
        if not answers[-1].is_success:
            break
    assert_problem(answers[-1], 507)
    assert api.get("/datasets").status_code == 200
    sa.event.remove(database.engine, "connect", limit)
    database.engine.dispose()
    assert api.import_model().status_code == 201


def test_a_request_whose_connection_to_the_database_was_lost_is_a_503_and_the_next_is_not(
    api: Api,
) -> None:
    """Closed behind the pool's back, as one is that a server on the other side has ended."""
    with api.state["database"].read() as connection:
        lost = connection.connection.dbapi_connection
    assert lost is not None
    lost.close()
    answers = [api.get("/datasets") for _ in range(3)]
    assert_problem(answers[0], 503)
    assert int(answers[0].headers["retry-after"]) > 0
    assert [answer.status_code for answer in answers[1:]] == [200, 200]
