"""Bad bodies: refused in the caller's words, at a place that the caller's document has."""

from __future__ import annotations

from typing import Any

import pytest

from service.bodies import MAX_DEPTH
from tests.service.conftest import Api, Serve, assert_problem

JSON = {"Content-Type": "application/json"}
BODIES = ["/train", "/predict"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nonsense",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": 1,}',
        b'{"a": 1} {"b": 2}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"inputs": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"network": {"layers": ' + b"[" * 990 + b"]" * 990 + b"}}",
    ],
    ids=lambda body: body[:24].decode(errors="replace"),
)
def test_what_is_not_json_is_malformed(shared: Api, path: str, body: bytes) -> None:
    problem = assert_problem(shared.post(path, content=body, headers=JSON), 400)
    assert problem["type"] == "urn:bernoulli:problem:malformed"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"x"', b"null", b"{}"])
def test_json_of_another_shape_is_wrong_content(shared: Api, path: str, body: bytes) -> None:
    assert_problem(shared.post(path, content=body, headers=JSON), 422)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("media_type", ["text/plain", "application/xml", "", "json", "a/b;c"])
def test_other_media_types_are_refused(shared: Api, path: str, media_type: str) -> None:
    answer = shared.post(path, content=b"{}", headers={"Content-Type": media_type})
    assert "application/json" in assert_problem(answer, 415)["detail"]


@pytest.mark.parametrize("path", [*BODIES, "/datasets", "/models"])
def test_an_encoded_body_is_refused_rather_than_misread(shared: Api, path: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert_problem(shared.post(path, content=b"\x1f\x8b", headers=headers), 415)


@pytest.mark.parametrize("path", BODIES)
def test_a_body_over_the_limit_is_refused_with_and_without_its_length(
    serve: Serve, path: str
) -> None:
    api = serve(max_body_bytes=1024)
    big = b'"' + b"a" * 2000 + b'"'
    assert "1024" in assert_problem(api.post(path, content=big, headers=JSON), 413)["detail"]
    chunked = api.post(path, content=iter([big[:1000], big[1000:]]), headers=JSON)
    assert_problem(chunked, 413)
    exact = b'"' + b"a" * 1022 + b'"'
    assert_problem(api.post(path, content=exact, headers=JSON), 422)


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"network": {}}, "#/network/layers", "required"),
        ({"network": {"layers": [None, {"size": 0}, None]}}, "#/network/layers/1/size", "got 0"),
        ({"network": {"layers": [None, {"sise": 5}, None]}}, "#/network/layers/1/sise", "unknown"),
        ({"network": {"layers": [None, [5, "rely"], None]}}, "#/network/layers/1", "relu"),
        ({"network": {"layers": [None, 0, None]}}, "#/network/layers/1", "got 0"),
        ({"network": {"layers": [None]}}, "#/network/layers", "at least 2"),
        ({"dropout": {"list[x]": 2}}, "#/dropout/list[x]", "less than 1, got 2"),
        ({"dropout": {"float": 1}}, "#/dropout/float", "less than 1, got 1"),
        ({"dropout": {"a/b~c": 1}}, "#/dropout/a~1b~0c", "less than 1"),
        ({"hidden_dropout": "0.5"}, "#/hidden_dropout", 'got "0.5"'),
        ({"hidden_dropout": True}, "#/hidden_dropout", "got true"),
        ({"validation": {"fraction": 2}}, "#/validation/fraction", "less than 1"),
        ({"validation": 2}, "#/validation", "less than 1, got 2"),
        ({"validation": "x"}, "#/validation", "a number, or must be an object"),
        ({"validation": {"fraction": 0.1, "rows": [1]}}, "#/validation", "exactly one"),
        ({"validation": {"rows": [0, -1]}}, "#/validation/rows/1", "got -1"),
        ({"optimizer": {"form": "sgd", "momentum": 2}}, "#/optimizer/momentum", "got 2"),
        ({"optimizer": {"form": "magic"}}, "#/optimizer/form", "'sgd'"),
        ({"optimizer": {}}, "#/optimizer/form", "required"),
        ({"optimizer": "magic"}, "#/optimizer", "'sgd'"),
        ({"regularizers": [{"form": "magic"}]}, "#/regularizers/0/form", "'weight_l2'"),
        ({"regularizers": [{"form": "weight_l2"}]}, "#/regularizers/0/weight", "required"),
        ({"noise_precision": {"float": -1}}, "#/noise_precision/float", "greater than 0"),
        ({"tags": {"a": 1}}, "#/tags/a", "text"),
        ({"tags": {"a\0": "b"}}, "#/tags", "control characters"),
        ({"tags": {str(i): "" for i in range(17)}}, "#/tags", "16"),
        ({"epochs": 1.5}, "#/epochs", "integer"),
        ({"seed": -1}, "#/seed", "got -1"),
        ({"nonsense": 1}, "#/nonsense", "unknown field"),
    ],
    ids=str,
)
def test_the_pointer_leads_to_what_is_wrong(
    shared: Api, change: dict[str, Any], pointer: str, words: str
) -> None:
    body = {"dataset": "ds_x", "network": {"layers": [None, None]}, **change}
    problem = assert_problem(shared.post("/train", json=body), 422, pointer)
    assert words in problem["errors"][0]["detail"]
    assert words in problem["detail"]


