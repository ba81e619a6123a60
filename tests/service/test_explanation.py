"""`explain`: the shares of sites in every form of an answer, and what cannot be explained."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from service import limits
from service.answer_tables import ANSWER, STREAM
from tests.service.conftest import Api, assert_problem
from tests.service.test_predictions import named, trained

World = tuple[Api, str, str]


@pytest.fixture(scope="module")
def world(shared: Api) -> World:
    """A server with a table and a model of its `y` and `z`."""
    dataset = shared.upload(named())
    return shared, dataset, trained(shared, dataset, inputs=["a", "b"], targets=["y", "z"])


def body(world: World, **more: Any) -> dict[str, Any]:
    _, dataset, model = world
    asked = {"model": model, "inputs": {"dataset": dataset}, "num_samples": 30, "seed": 5}
    return asked | {"input_dropout": 0.2, "hidden_dropout": 0.5, "explain": True} | more


def test_shares_add_up_and_the_rest_of_the_answer_stays_the_same(world: World) -> None:
    api, _, _ = world
    answer = api.post("/predict", json=body(world)).json()
    explain = answer.pop("explain")
    assert answer == api.post("/predict", json=body(world, explain=False)).json()
    assert [site["site"] for site in explain["sites"]] == ["in:out", "hid1:out"]
    shares = [np.array(each["share"]) for each in (*explain["sites"], explain["interaction"])]
    assert np.add.reduce(shares) == pytest.approx(np.ones((40, 2)))
    std = np.array(answer["outputs"]["std"])
    assert np.array(explain["variance"]) == pytest.approx(std**2)
    few = body(world, statistics=["mean"], inputs=[[0.1, 0.2]])
    assert len(api.post("/predict", json=few).json()["explain"]["variance"]) == 1
    again = [api.post("/predict", json=few).json() for _ in range(2)]
    assert again[0] == again[1]


def test_streams_end_with_what_explains_them(world: World) -> None:
    api, _, _ = world
    asked = body(world, num_samples=200)
    whole = api.post("/predict", json=asked).json()["explain"]
    answer = api.post("/predict", json=asked, headers={"Accept": "text/event-stream"})
    told = [orjson.loads(line[6:]) for line in answer.text.splitlines() if line[:5] == "data:"]
    assert [each.get("explain") for each in told] == [None, None, whole]
    table = api.post("/predict", json=asked, headers={"Accept": STREAM})
    metadata = pa.ipc.open_stream(table.content).schema.metadata
    assert orjson.loads(metadata[ANSWER])["explain"] == whole


def test_long_explanations_are_written_piece_by_piece(world: World) -> None:
    api, _, _ = world
    rows = np.random.default_rng(1).uniform(-0.5, 0.5, (5000, 2)).tolist()
    asked = body(world, inputs=rows, statistics=["std"], num_samples=10)
    answer = api.post("/predict", json=asked).json()
    std = np.array(answer["outputs"]["std"])
    assert np.array(answer["explain"]["variance"]) == pytest.approx(std**2)


def test_what_cannot_be_explained_is_refused(world: World) -> None:
    api, _, _ = world
    assert_problem(api.post("/predict", json=body(world, num_samples=None)), 422, "#/explain")
    assert_problem(api.post("/predict", json=body(world, budget_ms=5)), 422, "#/budget_ms")
    assert_problem(api.post("/predict", json=body(world, explain=1)), 422, "#/explain")
    assert_problem(api.post("/predictions", json=body(world)), 422, "#/explain")


def test_the_passes_of_all_sites_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    api, _, _ = world
    asked = body(world, num_samples=1000)
    monkeypatch.setattr(limits, "MAX_FLOPS", 4e7)
    assert api.post("/predict", json=asked | {"explain": False}).status_code == 200
    problem = assert_problem(api.post("/predict", json=asked), 413)
    assert "2 sites" in problem["detail"]


def test_an_ensemble_and_a_classifier_are_explained_by_json(world: World) -> None:
    api, dataset, _ = world
    search = {"variants": [{}, {"seed": 2}], "keep": "ensemble"}
    form = {"form": "classifier", "layers": [None, 4, None]}
    model = trained(api, dataset, inputs=["a", "b"], targets=["kind"], network=form, search=search)
    answer = api.post("/predict", json=body(world, model=model)).json()
    explain = answer["explain"]
    parts = (*explain["sites"], explain["members"], explain["interaction"])
    for name, whole in (("share", "variance"), ("mutual_information_share", "mutual_information")):
        shares = np.add.reduce([np.array(part[name]) for part in parts])
        assert shares == pytest.approx(np.ones(np.shape(explain[whole])))
    assert explain["mutual_information"] == answer["outputs"]["mutual_information"]
