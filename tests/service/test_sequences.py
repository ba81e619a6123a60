"""Sequences and images over HTTP, from upload to prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.tasks import TASKS
from service.worker import Worker
from tests.engine.data.conftest import npz
from tests.service.conftest import Api, assert_problem

RNG = np.random.default_rng(7)
X = RNG.standard_normal((60, 6, 3))


def trained(api: Api, dataset: str, layers: list[Any], **spec: Any) -> dict[str, Any]:
    """Train to the end and return the job."""
    spec = {"epochs": 2, **spec}
    network = {"layers": layers, **spec.pop("network", {})}
    job = api.train(dataset, network=network, **spec)
    state = api.state
    worker = Worker(
        "sequences",
        jobs=state["jobs"],
        datasets=state["datasets"],
        blobs=state["blobs"],
        tasks=TASKS,
    )
    while worker.work_once():
        pass
    ended: dict[str, Any] = api.get(f"/jobs/{job['id']}").json()
    assert ended["status"] == "succeeded", ended["error"]
    return ended


def predict(api: Api, model: str, inputs: Any, **request: Any) -> dict[str, Any]:
    answer = api.post("/predict", json={"model": model, "inputs": inputs, **request})
    assert answer.status_code == 200, answer.text
    outputs: dict[str, Any] = answer.json()["outputs"]
    return outputs


@pytest.fixture(scope="module")
def regressor(shared: Api) -> str:
    """A model of sequences of 6 steps whose layers do not depend on their number."""
    dataset = shared.upload(npz(x=X, y=X[:, -1, :2]), "application/x-npz")
    layers = [None, 8, {"form": "last"}, None]
    return str(trained(shared, dataset, layers, hidden_dropout=0.2)["model"])


def test_sequences_are_sent_in_every_way(shared: Api, regressor: str) -> None:
    rows = X[:4].tolist()
    stored = shared.upload(npz(x=X, y=X[:, -1, :2]), "application/x-npz")
    expected = predict(shared, regressor, rows)["prediction"]
    assert np.shape(expected) == (4, 2)
    for inputs in (
        {"x": rows},
        [{"x": row} for row in rows],
        {"dataset": stored, "rows": [0, 1, 2, 3]},
    ):
        assert predict(shared, regressor, inputs)["prediction"] == expected
    assert predict(shared, regressor, rows[2:3])["prediction"] == expected[2:3]


def test_sequences_of_other_lengths_are_taken_where_the_layers_allow(
    shared: Api, regressor: str
) -> None:
    """These layers read the last step alone, so that what stands before it does not count."""
    expected = predict(shared, regressor, X[:3].tolist())["prediction"]
    for steps in (1, 2, 5):
        rows = X[:3, -steps:].tolist()
        assert predict(shared, regressor, rows)["prediction"] == expected
        assert predict(shared, regressor, {"x": rows})["prediction"] == expected
    longer = np.concatenate([X[:3], X[:3]], axis=1)
    assert predict(shared, regressor, longer.tolist())["prediction"] == expected
    stored = shared.upload(npz(x=longer), "application/x-npz")
    assert predict(shared, regressor, {"dataset": stored})["prediction"] == expected
    many = predict(shared, regressor, longer.tolist(), num_samples=5, seed=1, outputs=["hid1:out"])
    assert np.shape(many["hid1:out"]["mean"]) == (3, 12, 8)


def test_all_rows_of_a_request_have_one_length(shared: Api, regressor: str) -> None:
    rows = [X[0].tolist(), X[1, :5].tolist()]
    body = {"model": regressor, "inputs": rows}
    assert_problem(shared.post("/predict", json=body), 422, "#/inputs/1")


@pytest.mark.parametrize(
    ("inputs", "pointer"),
    [
        ([[[1, 2, None]] * 6], "#/inputs/0/0/2"),
        ({"x": [[[1, 2, 3]] * 6, [[1, 2, 3]] * 5 + [[1, "2", 3]]]}, "#/inputs/x/1/5/1"),
        ([{"x": [[1, 2]] * 6}], "#/inputs/0/x/0"),
        ({"x": [[[1, 2, 3]], [[1, 2, 3]] * 2]}, "#/inputs/x/1"),
        ([[[[1]]]], "#/inputs/0/0"),
        ([[]], "#/inputs/0"),
        ([[[]]], "#/inputs/0/0"),
        ([None], "#/inputs/0"),
        ({"x": {}}, "#/inputs/x"),
        ({"x": [{}]}, "#/inputs/x/0"),
        ({"z": [[1]]}, "#/inputs"),
    ],
    ids=str,
)
def test_odd_inputs_are_pointed_at(shared: Api, regressor: str, inputs: Any, pointer: str) -> None:
    body = {"model": regressor, "inputs": inputs}
    assert_problem(shared.post("/predict", json=body), 422, pointer)


def test_images_and_plain_columns_enter_by_layers_of_their_own(shared: Api) -> None:
    arrays = {"s": X, "age": X[:, 0, 0] * 3 + 40, "y": X[:, -1, 0]}
    dataset = shared.upload(npz(**arrays), "application/x-npz")
    layers = [
        {"name": "s", "form": "input"},
        {"name": "last", "form": "last", "inputs": "s"},
        {"name": "age", "form": "input"},
        {"name": "hid", "size": 4, "inputs": ["last", "age"]},
        None,
    ]
    job = trained(shared, dataset, layers, inputs=["s", "age"])
    expected = predict(shared, job["model"], {"dataset": dataset, "rows": [0, 1]})["prediction"]
    records = [{"s": X[i].tolist(), "age": arrays["age"][i]} for i in (0, 1)]
    assert predict(shared, job["model"], records)["prediction"] == expected
    columns = {name: arrays[name][:2].tolist() for name in ("s", "age")}
    assert predict(shared, job["model"], columns)["prediction"] == expected
    del records[1]["age"]
    answer = shared.post("/predict", json={"model": job["model"], "inputs": records})
    assert_problem(answer, 422, "#/inputs/1/age")
