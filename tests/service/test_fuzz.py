"""No file, record or spec of a table, however odd, gives a 5xx: it is taken, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.conftest import Api
from tests.service.test_sequences import trained
from tests.thoroughness import examples

SETTINGS = settings(
    max_examples=examples(100, 1000),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Every file has a process of its own.
FILES = settings(SETTINGS, max_examples=examples(20, 200))
JSON = {"Content-Type": "application/json"}
FIELDS = st.sampled_from(
    ["", "1", "-2.5", "1e999", "1e-320", "NaN", "inf", "-inf", "0x1f", "1_000", "1,5", "true", "no",
     "2021-02-30", "2021-02-03T04:05:06Z", "99999-01-01", '"', '""', '"a,b"', '"a\nb"', "é",
     "\u202e", "\x00", "\ufeff", "'", "=1+1", "9" * 400, " 3 ", "NULL", "\\N",
     "12:30:00", "a" * 300]
)  # fmt: skip
LINES = st.lists(st.lists(FIELDS, max_size=5), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["Rome", "2021-01-01", "", "1"])
)
NAMES = st.sampled_from(["city", "age", "flag", "since", "y", "x", "", "é/~", "dataset"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=16,
)
TABLE = "city,age,flag,since,y\n" + "".join(
    f"{('Rome', 'Oslo', '')[i % 3]},{i or ''},{('true', 'false')[i % 2]},2021-01-{i + 1:02},{i}\n"
    for i in range(28)
)


def check(answer: Any, sent: object) -> None:
    assert answer.status_code < 500, (sent, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", sent
        assert answer.json()["detail"]
    if answer.status_code == 422:
        assert all(error["pointer"].startswith("#") for error in answer.json()["errors"])


@pytest.fixture(scope="module")
def table(shared: Api) -> str:
    return shared.upload(TABLE.encode())


@pytest.fixture(scope="module")
def model(shared: Api, table: str) -> str:
    layers = [None, 4, None]
    return str(trained(shared, table, layers, epochs=1, hidden_dropout=0.1)["model"])


@given(lines=LINES, delimiter=st.sampled_from(",;\t|"), end=st.sampled_from(["\n", "\r\n", "\r"]))
@FILES
def test_any_csv_is_stored_or_refused(
    shared: Api, lines: list[list[str]], delimiter: str, end: str
) -> None:
    content = end.join(delimiter.join(line) for line in lines).encode()
    headers = {"Content-Type": "text/csv"}
    check(shared.post("/datasets", content=content, headers=headers), content)


@given(value=VALUES, cut=st.integers(0, 40), lines=st.booleans())
@FILES
def test_any_json_is_stored_or_refused(shared: Api, value: Any, cut: int, lines: bool) -> None:
    rows = value if isinstance(value, list) else [value]
    if lines:
        content = "\n".join(json.dumps(row) for row in rows).encode()
    else:
        content = json.dumps(value).encode()
    if cut < 20:
        content = content[: len(content) * cut // 20]
    kind = "application/x-ndjson" if lines else "application/json"
    check(shared.post("/datasets", content=content, headers={"Content-Type": kind}), content)


@given(inputs=VALUES)
@SETTINGS
def test_any_records_are_answered_or_refused(shared: Api, model: str, inputs: Any) -> None:
    check(shared.post("/predict", json={"model": model, "inputs": inputs}), inputs)


@given(records=st.lists(st.dictionaries(NAMES, SCALARS, max_size=5), min_size=1, max_size=3))
@SETTINGS
def test_records_with_any_cells_are_answered_or_refused(
    shared: Api, model: str, records: list[dict[str, Any]]
) -> None:
    whole = {"city": "Rome", "age": 3, "flag": True, "since": "2021-01-05"}
    inputs = [{**whole, **record} for record in records]
    check(
        shared.post("/predict", json={"model": model, "inputs": inputs, "num_samples": 3}), inputs
    )


KEYS = st.sampled_from(
    ["inputs", "targets", "columns", "validation", "sample_weight", "rows", "monitors", "dropout",
     "noise", "regularizers", "training", "noise_precision", "optimizer", "sequence", "patience",
     "gradient_clip", "seed", "batch_size", "input_dropout"]
)  # fmt: skip


@given(spec=st.dictionaries(KEYS, VALUES, max_size=3), layer=VALUES)
@SETTINGS
def test_any_spec_is_planned_or_refused(
    shared: Api, table: str, spec: dict[str, Any], layer: Any
) -> None:
    for layers in ([None, 4, None], [None, layer, None]):
        body = {"dataset": table, "network": {"layers": layers}, **spec}
        check(shared.post("/train", params={"validate_only": "true"}, json=body), body)


@given(
    body=st.dictionaries(
        st.sampled_from(["rows", "level", "levels", "ood", "num_samples", "dropout", "seed"]),
        VALUES | st.lists(st.integers(-1, 30), max_size=4),
        max_size=4,
    ),
    as_job=st.booleans(),
)
@settings(SETTINGS, max_examples=50)
def test_any_evaluation_is_answered_or_refused(
    shared: Api, table: str, model: str, body: dict[str, Any], as_job: bool
) -> None:
    asked = {"model": model, "dataset": table, "num_samples": 2, **body}
    path = "/evaluations" if as_job else "/evaluate"
    check(shared.post(path, content=json.dumps(asked), headers=JSON), asked)