def test_each_wrong_place_is_listed_once_and_not_too_many(shared: Api) -> None:
    rates = {f"out{i}": 2 for i in range(900)}
    body = {"dataset": "ds_x", "network": {"layers": [None, None]}, "dropout": rates}
    errors = assert_problem(shared.post("/train", json=body), 422)["errors"]
    assert len(errors) == 50
    assert len({error["pointer"] for error in errors}) == 50


MANY = 200_000


@pytest.mark.parametrize(
    "member",
    [
        b'"rows": [' + b",".join([b"null"] * MANY) + b"]",
        b'"validation": {"rows": [' + b",".join([b"-1"] * MANY) + b"]}",
        b'"inputs": [' + b",".join([b"1"] * MANY) + b"]",
        b'"network": {"layers": [' + b",".join([b"-1"] * MANY) + b"]}",
        b'"regularizers": [' + b",".join([b"0"] * MANY) + b"]",
        b'"dropout": {' + b",".join(b'"%d": 2' % i for i in range(MANY)) + b"}",
        b'"tags": {' + b",".join(b'"%d": 2' % i for i in range(MANY)) + b"}",
        b'"optimizer": {' + b",".join(b'"%d": 2' % i for i in range(MANY)) + b"}",
        b",".join(b'"%d": 2' % i for i in range(MANY)),
    ],
    ids=lambda member: member[:12].decode(),
)
@pytest.mark.timeout(20)
def test_very_many_wrong_values_are_refused_by_the_first(shared: Api, member: bytes) -> None:
    """Finding each of them wrong would take minutes and gigabytes for a body within the limit."""
    body = b'{"dataset": "ds_x", "network": {"layers": [null, null]}, ' + member + b"}"
    problem = assert_problem(shared.post("/train", content=body, headers=JSON), 422)
    assert len(problem["errors"]) == 1


def test_a_missing_data_set_is_pointed_at(shared: Api) -> None:
    network = {"layers": [None, None]}
    answer = shared.post("/train", json={"dataset": "ds_x", "network": network})
    assert_problem(answer, 404, "#/dataset")
    body = {"dataset": shared.upload(), "network": network, "validation": {"dataset": "ds_y"}}
    assert_problem(shared.post("/train", json=body), 404, "#/validation/dataset")


@pytest.mark.parametrize("path", BODIES)
def test_a_long_name_is_pointed_at_and_not_repeated(shared: Api, path: str) -> None:
    name = "a" * 70_000
    answer = shared.post(path, json={name: 1})
    problem = assert_problem(answer, 422)
    assert f"#/{name}" in {error["pointer"] for error in problem["errors"]}
    assert len(problem["detail"]) < 2000
