"""`POST /rank`: the rows that a model is least sure of, as its predictions say it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import cuts
from engine.batch_acquisition import choose
from service import limits, rankings
from tests.service.conftest import Api, assert_problem
from tests.service.test_predictions import named, trained

World = tuple[Api, str, dict[str, str]]
COMMON: dict[str, Any] = {"hidden_dropout": 0.5, "num_samples": 30, "seed": 5}


@pytest.fixture(scope="module")
def world(shared: Api) -> World:
    """A server with a table, and models of it by their targets."""
    dataset = shared.upload(named())
    models = {
        name: trained(shared, dataset, inputs=["a", "b"], targets=name.split(","))
        for name in ("kind", "y", "y,z")
    }
    return shared, dataset, models


def ranked(world: World, model: str, **asked: Any) -> dict[str, Any]:
    api, dataset, models = world
    body = {"model": models[model], "dataset": dataset, **COMMON, **asked}
    answer = api.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def predicted(world: World, model: str, **asked: Any) -> dict[str, Any]:
    api, dataset, models = world
    body = {"model": models[model], "inputs": {"dataset": dataset}, **COMMON, **asked}
    outputs: dict[str, Any] = api.post("/predict", json=body).json()["outputs"]
    return outputs


def expected(values: Any, count: int) -> list[dict[str, Any]]:
    order = sorted(range(len(values)), key=lambda row: (-values[row], row))
    return [{"row": row, "score": values[row]} for row in order[:count]]


@pytest.mark.parametrize(
    "by", ["entropy", "expected_entropy", "mutual_information", "variation_ratio"]
)
def test_rows_come_in_the_order_of_what_predict_says(world: World, by: str) -> None:
    values = predicted(world, "kind")[by]
    answer = ranked(world, "kind", by=by, top_k=7)
    assert answer["data"] == expected(values, 7)
    assert (answer["rows"], answer["by"], answer["candidates"]) == (40, by, None)
    assert (answer["seed"], answer["num_samples"], answer["masks"]) == (5, 30, "independent")


def test_regressors_rank_by_deviations_with_or_without_the_noise(world: World) -> None:
    outputs = predicted(world, "y")
    data = ranked(world, "y", by="std")["data"]
    assert data == expected([row[0] for row in outputs["std"]], 10)
    total = np.sqrt(np.array(outputs["variance"]["total"]))[:, 0]
    data = ranked(world, "y", by="predictive_std")["data"]
    assert [each["score"] for each in data] == pytest.approx(np.sort(total)[::-1][:10])


def test_several_targets_count_alike(world: World) -> None:
    api, _, models = world
    std = np.array(predicted(world, "y,z")["std"])
    targets = api.get(f"/models/{models['y,z']}").json()["encoding"]["targets"]
    scaled = std / [target["scale"] for target in targets]
    scores = np.sqrt((scaled**2).mean(axis=1))
    data = ranked(world, "y,z", by="std", top_k=100)["data"]
    assert len(data) == 40
    assert [each["score"] for each in data] == pytest.approx(np.sort(scores)[::-1])
    assert [each["row"] for each in data] == np.argsort(-scores).tolist()


def test_one_pass_ranks_by_its_entropy(world: World) -> None:
    shares = np.array(
        predicted(world, "kind", num_samples=None, hidden_dropout=None)["probabilities"]
    )
    entropy = -(shares * np.log(shares)).sum(axis=1)
    data = ranked(world, "kind", by="entropy", num_samples=None, hidden_dropout=None)["data"]
    assert [each["score"] for each in data] == pytest.approx(np.sort(entropy)[::-1][:10], rel=1e-5)


def test_only_the_rows_asked_for_are_ranked_each_once(world: World) -> None:
    values = predicted(world, "kind")["entropy"]
    rows = [9, 3, 3, 30, 9]
    data = ranked(world, "kind", by="entropy", rows=rows)["data"]
    assert [each["row"] for each in data] == sorted({3, 9, 30}, key=lambda row: -values[row])
    assert {each["score"] for each in data} == {values[row] for row in rows}


def test_a_cut_anywhere_changes_no_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = [{"by": "mutual_information"}, {"by": "batch_bald", "top_k": 5}]
    whole = [ranked(world, "kind", **each) for each in asked]
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 1)
    monkeypatch.setattr(cuts, "MOST_ROWS", 7)
    assert [ranked(world, "kind", **each) for each in asked] == whole


def test_a_batch_is_chosen_by_what_its_labels_tell_together(world: World) -> None:
    shared = predicted(world, "kind", masks="shared", statistics=["samples"])["samples"]
    shares = np.array(shared, dtype=np.float32)
    answer = ranked(world, "kind", by="batch_bald", top_k=5)
    chosen = list(choose(shares, 5, seed=5))
    assert [each["row"] for each in answer["data"]] == [each.index for each in chosen]
    assert [each["score"] for each in answer["data"]] == [each.gain for each in chosen]
    last = answer["data"][-1]["information"]
    assert last == pytest.approx(sum(each.gain for each in chosen))
    assert (answer["masks"], answer["candidates"], answer["warnings"]) == ("shared", 40, [])
    best = ranked(world, "kind", by="mutual_information", masks="shared", top_k=1)["data"][0]
    first = answer["data"][0]
    assert first["row"] == best["row"]
    assert first["mutual_information"] == best["score"] == pytest.approx(first["score"], abs=1e-6)


def test_fewer_candidates_are_those_that_tell_most_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ranked(world, "kind", by="batch_bald", top_k=3)
    monkeypatch.setattr(rankings, "MAX_JOINT", 30 * 2 * 30)
    few = ranked(world, "kind", by="batch_bald", top_k=3)
    assert few["candidates"] == 30
    assert few["warnings"] == []  # so no row beyond could have told more
    assert [each["row"] for each in few["data"]] == [each["row"] for each in whole["data"]]
    monkeypatch.setattr(rankings, "MAX_JOINT", 30 * 2 * 3)
    (warning,) = ranked(world, "kind", by="batch_bald", top_k=3)["warnings"]
    assert "only the 3 rows" in warning


@pytest.mark.parametrize(
    ("model", "asked", "pointer"),
    [
        ("kind", {"by": "std"}, "#/by"),
        ("y", {"by": "entropy"}, "#/by"),
        ("y", {"by": "reconstruction_error"}, "#/by"),
        ("kind", {"by": "margin"}, "#/by"),
        ("kind", {}, "#/by"),
        ("kind", {"by": "batch_bald", "masks": "independent"}, "#/masks"),
        ("kind", {"by": "batch_bald", "num_samples": 4097}, "#/num_samples"),
        ("kind", {"by": "mutual_information", "num_samples": None}, "#/num_samples"),
        ("y", {"by": "std", "num_samples": 1}, "#/num_samples"),
        ("kind", {"by": "entropy", "rows": [0, 40]}, "#/rows/1"),
        ("kind", {"by": "entropy", "rows": []}, "#/rows"),
        ("kind", {"by": "entropy", "top_k": 0}, "#/top_k"),
        ("kind", {"by": "entropy", "statistics": ["std"]}, "#/statistics"),
        ("kind", {"by": "entropy", "dropout": {"hid9:out": 0.5}}, "#/dropout/hid9:out"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    world: World, model: str, asked: dict[str, Any], pointer: str
) -> None:
    api, dataset, models = world
    body = {"model": models[model], "dataset": dataset, **COMMON, **asked}
    assert_problem(api.post("/rank", json=body), 422, pointer)


def test_a_data_set_without_the_models_inputs_is_refused(world: World) -> None:
    api, _, models = world
    other = api.upload(b"c,d\n1,2\n3,4\n")
    body = {"model": models["kind"], "dataset": other, **COMMON, "by": "entropy"}
    assert_problem(api.post("/rank", json=body), 422, "#/dataset")
    unknown = body | {"dataset": "ds_01aaaaaaaaaaaaaaaaaaaaaaaa"}
    assert_problem(api.post("/rank", json=unknown), 404)


def test_too_many_passes_are_refused_with_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, dataset, models = world
    body = {"model": models["kind"], "dataset": dataset, **COMMON, "by": "entropy"}
    monkeypatch.setattr(limits, "MAX_FLOPS", 1e4)
    problem = assert_problem(api.post("/rank", json=body), 413)
    assert "10000 operations" in problem["detail"]
    assert "POST /predictions" in problem["detail"]
