"""No `inputs`, `sequence` or `generate`, however odd, gives a 5xx: it is answered or pointed at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.data.conftest import npz
from tests.service.conftest import Api
from tests.service.test_sequences import X, trained

SETTINGS = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["a", "b", "", "ab", "2024-01-01", "x"])
)
NAMES = st.sampled_from(["x", "y", "t", "g", "dataset", "rows", "", "é/~"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=20,
)
TABLE = b"g,t,x,y\n" + b"".join(b"%d,%d,%d,%c\n" % (i % 3, i, i, b"ab"[i % 2]) for i in range(45))


@pytest.fixture(scope="module")
def table(shared: Api) -> str:
    return shared.upload(TABLE)


@pytest.fixture(scope="module")
def models(shared: Api, table: str) -> list[str]:
    arrays = shared.upload(npz(x=X[..., :2], y=X[:, -1, 0]), "application/x-npz")
    layers = [None, [3, "rnn"], {"form": "last"}, None]
    of_arrays = trained(shared, arrays, layers, epochs=1)["model"]
    sequence = {"group": "g", "order": "t", "window": 3}
    of_table = trained(shared, table, [None, [3, "gru"], None], sequence=sequence, epochs=1)[
        "model"
    ]
    text = shared.upload(b"abab ab ba\n" * 5, "text/plain")
    sequence = {"order": "position", "window": 4}
    of_text = trained(shared, text, [None, [3, "rnn"], None], sequence=sequence, epochs=1)["model"]
    return [of_arrays, of_table, of_text]


def check(api: Api, path: str, body: dict[str, Any]) -> None:
    answer = api.post(path, json=body)
    assert answer.status_code < 500, (json.dumps(body), answer.text)
    if answer.status_code == 422:
        assert all(error["pointer"].startswith("#") for error in answer.json()["errors"])


@given(which=st.integers(0, 2), inputs=VALUES)
@SETTINGS
def test_any_inputs_are_answered_or_refused(
    shared: Api, models: list[str], which: int, inputs: Any
) -> None:
    check(shared, "/predict", {"model": models[which], "inputs": inputs})


STEPS = st.lists(
    st.fixed_dictionaries({}, optional={"x": SCALARS, "y": SCALARS, "t": SCALARS, "z": SCALARS}),
    max_size=4,
)


@given(inputs=st.lists(STEPS, max_size=3) | st.dictionaries(NAMES, st.lists(st.lists(SCALARS))))
@SETTINGS
def test_any_sequences_of_records_are_answered_or_refused(
    shared: Api, models: list[str], inputs: Any
) -> None:
    check(shared, "/predict", {"model": models[1], "inputs": inputs})


@given(
    inputs=st.lists(st.text("ab \n", max_size=6), max_size=3) | VALUES,
    generate=st.fixed_dictionaries(
        {"steps": st.integers(-1, 5)},
        optional={
            "temperature": st.floats(allow_nan=False, allow_infinity=False) | SCALARS,
            "top_k": st.integers(-1, 9) | SCALARS,
        },
    )
    | VALUES,
    which=st.sampled_from([0, 1, 2, 2, 2]),
    seed=st.integers(0, 9) | st.none(),
)
@SETTINGS
def test_any_request_to_generate_is_answered_or_refused(
    shared: Api, models: list[str], inputs: Any, generate: Any, which: int, seed: int | None
) -> None:
    body = {"model": models[which], "inputs": inputs, "generate": generate, "seed": seed}
    check(shared, "/predict", body)


KEYS = ("group", "time", "stratify")
COLUMNS = st.sampled_from(["g", "t", "x", "y", "z"]) | SCALARS
NUMBERS = st.integers(-1, 50) | SCALARS
SEQUENCE = st.fixed_dictionaries(
    {},
    optional={
        "group": COLUMNS,
        "order": COLUMNS,
        "window": NUMBERS,
        "horizon": NUMBERS,
        "stride": NUMBERS,
        "predict": st.sampled_from(["each", "last"]) | SCALARS,
    },
)


@given(
    sequence=SEQUENCE | VALUES,
    validation=st.sampled_from(
        [
            *(None, 0.1, 0.9, {"rows": [0, 44]}),
            *({"fraction": 0.3, key: column} for key, column in zip(KEYS, "gty", strict=True)),
        ]
    ),
    spec=st.fixed_dictionaries(
        {},
        optional={
            "inputs": st.lists(st.sampled_from(["*", "x", "y", "t", "g"]), min_size=1, max_size=2),
            "targets": st.sampled_from([["y"], ["x"], ["x", "t"], ["g"]]),
            "sample_weight": st.sampled_from(["t", "y", "x"]),
            "rows": st.lists(st.integers(0, 46), max_size=20),
        },
    ),
    last=st.booleans(),
)
@SETTINGS
def test_any_windows_are_planned_or_refused(
    shared: Api, table: str, sequence: Any, validation: Any, spec: dict[str, Any], last: bool
) -> None:
    layers = [None, 3, {"form": "last"}, None] if last else [None, 3, None]
    body = {"dataset": table, "network": {"layers": layers}, "sequence": sequence}
    check(shared, "/train?validate_only=true", {**body, "validation": validation, **spec})
