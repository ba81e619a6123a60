"""Dropout over HTTP against hand-worked numbers: imported identity layers, element by element."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.servers import Server

pytestmark = pytest.mark.processes
WIDTH = 10


@pytest.fixture(scope="module")
def model(server: Server) -> str:
    """in -> hid1 -> hid2 -> hid3 -> hid4 -> out, each passing on what it reads."""
    layers: list[Any] = [WIDTH]
    layers += [{"size": WIDTH, "activation": "linear"} for _ in range(5)]
    weights: dict[str, Any] = {}
    for name in ("hid1", "hid2", "hid3", "hid4", "out"):
        weights[f"{name}.w"] = np.eye(WIDTH, dtype=np.float32)
        weights[f"{name}.b"] = np.zeros(WIDTH, dtype=np.float32)
    answer = server.client.post(
        "/models",
        files={
            "spec": (None, json.dumps({"network": {"layers": layers}}), "application/json"),
            "weights": ("w.safetensors", safetensors.numpy.save(weights)),
        },
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ones(rows: int) -> list[list[float]]:
    return [[1.0] * WIDTH] * rows


def test_every_element_of_a_stochastic_pass_is_zero_or_scaled(server: Server, model: str) -> None:
    z = [[float(i + 1) for i in range(WIDTH)]] * 50
    for rate in (0.1, 0.25, 0.5):
        body = server.predict(model=model, inputs=z, dropout={"hid1:out": rate}, seed=3)
        y = np.array(body["outputs"]["prediction"])
        kept = y != 0
        assert 0 < kept.mean() < 1
        np.testing.assert_allclose(y[kept], (np.array(z) / (1 - rate))[kept], rtol=1e-6)


def test_the_rate_over_a_million_elements(server: Server, model: str) -> None:
    rate = 0.005
    body = server.predict(
        model=model, inputs=ones(100), dropout={"hid2:out": rate}, seed=1,
        num_samples=1000, statistics=["samples"],
    )  # fmt: skip
    y = np.array(body["outputs"]["samples"])
    assert y.shape == (1000, 100, WIDTH)
    assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / y.size)


def test_a_pattern_reaches_hid2_and_hid3_and_no_other(server: Server, model: str) -> None:
    body = server.predict(
        model=model, inputs=ones(40), dropout={"hid[23]:out": 0.5}, seed=5,
        outputs=["in:out", "hid*:out", "*-predrop"],
    )  # fmt: skip
    assert body["dropout"][0]["matched"] == ["hid2:out", "hid3:out"]
    outputs = {name: np.array(value) for name, value in body["outputs"].items()}
    assert (outputs["in:out"] == 1).all()
    assert (outputs["hid1:out"] == 1).all()
    assert set(np.unique(outputs["hid2:out"])) == {0, 2}
    assert set(np.unique(outputs["hid3:out"])) == {0, 4}
    assert np.array_equal(outputs["hid2:out-predrop"], outputs["hid1:out"])
    assert np.array_equal(outputs["hid3:out-predrop"], outputs["hid2:out"])
    assert np.array_equal(outputs["hid4:out"], outputs["hid3:out"])
    assert np.array_equal(outputs["prediction"], outputs["hid3:out"])


def test_overlapping_patterns_compound(server: Server, model: str) -> None:
    body = server.predict(
        model=model, inputs=ones(2000), seed=5, hidden_dropout=0.0,
        dropout={"hid1:out": 0.5, "hid1:*": 0.2}, outputs=["hid1:out"],
    )  # fmt: skip
    y = np.array(body["outputs"]["hid1:out"])
    kept = 0.5 * 0.8
    np.testing.assert_allclose(y[y != 0], 1 / kept, rtol=1e-6)
    assert abs((y != 0).mean() - kept) < 4 * np.sqrt(kept * (1 - kept) / y.size)


def test_everything_includes_input_and_output(server: Server, model: str) -> None:
    body = server.predict(model=model, inputs=ones(2), dropout={"*:out": 0.1})
    assert body["dropout"][0]["matched"] == [
        "in:out", "hid1:out", "hid2:out", "hid3:out", "hid4:out", "out:out",
    ]  # fmt: skip


def test_a_pattern_that_matches_nothing_lists_the_outputs(server: Server, model: str) -> None:
    answer = server.client.post(
        "/predict", json={"model": model, "inputs": ones(1), "dropout": {"hid9:out": 0.1}}
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert problem["errors"][0]["pointer"] == "#/dropout/hid9:out"
    for name in ("in:out", "hid1:pre", "hid4:out", "out:out"):
        assert name in problem["errors"][0]["detail"]


def test_the_same_seed_repeats_an_answer_and_another_does_not(server: Server, model: str) -> None:
    request = {"model": model, "inputs": ones(5), "hidden_dropout": 0.5, "num_samples": 20}
    one = server.client.post("/predict", json={**request, "seed": 7})
    two = server.client.post("/predict", json={**request, "seed": 7})
    other = server.client.post("/predict", json={**request, "seed": 8})
    assert one.content == two.content
    assert one.json()["outputs"] != other.json()["outputs"]
    drawn = server.predict(**request)
    again = server.predict(**request, seed=drawn["seed"])
    assert drawn["outputs"] == again["outputs"]


def test_answers_do_not_depend_on_how_a_request_is_cut(server: Server, model: str) -> None:
    rows = np.random.default_rng(0).standard_normal((9, WIDTH)).tolist()
    request: dict[str, Any] = {"model": model, "hidden_dropout": 0.5, "num_samples": 50, "seed": 2}
    whole = server.predict(inputs=rows, **request)["outputs"]
    first = server.predict(inputs=rows[:4], **request)["outputs"]
    rest = server.predict(inputs=rows[4:], row_offset=4, **request)["outputs"]
    for name in ("mean", "std", "standard_error"):
        assert first[name] + rest[name] == whole[name]


def test_variance_is_zero_exactly_where_no_dropout_reaches(server: Server, model: str) -> None:
    body = server.predict(
        model=model, inputs=ones(6), dropout={"hid3:out": 0.5}, num_samples=30,
        outputs=["hid1:out", "hid3:out", "hid3:out-predrop"],
    )  # fmt: skip
    outputs = body["outputs"]
    assert (np.array(outputs["hid1:out"]["std"]) == 0).all()
    assert (np.array(outputs["hid3:out-predrop"]["std"]) == 0).all()
    assert (np.array(outputs["hid3:out"]["std"]) > 0).any()
    assert (np.array(outputs["variance"]["epistemic"]) > 0).any()


def test_shared_masks_are_one_function_for_all_rows(server: Server, model: str) -> None:
    body = server.predict(
        model=model, inputs=ones(8), hidden_dropout=0.5, num_samples=5, seed=1,
        masks="shared", statistics=["samples"],
    )  # fmt: skip
    y = np.array(body["outputs"]["samples"])
    assert (y == y[:, :1]).all()
