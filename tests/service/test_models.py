"""Models and aliases over HTTP."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
import safetensors.numpy

from service.routes.models import _OpenFileResponse
from tests.service.conftest import Api, Serve, assert_problem


@pytest.fixture
def model(api: Api) -> str:
    return str(api.import_model().json()["id"])


def test_an_imported_model_is_described_and_predicts(api: Api) -> None:
    answer = api.import_model()
    assert answer.status_code == 201
    body = answer.json()
    assert answer.headers["location"] == f"/models/{body['id']}"
    assert (body["name"], body["job"], body["dataset"], body["spec"]) == ("sum", None, None, None)
    assert body["parameters"]["out.w"]["shape"] == [2, 1]
    assert body["parameter_count"] == 3
    assert "out:pre" in body["outputs"]
    assert api.get(answer.headers["location"]).json() == body
    (summary,) = api.get("/models").json()["data"]
    assert summary.items() <= body.items()
    answer = api.post("/predict", json={"model": body["id"], "inputs": [[1, 2], [3, 4]]})
    assert answer.json()["outputs"]["prediction"] == [[3.0], [7.0]]


def test_weights_come_back_byte_by_byte_under_their_hash(api: Api, model: str) -> None:
    answer = api.get(f"/models/{model}/weights")
    assert answer.headers["content-type"] == "application/vnd.safetensors"
    etag = answer.headers["etag"]
    assert etag == f'"{hashlib.sha256(answer.content).hexdigest()}"'
    arrays = safetensors.numpy.load(answer.content)
    np.testing.assert_array_equal(arrays["out.w"], np.ones((2, 1), np.float32))
    for known in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        again = api.get(f"/models/{model}/weights", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
    other = api.get(f"/models/{model}/weights", headers={"If-None-Match": '"x"'})
    assert other.content == answer.content
    # The bytes depend on the parameters only.
    second = api.import_model().json()["id"]
    assert api.get(f"/models/{second}/weights").headers["etag"] == etag


GOOD_SPEC = json.dumps({"network": {"layers": [2, 1]}}).encode()
ONES, BIAS = np.ones((2, 1), np.float32), np.zeros(1, np.float32)
GOOD = safetensors.numpy.save({"out.w": ONES, "out.b": BIAS})
SHAPE = safetensors.numpy.save({"out.w": ONES.T.copy(), "out.b": BIAS})
MISSING = safetensors.numpy.save({"out.w": ONES})
NAN = safetensors.numpy.save({"out.w": ONES * np.float32("nan"), "out.b": BIAS})


@pytest.mark.parametrize(
    ("spec", "weights", "status", "pointer"),
    [
        (b"{", GOOD, 400, None),
        (b'{"network": NaN}', GOOD, 400, None),
        (b'{"network": {"layers": ' + b"[" * 900 + b"]" * 900 + b"}}", GOOD, 400, None),
        (b"{}", GOOD, 422, "#/network"),
        (b'{"network": {"layers": [2, -1]}}', GOOD, 422, "#/network/layers/1"),
        (b'{"network": {"layers": [2, null]}}', GOOD, 422, "#/network/layers/1"),
        (b'{"network": {"layers": [2, 1]}, "nonsense": 1}', GOOD, 422, "#/nonsense"),
        (GOOD_SPEC, b"nonsense", 422, "#/weights"),
        (GOOD_SPEC, b"", 422, "#/weights"),
        (GOOD_SPEC, b"\xff" * 64, 422, "#/weights"),
        (GOOD_SPEC, SHAPE, 422, None),
        (GOOD_SPEC, MISSING, 422, None),
        (GOOD_SPEC, NAN, 422, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_model_is_refused_and_leaves_nothing(
    api: Api, spec: bytes, weights: bytes, status: int, pointer: str | None
) -> None:
    files: Any = {"spec": (None, spec), "weights": ("w.safetensors", weights)}
    answer = api.post("/models", files=files)
    problem = assert_problem(answer, status)
    if pointer is not None:
        assert problem["errors"][0]["pointer"].startswith(pointer)
    assert api.get("/models").json()["data"] == []
    assert [p for p in api.state["blobs"].root.rglob("*") if p.is_file()] == []


def test_an_import_is_a_form_of_two_parts(api: Api) -> None:
    assert_problem(api.post("/models", json={}), 415)
    assert_problem(api.post("/models", files={"spec": (None, GOOD_SPEC)}), 422, "#/weights")
    assert_problem(api.post("/models", files={"weights": ("w", GOOD)}), 422, "#/spec")
    files: Any = {"spec": (None, GOOD_SPEC), "weights": ("w", GOOD), "more": (None, b"")}
    assert_problem(api.post("/models", files=files), 422, "#/more")


def test_an_import_over_the_limit_is_refused(serve: Serve) -> None:
    api = serve(max_upload_bytes=1024)
    files: Any = {"spec": (None, GOOD_SPEC), "weights": ("w", b"a" * 2000)}
    assert_problem(api.post("/models", files=files), 413)


def test_a_deleted_model_is_gone_with_its_weights(api: Api, model: str) -> None:
    inputs = {"model": model, "inputs": [[1, 2]]}
    assert api.post("/predict", json=inputs).status_code == 200
    assert api.delete(f"/models/{model}").status_code == 204
    for path in (f"/models/{model}", f"/models/{model}/weights"):
        assert_problem(api.get(path), 404)
    assert_problem(api.post("/predict", json=inputs), 404)
    assert_problem(api.delete(f"/models/{model}"), 404)
    assert list(api.state["blobs"].keys("models")) == []


def test_a_model_in_use_while_it_is_deleted_is_there_or_is_not(api: Api) -> None:
    seen: set[int] = set()

    def use(model: str) -> None:
        while 404 not in seen:
            seen.add(api.get(f"/models/{model}/weights").status_code)
            asked = {"model": model, "inputs": [[1, 2]]}
            seen.add(api.post("/predict", json=asked).status_code)

    for _ in range(10):
        model = str(api.import_model().json()["id"])
        threads = [threading.Thread(target=use, args=(model,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert api.delete(f"/models/{model}").status_code == 204
        for thread in threads:
            thread.join()
        assert seen <= {200, 404}
        seen.clear()


def test_a_download_that_has_begun_outlives_the_model(api: Api, model: str) -> None:
    stored = api.state["models"].resolve(model)
    with api.state["blobs"].open(stored.weights) as stream:
        content = stream.read()
    response = _OpenFileResponse(api.state["blobs"].open(stored.weights))
    assert api.delete(f"/models/{model}").status_code == 204

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await response(scope, receive, send)

    async def download() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/", headers={"Range": "bytes=8-"})

    answer = anyio.run(download)
    assert (answer.status_code, answer.content) == (206, content[8:])


def test_an_alias_moves_atomically_and_remembers(api: Api, model: str) -> None:
    other = api.import_model().json()["id"]
    first = api.put("/aliases/champion", json={"model": model})
    assert first.status_code == 201
    second = api.put("/aliases/champion", json={"model": other})
    assert second.status_code == 200
    assert first.headers["etag"] != second.headers["etag"]
    body = api.get("/aliases/champion")
    assert body.headers["etag"] == second.headers["etag"]
    assert body.json()["model"] == other
    assert [move["model"] for move in body.json()["history"]] == [other, model]
    assert api.get("/models/champion").json()["id"] == other
    assert [alias["name"] for alias in api.get("/aliases").json()["data"]] == ["champion"]
    assert "champion" in assert_problem(api.delete(f"/models/{other}"), 409)["detail"]
    assert api.delete("/aliases/champion").status_code == 204
    assert_problem(api.get("/aliases/champion"), 404)
    assert api.delete(f"/models/{other}").status_code == 204


def test_a_move_or_deletion_on_an_old_view_is_refused(api: Api, model: str) -> None:
    old = api.put("/aliases/a", json={"model": model}).headers["etag"]
    other = {"model": api.import_model().json()["id"]}
    new = api.put("/aliases/a", json=other, headers={"If-Match": old}).headers["etag"]
    for match in (old, f"W/{new}", '"nonsense"'):
        moved = api.put("/aliases/a", json={"model": model}, headers={"If-Match": match})
        assert_problem(moved, 412)
        assert_problem(api.delete("/aliases/a", headers={"If-Match": match}), 412)
    assert_problem(api.put("/aliases/b", json={"model": model}, headers={"If-Match": "*"}), 412)
    assert api.delete("/aliases/a", headers={"If-Match": new}).status_code == 204


def test_a_name_can_be_taken_only_if_it_is_free(api: Api, model: str) -> None:
    body, only_new = {"model": model}, {"If-None-Match": "*"}
    etag = api.put("/aliases/a", json=body, headers=only_new).headers["etag"]
    # Even to point where it points already.
    for match in ("*", etag, f'"x", W/{etag}'):
        again = api.put("/aliases/a", json=body, headers={"If-None-Match": match})
        assert "exists" in assert_problem(again, 412)["detail"]
    assert api.put("/aliases/a", json=body, headers={"If-None-Match": '"x"'}).status_code == 200
    assert api.delete("/aliases/a").status_code == 204
    assert api.put("/aliases/a", json=body, headers=only_new).status_code == 201


@pytest.mark.parametrize("name", ["mdl_x", "a b", "ä", ".a", "a" * 65, "%00"])
def test_a_name_that_cannot_be_an_alias_is_refused(api: Api, model: str, name: str) -> None:
    assert_problem(api.put(f"/aliases/{name}", json={"model": model}), 422)


def test_an_alias_points_at_something(api: Api) -> None:
    assert_problem(api.put("/aliases/a", json={"model": "mdl_x"}), 404, "#/model")
    assert_problem(api.put("/aliases/a", json={}), 422, "#/model")
