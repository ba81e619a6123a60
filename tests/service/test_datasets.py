"""Data sets over HTTP: what goes in comes out, whatever way it goes in."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from service.routes.datasets import MAX_PREVIEW
from tests.service.conftest import Api, Serve, assert_problem

CSV = b"x,y\n1,2\n2,4\n3,6\n4,8\n"
NPZ = "application/x-npz"


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def files_of(api: Api) -> list[str]:
    root = api.state["blobs"].root
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def test_an_upload_is_described(api: Api) -> None:
    answer = api.post("/datasets?name=two", content=CSV, headers={"Content-Type": "text/csv"})
    assert answer.status_code == 201
    body = answer.json()
    assert answer.headers["location"] == f"/datasets/{body['id']}"
    assert body["id"].startswith("ds_")
    assert (body["name"], body["kind"], body["rows"], body["arrays"]) == ("two", "table", 4, [])
    assert [(c["name"], c["type"], c["nulls"]) for c in body["columns"]] == [
        ("x", "integer", 0),
        ("y", "integer", 0),
    ]
    assert (body["columns"][1]["min"], body["columns"][1]["max"]) == (2, 8)
    assert (body["bytes"], body["sha256"]) == (len(CSV), hashlib.sha256(CSV).hexdigest())
    assert body["created_at"].endswith("Z")
    assert api.get(answer.headers["location"]).json() == body
    assert api.get("/datasets").json() == {"data": [body], "has_more": False}


def test_a_form_is_as_good_as_a_raw_body(api: Api) -> None:
    for part in (("a.csv", CSV, "text/csv"), ("a.csv", CSV, "application/octet-stream")):
        answer = api.post("/datasets", files={"file": part})
        assert answer.status_code == 201, answer.text
        assert answer.json()["sha256"] == hashlib.sha256(CSV).hexdigest()
    answer = api.post("/datasets", files={"file": ("a.npz", npz(x=np.ones((2, 3))))})
    assert answer.json()["arrays"] == [{"name": "x", "shape": [2, 3], "dtype": "float64"}]


def test_the_same_content_is_kept_once_and_as_long_as_it_is_needed(api: Api) -> None:
    first, second = api.upload(CSV), api.upload(CSV)
    assert len(files_of(api)) == 1
    assert api.delete(f"/datasets/{first}").status_code == 204
    assert api.get(f"/datasets/{second}/content").content.count(b"\n") == 5
    assert api.delete(f"/datasets/{second}").status_code == 204
    assert_problem(api.get(f"/datasets/{second}"), 404)
    assert files_of(api) == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"", "headers": {"Content-Type": "text/csv"}}, 422),
        ({"content": b"x\n\xff\n", "headers": {"Content-Type": "text/csv"}}, 422),
        ({"content": b"nonsense", "headers": {"Content-Type": NPZ}}, 422),
        ({"content": CSV, "headers": {"Content-Type": "image/png"}}, 415),
        ({"content": CSV}, 415),
        ({"content": CSV, "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"content": CSV, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ({"files": {"file": ("a.unknown", CSV)}}, 415),
        ({"files": {"data": ("a.csv", CSV)}}, 422),
        ({"files": [("file", ("a.csv", CSV)), ("file", ("b.csv", CSV))]}, 422),
        ({"files": {"file": ("a.csv", CSV)}, "data": {"name": "a"}}, 422),
        ({"files": {"other": (None, CSV)}}, 422),
        ({"files": {"file": (None, CSV)}}, 422),
        ({"content": CSV, "headers": {"Content-Type": "text/csv"}, "params": {"name": ""}}, 422),
        ({"content": CSV, "headers": {"Content-Type": "text/csv"}, "params": {"name": "\n"}}, 422),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_read_leaves_nothing_behind(
    api: Api, request_: dict[str, Any], status: int
) -> None:
    assert_problem(api.post("/datasets", **request_), status)
    assert api.get("/datasets").json()["data"] == []
    assert files_of(api) == []


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing(serve: Serve) -> None:
    api = serve(max_upload_bytes=1024)
    big = b"x\n" + b"1\n" * 1000
    headers = {"Content-Type": "text/csv"}
    assert (
        "1024" in assert_problem(api.post("/datasets", content=big, headers=headers), 413)["detail"]
    )
    pieces = iter([big[:1000], big[1000:]])
    assert_problem(api.post("/datasets", content=pieces, headers=headers), 413)
    assert_problem(api.post("/datasets", files={"file": ("a.csv", big)}), 413)
    assert files_of(api) == []


def test_the_content_comes_in_the_format_that_accept_chooses(api: Api) -> None:
    path = f"/datasets/{api.upload(CSV)}/content"
    records = [{"x": 1, "y": 2}, {"x": 2, "y": 4}, {"x": 3, "y": 6}, {"x": 4, "y": 8}]

    def get(accept: str) -> Any:
        answer = api.get(path, headers={"Accept": accept})
        assert answer.status_code == 200, answer.text
        return answer

    assert get("*/*").headers["content-type"].startswith("text/csv")
    assert get("text/html, */*;q=0.1").headers["content-type"].startswith("text/csv")
    assert get("application/json").json() == records
    assert get("application/json;q=0.5, text/csv;q=0.4").json() == records
    assert get("application/x-ndjson").text.count("\n") == 4
    stream = pa.ipc.open_stream(get("application/vnd.apache.arrow.stream").content)
    assert stream.read_all().to_pylist() == records
    parquet = pyarrow.parquet.read_table(io.BytesIO(get("application/vnd.apache.parquet").content))
    assert parquet.to_pylist() == records
    for accept in ("image/png", "*/*;q=0", NPZ, "text/csv;q=0, image/png"):
        assert (
            "text/csv" in assert_problem(api.get(path, headers={"Accept": accept}), 406)["detail"]
        )


def test_arrays_come_back_as_they_went_in(api: Api) -> None:
    x, y = np.arange(12.0).reshape(2, 3, 2), np.array([0, 1])
    dataset = api.upload(npz(x=x, y=y), NPZ)
    content = api.get(f"/datasets/{dataset}/content").content
    with np.load(io.BytesIO(content)) as arrays:
        np.testing.assert_array_equal(arrays["x"], x)
        np.testing.assert_array_equal(arrays["y"], y)
    preview = api.get(f"/datasets/{dataset}/preview?rows=1").json()["rows"]
    assert preview == {"x": x[:1].tolist(), "y": [0]}


def test_a_preview_shows_the_first_rows(api: Api) -> None:
    path = f"/datasets/{api.upload(CSV)}/preview"
    assert api.get(path, params={"rows": 2}).json()["rows"] == [{"x": 1, "y": 2}, {"x": 2, "y": 4}]
    assert len(api.get(path).json()["rows"]) == 4
    for rows in ("0", "1001", "x"):
        assert_problem(api.get(path, params={"rows": rows}), 422, "#/query/rows")


def test_a_preview_is_bounded_however_wide_its_rows_are(api: Api) -> None:
    wide = api.upload(npz(x=np.zeros((5, MAX_PREVIEW // 3), np.int8)), NPZ)
    assert len(api.get(f"/datasets/{wide}/preview").json()["rows"]["x"]) == 3
    wider = api.upload(npz(x=np.zeros((2, MAX_PREVIEW + 1), np.int8)), NPZ)
    assert_problem(api.get(f"/datasets/{wider}/preview"), 413)


def test_pages_follow_each_other_newest_first(api: Api) -> None:
    ids = [api.upload(b"x\n%d\n" % number) for number in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = api.get("/datasets", params={"limit": 2, **after}).json()
        seen += [entry["id"] for entry in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": seen[-1]}
    assert seen == ids[::-1]
    assert_problem(api.get("/datasets?after=nonsense"), 422, "#/query/after")


def test_a_data_set_that_a_job_needs_stays(api: Api) -> None:
    dataset = api.upload(CSV)
    job = api.train(dataset)
    assert job["id"] in assert_problem(api.delete(f"/datasets/{dataset}"), 409)["detail"]
    api.post(f"/jobs/{job['id']}/cancel")
    assert api.delete(f"/datasets/{dataset}").status_code == 204
