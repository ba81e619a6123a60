"""Rows outside the range of the training rows, as answers and jobs tell of them."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest

from service.answer_tables import ANSWER, STREAM
from tests.service.conftest import Api
from tests.service.test_predictions import finished, named, trained

World = tuple[Api, str, str]


@pytest.fixture(scope="module")
def world(shared: Api) -> World:
    """A server with a table and a model of its `y`."""
    dataset = shared.upload(named())
    return shared, dataset, trained(shared, dataset, inputs=["a", "b"], targets=["y"])


def asked(world: World, inputs: Any, **more: Any) -> dict[str, Any]:
    api, _, model = world
    answer = api.post("/predict", json={"model": model, "inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def test_an_answer_names_the_inputs_that_lie_outside(world: World) -> None:
    assert asked(world, [[0, 0]])["outside"] == []
    rows = [{"a": 0, "b": 0}, {"a": 99, "b": -99}, {"a": 0, "b": 99}]
    outside = [{"row": 1, "inputs": ["a", "b"]}, {"row": 2, "inputs": ["b"]}]
    for more in ({}, {"num_samples": 20}, {"num_samples": 20, "row_offset": 7}):
        answer = asked(world, rows, **more)
        assert answer["outside"] == outside
        assert answer["warnings"] == []


def test_a_model_tells_the_ranges_of_its_inputs(world: World) -> None:
    api, _, model = world
    field = api.get(f"/models/{model}").json()["encoding"]["inputs"][0]
    assert field["low"] < field["mean"] < field["high"]
    inside = [[field["low"], 0], [field["high"], 0]]
    assert asked(world, inside)["outside"] == []


def test_only_so_many_rows_are_listed_and_a_warning_counts_all(world: World) -> None:
    answer = asked(world, [[0, 99]] * 150)
    assert [each["row"] for each in answer["outside"]] == list(range(100))
    (warning,) = answer["warnings"]
    assert "150 rows" in warning
    assert "'b' (150)" in warning
    assert asked(world, [[0, 0]])["warnings"] == []


def test_rows_of_a_stored_data_set_go_by_their_numbers(world: World) -> None:
    api, _, model = world
    far = api.upload(b"a,b\n0,0\n0,0\n99,0\n0,0\n0,-99\n")
    inputs = {"dataset": far, "rows": [4, 0, 2]}
    assert asked(world, inputs)["outside"] == [
        {"row": 4, "inputs": ["b"]},
        {"row": 2, "inputs": ["a"]},
    ]
    body = {"model": model, "inputs": inputs}
    answer = api.post("/predict", json=body, headers={"Accept": STREAM})
    metadata = pa.ipc.open_stream(answer.content).schema.metadata
    assert len(orjson.loads(metadata[ANSWER])["outside"]) == 2


def test_a_job_says_how_many_rows_lay_outside(world: World) -> None:
    api, _, model = world
    far = api.upload(b"a,b\n0,0\n0,0\n99,0\n0,0\n99,-99\n")

    def logged(dataset: str) -> list[str]:
        job = finished(api, model=model, inputs={"dataset": dataset})
        events = api.get(f"/jobs/{job['id']}/events").json()["data"]
        return [each["data"]["message"] for each in events if each["type"] == "log"]

    (told,) = [text for text in logged(far) if "outside" in text]
    assert "warning: 2 rows" in told
    assert "'a' (2), 'b' (1)" in told
