"""Calibrations of trained models: the quantile of their own passes, and intervals made by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine import calibrating, cuts
from engine.artifact import Model, load_model
from engine.batching import run_together
from engine.bundle import bundle_of, read_bundle
from engine.calibrating import Calibrating
from engine.conformal import STD_FLOOR, rank_of
from engine.conformal_sets import chances, class_scores, softened
from engine.data.dataset import Data
from engine.ensembles import ensemble_document, plan_model
from engine.errors import ArtifactError, SpecError
from engine.plan import plan_training
from engine.prediction import never
from engine.run import TrainingRun, artifact_of, encode_rows
from engine.search import Search
from engine.search_plan import plan_search
from engine.spec import PredictSpec, ScoreSpec, SearchSpec, TrainSpec
from engine.streams import stream_key
from engine.tabulation import blocks_of

BASE: dict[str, Any] = {
    "network": {"layers": [None, [6, "tanh"], None]},
    "targets": ["y", "z"],
    "epochs": 2,
    "batch_size": 16,
}


def table(rows: int = 90, seed: int = 3) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 2))
    y = 5 * x[:, 0] + rng.standard_normal(rows)
    z = 1e-3 * (x[:, 1] + rng.standard_normal(rows))
    return Data(table=pa.table({"a": x[:, 0], "b": x[:, 1], "y": y, "z": z}))


def trained(data: Data, **spec: Any) -> tuple[dict[str, Any], bytes]:
    plan = plan_training(TrainSpec.model_validate({**BASE, **spec}), data)
    run = TrainingRun(plan, encode_rows(plan, data, None, torch.device("cpu")))
    for _ in run.staged:
        pass
    return artifact_of(plan, run.outcome(), version="0")


def ensemble(data: Data) -> tuple[dict[str, Any], bytes]:
    asked = {"variants": [{}, {"hidden_dropout": 0.2}, {"seed": 4}], "keep": "ensemble"}
    spec = TrainSpec.model_validate({**BASE, "hidden_dropout": 0.4})
    search = Search(
        plan_search(SearchSpec.model_validate(asked), spec, data),
        data,
        device=torch.device("cpu"),
    )
    for _ in search:
        pass
    members = [
        (artifact_of(plan, outcome, version="0")[0], outcome.parameters)
        for plan, outcome in search.members()
    ]
    return ensemble_document(members, {})


def calibrated(
    made: tuple[dict[str, Any], bytes], data: Data, **asked: Any
) -> tuple[dict[str, Any], bytes]:
    document, weights = made
    spec = ScoreSpec.model_validate({"coverage": 0.8, **asked})
    run = Calibrating(load_model(document, weights), spec, data, None, seed=7)
    for piece in run.pieces():
        piece(never)
    assert run.done == run.total == data.rows
    return document | {"calibration": run.calibration().model_dump(mode="json")}, weights


def answered(model: Model, data: Data, *, seed: int = 1, **asked: Any) -> Mapping[str, Any]:
    plan = plan_model(model, PredictSpec.model_validate(asked), seed=seed)
    return plan.run(model.encoding.encode_inputs(data), np.arange(data.rows))


INTERVAL: dict[str, Any] = {"statistics": ["mean", "std", "interval"]}


@pytest.mark.parametrize("kind", ["alone", "ensemble"])
@pytest.mark.parametrize("score", ["absolute", "normalised"])
def test_the_quantile_is_that_of_the_passes_of_predict(kind: str, score: str) -> None:
    data, other = table(), table(41, seed=4)
    made = ensemble(data) if kind == "ensemble" else trained(data, hidden_dropout=0.4)
    document, weights = calibrated(made, other, score=score, num_samples=20)
    model = load_model(document, weights)
    seed = stream_key(7, "calibration") % 2**53
    found = answered(model, other, seed=seed, num_samples=20, **INTERVAL)
    truth = model.encoding.encode_truth(other)
    residuals = np.abs(truth - found["mean"])
    unit = np.maximum(found["std"], STD_FLOOR * model.encoding.target_scale)
    scores = residuals / unit if score == "normalised" else residuals
    rank = rank_of(41, 0.8)
    expected = np.sort(scores, axis=0)[rank - 1]
    assert list(document["calibration"]["quantiles"].values()) == pytest.approx(expected)
    half = expected * (unit if score == "normalised" else 1)
    interval = found["interval"]
    np.testing.assert_allclose(interval["lower"], found["mean"] - half, rtol=1e-12)
    np.testing.assert_allclose(interval["upper"], found["mean"] + half, rtol=1e-12)
    inside = (interval["lower"] <= truth) & (truth <= interval["upper"])
    # The one on the edge may be lost to rounding.
    assert all(rank - 1 <= count <= rank for count in inside.sum(axis=0))
    assert (interval["coverage"], interval["calibrated"]) == (0.8, True)


def test_pieces_and_their_cut_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = table()
    made = trained(data, hidden_dropout=0.4)
    whole = calibrated(made, table(41), num_samples=5)
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 1)
    monkeypatch.setattr(cuts, "MOST_ROWS", 7)
    assert calibrated(made, table(41), num_samples=5) == whole


@pytest.mark.parametrize(
    ("asked", "is_calibrated", "words"),
    [
        ({"num_samples": 20}, True, ""),
        ({"num_samples": 20, "dropout": {"hid1:*t": 0.4}}, True, ""),
        ({"num_samples": 20, "hidden_dropout": 0.3}, False, "other dropout"),
        ({"num_samples": 20, "hidden_dropout": 0.4, "input_noise": 0.1}, False, "other noise"),
        ({"num_samples": 21}, False, "`num_samples` 21 instead of 20"),
        ({"num_samples": 20, "masks": "shared"}, False, "`masks` 'shared'"),
        ({"num_samples": 20, "tolerance": 1e-9}, True, "ends them earlier"),
    ],
)
def test_only_the_way_of_the_calibration_is_calibrated(
    asked: dict[str, Any], is_calibrated: bool, words: str
) -> None:
    data = table()
    made = calibrated(trained(data, hidden_dropout=0.4), table(41), num_samples=20)
    model = load_model(*made)
    plan = plan_model(model, PredictSpec.model_validate({**asked, **INTERVAL}), seed=1)
    found = plan.answer(model.encoding.encode_inputs(data), np.arange(data.rows)).outputs
    assert found["interval"]["calibrated"] is is_calibrated
    width = found["interval"]["upper"] - found["interval"]["lower"]
    quantiles = list(made[0]["calibration"]["quantiles"].values())
    np.testing.assert_allclose(width, np.broadcast_to(2 * np.array(quantiles), width.shape))
    assert words in " ".join(plan.warnings)
    assert bool(words) == bool(plan.warnings)


def test_passes_that_end_early_are_not_those_of_the_calibration() -> None:
    data = table()
    made = calibrated(trained(data, hidden_dropout=0.4), table(41), num_samples=1000)
    asked = {"num_samples": 1000, "tolerance": 1e9, **INTERVAL}
    model = load_model(*made)
    plan = plan_model(model, PredictSpec.model_validate(asked), seed=1)
    estimate = plan.answer(model.encoding.encode_inputs(data), np.arange(data.rows))
    assert estimate.stopped_by == "tolerance"
    assert estimate.outputs["interval"]["calibrated"] is False


def test_a_network_without_dropout_is_calibrated_for_its_one_pass() -> None:
    data = table()
    model = load_model(*calibrated(trained(data), table(41)))
    found = answered(model, data, num_samples=1, hidden_dropout=0.0, **INTERVAL)
    assert found["interval"]["calibrated"] is True


def test_each_step_and_pixel_has_a_quantile_of_its_own() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((60, 4, 2)).astype(np.float32)
    y = (x.sum(axis=2, keepdims=True) * np.arange(1, 5)[:, None]).astype(np.float32)
    data = Data(arrays={"x": x, "y": y})
    network = {"layers": [None, {"form": "rnn", "size": 3}, None]}
    made = trained(data, network=network, targets=["y"], hidden_dropout=0.2)
    document, weights = calibrated(made, data, num_samples=3)
    (quantiles,) = document["calibration"]["quantiles"].values()
    assert len(quantiles) == 4
    model = load_model(document, weights)
    found = answered(model, data, num_samples=3, **INTERVAL)["interval"]
    np.testing.assert_allclose((found["upper"] - found["lower"])[0, :, 0], 2 * np.array(quantiles))
    longer = model.of_steps(6)
    with pytest.raises(SpecError, match="sequences of 4 steps"):
        plan_model(longer, PredictSpec(num_samples=3, statistics=("interval",)), seed=1)


def test_a_bundle_carries_the_calibration_and_refuses_a_broken_one() -> None:
    data = table()
    document, weights = calibrated(trained(data, hidden_dropout=0.4), table(41), num_samples=4)
    again, _ = read_bundle(bundle_of(document, weights), max_bytes=10**7)
    assert again["calibration"] == document["calibration"]
    changes: tuple[dict[str, Any], ...] = (
        {"quantiles": {"y": 1.0}},
        {"quantiles": {"y": 1.0, "z": [1.0, 2.0]}},
        {"quantiles": {"y": 1.0, "z": -1.0}},
        {"quantiles": {"y": 1.0, "z": "wide"}},
        {"coverage": 1.5},
        {"way": {}},
        {"score": "other"},
    )
    for change in changes:
        broken = document | {"calibration": {**document["calibration"], **change}}
        with pytest.raises(ArtifactError, match="calibration"):
            read_bundle(bundle_of(broken, weights), max_bytes=10**7)


def test_answers_are_cut_and_joined_with_what_holds_for_all_rows() -> None:
    data = table()
    model = load_model(*calibrated(trained(data, hidden_dropout=0.4), table(41), num_samples=100))
    plan = plan_model(model, PredictSpec.model_validate({"num_samples": 100, **INTERVAL}), seed=1)
    x = model.encoding.encode_inputs(data)
    plans = [plan, plan.again(seed=2, row_offset=0)]
    rows = [np.arange(5), np.arange(7)]
    together = run_together(plans, [x[:5], x[:7]], rows)
    for own, part, found in zip(plans, rows, together, strict=True):
        lone = own.run(x[: len(part)], part)
        assert found["interval"].keys() == lone["interval"].keys()
        for name in ("lower", "upper"):
            np.testing.assert_array_equal(found["interval"][name], lone["interval"][name])
        assert found["interval"]["calibrated"] is True
    many = plan.run(model.encoding.encode_inputs(table(9000)), np.arange(9000))
    assert many["interval"]["lower"].shape == (9000, 2)
    assert many["interval"]["coverage"] == 0.8


def kinds(rows: int = 120, seed: int = 3) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 2))
    loud = x[:, 0] + 0.7 * rng.standard_normal(rows)
    names = [["low", "mid", "high"][int(v > -0.5) + int(v > 0.5)] for v in loud]
    kind = pa.array(names, pa.large_string())
    return Data(table=pa.table({"a": x[:, 0], "b": x[:, 1], "kind": kind}))


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
@pytest.mark.parametrize("temperature", [True, False])
def test_sets_are_the_classes_within_the_quantile(score: str, temperature: bool) -> None:
    data, other = kinds(), kinds(81, seed=4)
    made = trained(data, targets=["kind"], hidden_dropout=0.3)
    asked = {"score": score, "temperature": temperature, "num_samples": 20}
    document, weights = calibrated(made, other, **asked)
    kept = document["calibration"]
    assert (kept["rows"], kept["temperature_rows"]) == ((41, 40) if temperature else (81, 0))
    assert (kept["temperature"] is None) != temperature
    model = load_model(document, weights)
    wanted = {"num_samples": 20, "statistics": ["probabilities", "set", "samples"]}
    found = answered(model, data, seed=9, **wanted)
    plain = answered(load_model(*made), data, seed=9, num_samples=20, statistics=["samples"])
    softer = softened(plain["samples"], kept["temperature"] or 1.0)
    np.testing.assert_array_equal(found["samples"], softer)
    np.testing.assert_allclose(found["probabilities"], softer.mean(axis=0), atol=1e-6)
    scores = class_scores(
        found["probabilities"],
        chances(9, np.arange(data.rows), 1)[:, 0],
        score=score,
        penalty=kept["penalty"],
        free_ranks=kept["free_ranks"],
    )
    inside = scores <= kept["quantiles"]["kind"]
    classes = model.encoding.classes
    assert classes is not None
    expected = [[c for c, there in zip(classes, row, strict=True) if there] for row in inside]
    assert found["set"]["labels"].tolist() == expected
    assert (found["set"]["coverage"], found["set"]["calibrated"]) == (0.8, True)
    again = answered(model, data, seed=10, **wanted)["set"]["labels"].tolist()
    assert again != expected
    columns = dict(blocks_of(found, model)[1].columns())
    assert list(columns) == [f"set.{name}" for name in classes]
    np.testing.assert_array_equal(np.stack(list(columns.values()), axis=1), inside)


def test_of_many_rows_no_more_fit_the_temperature_than_can_be_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibrating, "_LEAST_FITTED", 40)
    monkeypatch.setattr(calibrating, "_MOST_FITTED", 1)
    made = trained(kinds(), targets=["kind"])
    document, _ = calibrated(made, kinds(400, seed=4), num_samples=1, hidden_dropout=0)
    kept = document["calibration"]
    assert (kept["rows"], kept["temperature_rows"]) == (200, 40)


def test_noise_is_fitted_by_rows_of_all_the_data_where_not_all_can_be_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model(*trained(table(), targets=["y"]))
    x = np.zeros(1000)
    y = np.random.default_rng(5).standard_normal(1000) * np.repeat([1e-3, 100.0], 500)
    data = Data(table=pa.table({"a": x, "b": x, "y": y, "z": x}))
    monkeypatch.setattr(calibrating, "_LEAST_FITTED", 400)
    monkeypatch.setattr(calibrating, "_MOST_FITTED", 1)
    spec = ScoreSpec.model_validate({"coverage": 0.8, "num_samples": 1, "hidden_dropout": 0})
    run = Calibrating(model, spec, data, None, seed=7, fits_noise=True)
    for piece in run.pieces():
        piece(never)
    ((precision,),) = (own.values() for own in run.noise_precision())
    # Half of the rows vary by 100, so the mean square is 5000; of 400 that are drawn its relative
    # error has a deviation of sqrt(5 / 400): E[v^2] = 3e8 / 2, less 5000^2, over 5000^2 is 5.
    assert 1 / precision == pytest.approx(5000, rel=5 * (5 / 400) ** 0.5)


def test_a_single_pass_is_softened_too() -> None:
    document, weights = calibrated(trained(kinds(), targets=["kind"]), kinds(81, seed=4))
    temperature = document["calibration"]["temperature"]
    found = answered(load_model(document, weights), kinds())["probabilities"]
    plain = answered(load_model({**document, "calibration": None}, weights), kinds())
    np.testing.assert_array_equal(found, softened(plain["probabilities"], temperature))


def test_sets_of_requests_together_are_those_alone() -> None:
    data = kinds()
    made = trained(data, targets=["kind"], hidden_dropout=0.3)
    model = load_model(*calibrated(made, kinds(81, seed=4), num_samples=100))
    asked = {"num_samples": 100, "statistics": ["set"]}
    plan = plan_model(model, PredictSpec.model_validate(asked), seed=1)
    x = model.encoding.encode_inputs(data)
    plans = [plan, plan.again(seed=2, row_offset=3)]
    rows = [np.arange(50), np.arange(70)]
    together = run_together(plans, [x[:50], x[:70]], rows)
    for own, part, found in zip(plans, rows, together, strict=True):
        lone = own.run(x[: len(part)], part)
        assert found["set"]["labels"].tolist() == lone["set"]["labels"].tolist()


def test_each_step_has_a_set() -> None:
    rng = np.random.default_rng(6)
    x = rng.standard_normal((80, 4, 2)).astype(np.float32)
    data = Data(arrays={"x": x, "y": (x[:, :, 0] > 0).astype(np.int64)})
    network = {"layers": [None, {"form": "rnn", "size": 3}, None], "form": "classifier"}
    made = trained(data, network=network, targets=["y"], hidden_dropout=0.2)
    document, weights = calibrated(made, data, num_samples=3)
    assert len(document["calibration"]["quantiles"]["y"]) == 4
    found = answered(load_model(document, weights), data, num_samples=3, statistics=["set"])
    assert found["set"]["labels"].shape == (80, 4)
    assert all(set(own) <= {0, 1} for own in found["set"]["labels"].ravel())
