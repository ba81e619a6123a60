"""`POST /predict` in one message, as servers give short bodies, and in pieces: one answer."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.prepared import INLINE_BYTES
from tests.service.conftest import Api, Serve

ROW = [[1.0, 2.0]]
DRAWN = {"dropout": {"in:out": 0.5}, "seed": 3}
MANY: dict[str, Any] = {**DRAWN, "num_samples": 20}

GOOD: dict[str, dict[str, Any]] = {
    "one pass": {"inputs": ROW},
    "several rows": {"inputs": [[1, 2], [3.5, -4], [0, 1e3]]},
    "objects": {"inputs": [{"x": [1, 2]}]},
    "columns": {"inputs": {"x": [[1, 2], [3, 4]]}},
    "one drawn pass": {"inputs": ROW, **DRAWN},
    "many passes": {"inputs": ROW, **MANY},
    "some statistics": {"inputs": ROW, **MANY, "statistics": ["mean", "std"]},
    "quantiles": {"inputs": ROW, **MANY, "quantiles": [0.25]},
    "shared masks": {"inputs": ROW, **MANY, "masks": "shared", "row_offset": 5},
    "named outputs": {"inputs": ROW, **MANY, "outputs": ["in:out-predrop"]},
    "a seed of nothing": {"inputs": ROW, "seed": 5},
    "rates of zero": {"inputs": ROW, "dropout": {"in:out": 0}, "num_samples": 3},
    "until it is exact enough": {"inputs": ROW, **MANY, "tolerance": 100.0},
    "much work": {"inputs": ROW * 50, **DRAWN, "num_samples": 20_000},
}
BAD: dict[str, dict[str, Any]] = {
    "no inputs": {},
    "no rows": {"inputs": []},
    "a short row": {"inputs": [[1.0]]},
    "text": {"inputs": [["a", 2.0]]},
    "an unknown column": {"inputs": [{"x": [1, 2], "z": 3}]},
    "too large a number": {"inputs": [[1e300, 10**40]]},
    "an unknown field": {"inputs": ROW, "sample": 3},
    "an unknown model": {"model": "mdl_01aaaaaaaaaaaaaaaaaaaaaaaa", "inputs": ROW},
    "an unknown alias": {"model": "nobody", "inputs": ROW},
    "a model that is no text": {"model": 5, "inputs": ROW},
    "a rate of one": {"inputs": ROW, "dropout": {"in:out": 1}},
    "a pattern of nothing": {"inputs": ROW, "dropout": {"hid9:out": 0.1}},
    "passes of nothing": {"inputs": ROW, "num_samples": 3},
    "a wrong seed": {"inputs": ROW, "seed": -1},
    "an unknown statistic": {"inputs": ROW, **MANY, "statistics": ["mode"]},
    "an unknown data set": {"inputs": {"dataset": "ds_01aaaaaaaaaaaaaaaaaaaaaaaa"}},
    "too much": {"inputs": ROW * 100, **DRAWN, "num_samples": 10**9},
}
AFTER_A_GOOD_ONE: tuple[dict[str, Any], ...] = (
    {"inputs": [[-3, 1e-320]]},
    {"inputs": [[1, 2], [3.5, -4], [0, 1e3]]},
    {"inputs": [{"x": [1, 2]}]},
    {"inputs": {"x": [[1, 2]]}},
    {"inputs": [[0.5] * 2] * 100},
    {"inputs": []},
    {"inputs": [[1.0]]},
    {"inputs": [[1.0, None]]},
    {"inputs": [[True, 1.0]]},
    {"inputs": [["1", 1.0]]},
    {"inputs": [[1e300, 1.0]]},
    {"inputs": [[10**40, 1.0]]},
    {"inputs": "rows"},
    {"inputs": None},
    {"inputs": {"dataset": "ds_01aaaaaaaaaaaaaaaaaaaaaaaa"}},
    {"seed": 0},
    {"seed": 2**53 - 1},
    {"seed": 2**53},
    {"seed": -1},
    {"seed": 1.0},
    {"seed": True},
    {"seed": "1"},
    {"row_offset": 7},
    {"row_offset": -1},
    {"row_offset": None},
    {"row_offset": 1.5},
    {"row_offset": 2**60},
    {"model": 5},
    {"model": None},
    {"model": "nobody"},
    {"model": "m" * 100},
    {"extra": 1},
)
"""What a request may have in the place of what an earlier one had."""
RAW: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "NaN": b'{"model": "m", "inputs": [[NaN, 1]]}',
    "no object": b"[1, 2]",
    "broken text": b'{"model": "\xff"}',
    "no end": b"[" * 5000,
    "a long body": b'{"model": "m", "inputs": [' + b"1," * INLINE_BYTES + b"1]}",
}
HEADERS: dict[str, dict[str, str]] = {
    "another type": {"Content-Type": "text/csv"},
    "no type": {"Content-Type": ""},
    "a parameter": {"Content-Type": "application/json; charset=utf-8"},
    "a kind of JSON": {"Content-Type": "application/merge-patch+json"},
    "gzip": {"Content-Encoding": "gzip"},
    "identity": {"Content-Encoding": "identity"},
    "JSON alone": {"Accept": "application/json"},
    "JSON or whatever": {"Accept": "application/json, */*;q=0.1"},
    "events": {"Accept": "text/event-stream"},
    "a table": {"Accept": "application/vnd.apache.arrow.stream"},
    "no answer": {"Accept": "image/png"},
    "a key that nobody needs": {"Authorization": "Bearer x"},
}
WHERE = ("/predict?", "/predict?x=1", "/predict?request=%7B%7D", "/predict?x=1&x=2", "/predict/")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def model(shared: Api) -> str:
    return str(shared.import_model().json()["id"])


def told(answer: httpx.Response) -> tuple[Any, ...]:
    """What an answer says, but for the name of its request."""
    headers = dict(answer.headers)
    name = headers.pop("x-request-id")
    assert len(name) == 16
    content = answer.content.replace(name.encode(), b"")
    headers["content-length"] = str(len(content))
    return answer.status_code, headers, content


def both(api: Api, **request: Any) -> httpx.Response:
    """Ask for the same in one message, once more, and in pieces; return the one answer."""
    request = {"method": "POST", "url": "/predict", **request}
    plain = api.request(**request)
    again = api.request(**request)  # by what was worked out for the first
    routed = api.request(**request, extensions={"in_pieces": True})
    assert told(plain) == told(again) == told(routed)
    return plain


@pytest.mark.parametrize("name", GOOD)
def test_a_good_request_has_one_answer(shared: Api, model: str, name: str) -> None:
    assert both(shared, json={"model": model, **GOOD[name]}).status_code == 200


@pytest.mark.parametrize("change", AFTER_A_GOOD_ONE, ids=str)
@pytest.mark.parametrize("first", [{}, MANY], ids=["one pass", "many passes"])
def test_what_differs_from_a_good_request_in_rows_and_seed_has_one_answer(
    shared: Api, model: str, first: dict[str, Any], change: dict[str, Any]
) -> None:
    good = {"model": model, "inputs": ROW, **first}
    assert both(shared, json=good).status_code == 200
    answer = both(shared, json={"seed": 3, **good, **change})
    assert answer.status_code in (200, 404, 422)
    if answer.status_code == 200:
        assert answer.json()["row_offset"] == change.get("row_offset", 0)


@given(
    rows=st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), max_size=3),
        max_size=3,
    )
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_rows_after_good_ones_have_one_answer(
    shared: Api, model: str, rows: list[list[float]]
) -> None:
    shared.post("/predict", json={"model": model, "inputs": ROW})
    answer = both(shared, json={"model": model, "inputs": rows})
    assert answer.status_code in (200, 422)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_has_one_problem(shared: Api, model: str, name: str) -> None:
    answer = both(shared, json={"model": model, **BAD[name]})
    assert answer.status_code in (404, 413, 422)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", RAW)
def test_a_broken_body_has_one_problem(shared: Api, name: str) -> None:
    assert both(shared, content=RAW[name], headers=JSON).status_code in (400, 404, 422)


@pytest.mark.parametrize("name", HEADERS)
def test_headers_are_heeded_either_way(shared: Api, model: str, name: str) -> None:
    both(shared, json={"model": model, "inputs": ROW}, headers=HEADERS[name])


def test_the_first_type_of_two_counts(shared: Api, model: str) -> None:
    types = ["application/json", "text/csv"]
    for pair in (types, types[::-1]):
        both(
            shared,
            content=b'{"model": "%s", "inputs": [[1, 2]]}' % model.encode(),
            headers=[("Content-Type", kind) for kind in pair],
        )


@pytest.mark.parametrize("url", WHERE)
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "PUT"])
def test_address_and_method_are_heeded_either_way(
    shared: Api, model: str, method: str, url: str
) -> None:
    both(shared, method=method, url=url, json={"model": model, "inputs": ROW})


def test_keys_are_asked_for_either_way(serve: Serve) -> None:
    api = serve(keys="a-key-of-some-length")
    good = {"Authorization": "Bearer a-key-of-some-length"}
    model = api.import_model(**good).json()["id"]
    body = {"model": model, "inputs": ROW}
    for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (good, 200)):
        assert both(api, json=body, headers=headers).status_code == status


def test_a_short_limit_of_bodies_holds_either_way(serve: Serve) -> None:
    api = serve(max_body_bytes=1024)
    model = api.import_model().json()["id"]
    assert both(api, json={"model": model, "inputs": ROW}).status_code == 200
    assert both(api, json={"model": model, "inputs": ROW * 200}).status_code == 413


def test_an_alias_that_moves_is_followed_at_once(api: Api) -> None:
    for _ in range(3):
        model = api.import_model().json()["id"]
        assert api.put("/aliases/live", json={"model": model}).status_code in (200, 201)
        assert both(api, json={"model": "live", "inputs": ROW}).json()["model"] == model


def test_answers_are_counted_either_way(api: Api) -> None:
    model = api.import_model().json()["id"]
    for body in ({"model": model, "inputs": ROW}, {"model": model}):
        both(api, json=body)
    counts = [line for line in api.get("/metrics").text.splitlines() if 'route="/predict"' in line]
    for status in (200, 422):
        line = f'bernoulli_requests_total{{method="POST",route="/predict",status="{status}"}} 3.0'
        assert line in counts


def test_a_seed_is_drawn_where_anything_depends_on_it(shared: Api, model: str) -> None:
    def seed(**body: Any) -> Any:
        answer = shared.post("/predict", json={"model": model, "inputs": ROW, **body})
        return answer.json()["seed"]

    drawn = {seed(dropout={"in:out": 0.5}) for _ in range(3)}
    assert len(drawn) == 3
    assert None not in drawn
    assert seed() is None
    assert seed(dropout={"in:out": 0.0}) is None
    assert seed(seed=4) == 4
