"""`abstain`: marks of rows in every form of an answer, and what is wrong with thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from service.answer_tables import STREAM
from tests.service.conftest import Api, assert_problem
from tests.service.test_predictions import content, finished, named, trained

World = tuple[Api, str, str]


@pytest.fixture(scope="module")
def world(shared: Api) -> World:
    """A server with a table and a classifier of its `kind`."""
    dataset = shared.upload(named())
    return shared, dataset, trained(shared, dataset, inputs=["a", "b"], targets=["kind"])


def asked(world: World, **more: Any) -> dict[str, Any]:
    _, dataset, model = world
    body = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 30, "seed": 5}
    return body | more


def limit(world: World) -> float:
    """A threshold that some rows are above."""
    found = world[0].post("/predict", json=asked(world)).json()["outputs"]["mutual_information"]
    return float(np.median(found))


def test_marks_are_true_and_false_in_json(world: World) -> None:
    api, _, model = world
    body = asked(world, abstain={"mutual_information": limit(world)})
    outputs = api.post("/predict", json=body).json()["outputs"]
    above = [value > limit(world) for value in outputs["mutual_information"]]
    assert outputs["abstain"] == above
    assert {True, False} == set(above)
    one = {"model": model, "inputs": [[0.1, 0.2], [3, 4]], "abstain": {"probability": 1.0}}
    assert api.post("/predict", json=one).json()["outputs"]["abstain"] == [True, True]


def test_marks_are_a_boolean_column_of_a_stream_and_of_a_stored_answer(world: World) -> None:
    api, _, _ = world
    body = asked(world, abstain={"mutual_information": limit(world)}, statistics=["label"])
    marked = api.post("/predict", json=body).json()["outputs"]["abstain"]
    answer = api.post("/predict", json=body, headers={"Accept": STREAM})
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column_names == ["label", "abstain"]
    assert table.schema.field("abstain").type == pa.bool_()
    assert table.column("abstain").to_pylist() == marked
    stored = content(api, finished(api, **body)["result"]["dataset"])
    assert stored["abstain"] == marked
    assert list(stored) == ["label", "abstain"]


def test_marks_come_with_every_estimate(world: World) -> None:
    api, _, _ = world
    body = asked(world, num_samples=200, abstain={"mutual_information": limit(world)})
    answer = api.post("/predict", json=body, headers={"Accept": "text/event-stream"})
    told = [
        orjson.loads(line.removeprefix("data: "))
        for line in answer.text.splitlines()
        if line.startswith("data: ")
    ]
    assert len(told) == 3
    for each in told:
        above = [value > limit(world) for value in each["outputs"]["mutual_information"]]
        assert each["outputs"]["abstain"] == above


@pytest.mark.parametrize(
    ("abstain", "pointer"),
    [
        ({}, "#/abstain"),
        ({"entropy": None}, "#/abstain"),
        ({"entropy": -0.1}, "#/abstain/entropy"),
        ({"entropy": 0.7}, "#/abstain/entropy"),
        ({"std": {"kind": 0.1}}, "#/abstain/std"),
        ({"probability": 0.5}, "#/abstain/probability"),
        ({"doubt": 0.5}, "#/abstain/doubt"),
        (0.3, "#/abstain"),
    ],
)
def test_wrong_thresholds_are_refused(world: World, abstain: Any, pointer: str) -> None:
    api, _, _ = world
    body = asked(world, abstain=abstain)
    assert_problem(api.post("/predict", json=body), 422, pointer)
    assert_problem(api.post("/predictions", json=body), 422, pointer)


def test_a_threshold_that_few_passes_cannot_reach_is_one_of_all_passes(world: World) -> None:
    # A stored answer's columns are found by two passes; those of the request are what counts.
    api, _, _ = world
    body = asked(world, abstain={"variation_ratio": 0.45}, num_samples=100)
    assert api.post("/predictions", json=body).status_code == 202
    few = asked(world, abstain={"variation_ratio": 0.45}, num_samples=3)
    assert_problem(api.post("/predictions", json=few), 422, "#/abstain/variation_ratio")
