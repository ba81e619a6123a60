"""`/models/{id}/feedback`: predictions against what was observed, added up for good."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service import limits
from service.observe import metrics
from tests.service.conftest import Api, Serve, assert_problem
from tests.service.test_evaluations import CONTENT, TRUTH, evaluated, npz, predicted, trained

CALIBRATE = {"coverage": 0.8, "fraction": 0.3, "num_samples": 20}
ROWS = [[float(a), float(b)] for a, b in zip(TRUTH["a"], TRUTH["b"], strict=True)]
Y, Z = TRUTH["y"].astype(float).tolist(), TRUTH["z"].astype(float).tolist()


def given(api: Api, model: str, **body: Any) -> dict[str, Any]:
    answer = api.post(f"/models/{model}/feedback", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/models/{answer.json()['model']}/feedback"
    told: dict[str, Any] = answer.json()
    return told


def known(api: Api, model: str) -> dict[str, Any]:
    answer = api.get(f"/models/{model}/feedback")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.fixture(scope="module")
def dataset(shared: Api) -> str:
    return shared.upload(CONTENT)


@pytest.fixture(scope="module")
def calibrated(shared: Api, dataset: str) -> str:
    return trained(shared, dataset, inputs=["a", "b"], targets=["y"], calibrate=CALIBRATE)


@pytest.fixture(scope="module")
def classifier(shared: Api, dataset: str) -> str:
    return trained(shared, dataset, inputs=["a", "b"], targets=["third"], calibrate=CALIBRATE)


@pytest.fixture(autouse=True)
def _forgotten(shared: Api, calibrated: str, classifier: str) -> None:
    for model in (calibrated, classifier):
        assert shared.delete(f"/models/{model}/feedback").status_code == 204


def test_scores_are_those_of_an_evaluation_by_the_same_passes(
    shared: Api, dataset: str, calibrated: str
) -> None:
    told = given(shared, calibrated, inputs=ROWS, targets=Y, seed=11)
    assert (told["num_samples"], told["seed"], told["warnings"]) == (20, 11, [])
    scores = evaluated(shared, model=calibrated, dataset=dataset, num_samples=20, seed=11)
    added = told["added"]
    for name in ("rmse", "mae", "log_likelihood"):
        assert added[name] == pytest.approx(scores[name], rel=1e-9), name
    for name in ("coverage", "width", "level"):
        assert added["interval"][name] == pytest.approx(scores["interval"][name]), name
    assert added["rows"] == 60
    assert told["totals"] == told["recent"] == added


def test_sets_are_those_of_an_evaluation(shared: Api, dataset: str, classifier: str) -> None:
    labels = TRUTH["third"].tolist()
    added = given(shared, classifier, inputs=ROWS, targets=labels, seed=3)["added"]
    scores = evaluated(shared, model=classifier, dataset=dataset, num_samples=20, seed=3)
    for name in ("accuracy", "log_loss", "brier"):
        assert added[name] == pytest.approx(scores[name]), name
    for name in ("coverage", "size", "level"):
        assert added["set"][name] == pytest.approx(scores["set"][name]), name
    assert "interval" not in added
    assert "rmse" not in added


def test_rows_come_in_every_form_that_predict_takes(
    shared: Api, dataset: str, calibrated: str
) -> None:
    first = slice(0, 5)
    records = [{"a": a, "b": b} for a, b in ROWS[first]]
    columns = {"a": [a for a, _ in ROWS[first]], "b": [b for _, b in ROWS[first]]}
    numbers = [0, 1, 2, 3, 4]
    bodies: list[dict[str, Any]] = [
        {"inputs": ROWS[first], "targets": Y[first]},
        {"inputs": records, "targets": {"y": Y[first]}},
        {"inputs": columns, "targets": [{"y": y} for y in Y[first]]},
        {"inputs": {"dataset": dataset, "rows": numbers}},
        {"inputs": {"dataset": dataset, "rows": numbers}, "targets": Y[first]},
    ]
    found = [given(shared, calibrated, seed=1, **body)["added"] for body in bodies]
    for other in found[1:]:
        assert other["rmse"] == pytest.approx(found[0]["rmse"], rel=1e-12)
    whole = given(shared, calibrated, inputs={"dataset": dataset})
    assert whole["added"]["rows"] == 60
    assert whole["totals"]["rows"] == 85


def test_feedback_adds_up_and_survives_the_server(serve: Serve) -> None:
    api = serve()
    dataset = api.upload(CONTENT)
    model = trained(api, dataset, inputs=["a", "b"], targets=["y"], calibrate=CALIBRATE)
    empty: dict[str, Any] = {
        "model": model,
        "totals": None,
        "recent": None,
        "history": [],
        "warnings": [],
    }
    assert known(api, model) == empty
    one = given(api, model, inputs=ROWS[:20], targets=Y[:20], seed=1)
    two = given(api, model, inputs=ROWS[20:], targets=Y[20:], seed=2)
    assert one["added"]["rows"] + two["added"]["rows"] == two["totals"]["rows"] == 60
    expected = (20 * one["added"]["mae"] + 40 * two["added"]["mae"]) / 60
    assert two["totals"]["mae"] == pytest.approx(expected)
    before = known(api, model)
    assert before["totals"] == two["totals"]
    assert [own["rows"] for own in before["history"]] == [60]
    api.put("/aliases/home", json={"model": model})
    again = serve()
    assert known(again, "home") == before
    assert given(again, "home", inputs=ROWS[:1], targets=Y[:1])["totals"]["rows"] == 61
    assert again.delete("/models/home/feedback").status_code == 204
    assert known(again, model) == empty
    given(again, model, inputs=ROWS[:1], targets=Y[:1])
    assert again.delete("/aliases/home").status_code == 204
    assert again.delete(f"/models/{model}").status_code == 204
    assert_problem(again.get(f"/models/{model}/feedback"), 404)
    assert "bernoulli_feedback_rows{" not in again.get("/metrics").text


def test_the_same_key_counts_once(shared: Api, calibrated: str) -> None:
    headers = {"Idempotency-Key": f"feedback-{calibrated}"}
    path, body = f"/models/{calibrated}/feedback", {"inputs": ROWS[:3], "targets": Y[:3]}
    first, second = (shared.post(path, json=body, headers=headers) for _ in range(2))
    assert first.content == second.content
    assert first.headers["location"] == second.headers["location"]
    assert known(shared, calibrated)["totals"]["rows"] == 3
    other = shared.post(path, json={**body, "seed": 1}, headers=headers)
    assert_problem(other, 422)


def test_drift_is_told(shared: Api, calibrated: str) -> None:
    away = [y + 100 for y in Y]
    told = given(shared, calibrated, inputs=ROWS, targets=away)
    interval = told["recent"]["interval"]
    assert (interval["coverage"], interval["differs"], interval["drifted"]) == (0, True, True)
    assert any("fewer than the 80.0%" in text for text in told["warnings"])
    text = shared.get("/metrics").text
    for line in (
        f'bernoulli_feedback_coverage{{model="{calibrated}",rows="all"}} 0.0',
        f'bernoulli_feedback_coverage{{model="{calibrated}",rows="recent"}} 0.0',
        f'bernoulli_feedback_coverage_promised{{model="{calibrated}"}} 0.8',
        f'bernoulli_feedback_rows{{model="{calibrated}"}} 60.0',
    ):
        assert line in text
    shown = [own for own in text.splitlines() if own.startswith("bernoulli_feedback_log_likeli")]
    assert float(shown[0].split()[-1]) == pytest.approx(told["totals"]["log_likelihood"])


def test_metrics_are_of_a_bounded_number_of_models(
    shared: Api, calibrated: str, classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(shared, calibrated, inputs=ROWS[:2], targets=Y[:2])
    given(shared, classifier, inputs=ROWS[:2], targets=["low", "top"])
    monkeypatch.setattr(metrics, "MOST_MODELS", 1)
    text = shared.get("/metrics").text
    assert f'bernoulli_feedback_rows{{model="{classifier}"}} 2.0' in text
    assert f'bernoulli_feedback_rows{{model="{calibrated}"}}' not in text


def test_without_a_calibration_passes_are_those_of_training(shared: Api, dataset: str) -> None:
    model = trained(shared, dataset, inputs=["a", "b"], targets=["y", "z"])
    truths = {"y": Y, "z": Z}
    told = given(shared, model, inputs=ROWS, targets=truths, num_samples=30, seed=5)
    scores = evaluated(shared, model=model, dataset=dataset, num_samples=30, seed=5)
    for name in ("rmse", "mae", "log_likelihood"):
        assert told["added"][name] == pytest.approx(scores[name])
        for target in ("y", "z"):
            expected = scores["targets"][target][name]
            assert told["added"]["targets"][target][name] == pytest.approx(expected)
    assert told["added"]["interval"] is None
    assert any("not calibrated" in text for text in told["warnings"])
    assert given(shared, model, inputs=ROWS, targets=truths)["num_samples"] == 100


def test_a_network_without_dropout_is_compared_by_its_one_pass(shared: Api, dataset: str) -> None:
    model = trained(shared, dataset, inputs=["a", "b"], targets=["y"], hidden_dropout=0)
    told = given(shared, model, inputs=ROWS, targets=Y)
    assert (told["num_samples"], told["seed"]) == (None, None)
    prediction = np.array(predicted(shared, model, dataset)["prediction"])[:, 0]
    expected = np.sqrt(np.mean((prediction - Y) ** 2))
    assert told["added"]["rmse"] == pytest.approx(expected, rel=1e-6)
    assert told["added"]["log_likelihood"] is not None


@pytest.mark.parametrize(
    "way",
    [
        {"dropout": {"in:out": 0.1}, "hidden_dropout": 0.4, "hidden_noise": 0.1},
        {"hidden_dropout": 0, "num_samples": 1},
        {"regularizers": [{"form": "drop_connect", "weight": 0.2}], "masks": "shared"},
    ],
)
def test_the_way_is_the_calibrated_one_whatever_it_is(
    shared: Api, dataset: str, way: dict[str, Any]
) -> None:
    calibrate = {**CALIBRATE, **way}
    model = trained(shared, dataset, inputs=["a", "b"], targets=["y"], calibrate=calibrate)
    told = given(shared, model, inputs=ROWS, targets=Y, seed=2)
    asked = {"num_samples": calibrate["num_samples"], "seed": 2, **way}
    scores = evaluated(shared, model=model, dataset=dataset, **asked)
    assert scores["interval"]["calibrated"] is True
    assert told["added"]["rmse"] == pytest.approx(scores["rmse"])
    assert told["added"]["interval"]["coverage"] == pytest.approx(scores["interval"]["coverage"])


def test_an_ensemble_is_the_one_model_that_it_is(shared: Api, dataset: str) -> None:
    search = {"variants": [{}, {"seed": 2, "hidden_dropout": 0}], "keep": "ensemble"}
    asked = {"inputs": ["a", "b"], "targets": ["y"], "search": search}
    model = trained(shared, dataset, **asked, calibrate=CALIBRATE)
    told = given(shared, model, inputs=ROWS, targets=Y, seed=2)
    scores = evaluated(shared, model=model, dataset=dataset, num_samples=20, seed=2)
    for name in ("rmse", "log_likelihood"):
        assert told["added"][name] == pytest.approx(scores[name])
    assert told["added"]["interval"]["coverage"] == pytest.approx(scores["interval"]["coverage"])


def test_steps_of_sequences_count_as_parts_of_their_row(shared: Api) -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((60, 4, 1))
    dataset = shared.upload(npz(x=x, y=x + 0.1), "application/x-npz")
    layers = [None, {"form": "rnn", "size": 3}, None]
    spec: dict[str, Any] = {"network": {"layers": layers}, "calibrate": CALIBRATE}
    model = trained(shared, dataset, **spec)
    told = given(shared, model, inputs=x.tolist(), targets=(x + 0.1).tolist(), seed=6)
    scores = evaluated(shared, model=model, dataset=dataset, num_samples=20, seed=6)
    assert told["added"]["rmse"] == pytest.approx(scores["rmse"], rel=1e-6)
    interval = told["added"]["interval"]
    assert interval["coverage"] == pytest.approx(scores["interval"]["coverage"])
    assert interval["differs"] is None
    longer = rng.standard_normal((2, 7, 1)).tolist()
    other = shared.post(f"/models/{model}/feedback", json={"inputs": longer, "targets": longer})
    assert_problem(other, 422, "#/inputs")


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"inputs": ROWS[:2]}, 422, "#/targets"),
        ({"targets": Y[:2]}, 422, "#/inputs"),
        ({"inputs": ROWS[:2], "targets": Y[:3]}, 422, "#/targets"),
        ({"inputs": ROWS[:2], "targets": [1.0, "x"]}, 422, "#/targets/1"),
        ({"inputs": ROWS[:2], "targets": {"z": [1, 2]}}, 422, "#/targets"),
        ({"inputs": [[1, 2], [1, "x"]], "targets": Y[:2]}, 422, "#/inputs/1/1"),
        ({"inputs": [], "targets": []}, 422, "#/inputs"),
        ({"inputs": ROWS[:2], "targets": Y[:2], "num_samples": 21}, 422, "#/num_samples"),
        ({"inputs": ROWS[:2], "targets": Y[:2], "hidden_dropout": 0.1}, 422, "#/hidden_dropout"),
        ({"inputs": {"dataset": "ds_none"}}, 404, "#/inputs/dataset"),
        ({"inputs": {"dataset": "DATASET", "rows": [0, 99]}}, 422, "#/inputs/rows/1"),
        ({"inputs": {"dataset": "DATASET", "rows": "x"}}, 422, "#/inputs/rows"),
        ({"inputs": {"dataset": "DATASET", "row": [0]}}, 422, "#/inputs"),
    ],
)
def test_what_makes_no_feedback_is_refused_where_it_stands(
    shared: Api, dataset: str, calibrated: str, body: dict[str, Any], status: int, pointer: str
) -> None:
    inputs = body.get("inputs")
    if isinstance(inputs, dict) and inputs["dataset"] == "DATASET":
        body = {**body, "inputs": {**inputs, "dataset": dataset}}
    answer = shared.post(f"/models/{calibrated}/feedback", json=body)
    assert_problem(answer, status, pointer)
    assert known(shared, calibrated)["totals"] is None


def test_models_without_targets_take_no_feedback(shared: Api, dataset: str) -> None:
    imported = shared.import_model().json()["id"]
    body = {"inputs": [[1, 2]], "targets": [3]}
    told = assert_problem(shared.post(f"/models/{imported}/feedback", json=body), 422)
    assert "imported as weights" in told["detail"]
    form = {"form": "autoencoder", "layers": [None, 2, None]}
    model = trained(shared, dataset, inputs=["a", "b"], network=form)
    told = assert_problem(shared.post(f"/models/{model}/feedback", json=body), 422)
    assert "autoencoder" in told["detail"]
    assert_problem(shared.post("/models/mdl_none/feedback", json=body), 404)
    assert_problem(shared.get("/models/mdl_none/feedback"), 404)
    assert_problem(shared.delete("/models/mdl_none/feedback"), 404)


def test_rows_without_truths_in_the_data_set_are_told(shared: Api, calibrated: str) -> None:
    without = shared.upload(b"a,b\n1,2\n3,4\n")
    body = {"inputs": {"dataset": without}}
    answer = shared.post(f"/models/{calibrated}/feedback", json=body)
    assert_problem(answer, 422, "#/inputs/dataset")
    assert given(shared, calibrated, **body, targets=[1, 2])["added"]["rows"] == 2


def test_too_much_is_a_413(
    shared: Api, dataset: str, calibrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_FLOPS", 1e4)
    body = {"inputs": ROWS, "targets": Y}
    told = assert_problem(shared.post(f"/models/{calibrated}/feedback", json=body), 413)
    assert "fewer rows" in told["detail"]
    monkeypatch.setattr(limits, "MAX_FEEDBACK", 59)
    path, stored = f"/models/{calibrated}/feedback", {"inputs": {"dataset": dataset}}
    assert "at most 59" in assert_problem(shared.post(path, json=stored), 413)["detail"]


def test_a_bundle_takes_feedback_as_the_model_does(shared: Api, calibrated: str) -> None:
    bundle = shared.get(f"/models/{calibrated}/bundle").content
    headers = {"Content-Type": "application/zip"}
    other = shared.post("/models", content=bundle, headers=headers).json()["id"]
    body: dict[str, Any] = {"inputs": ROWS, "targets": Y, "seed": 1}
    one, two = (given(shared, model, **body)["added"] for model in (calibrated, other))
    assert {k: v for k, v in one.items() if k not in ("since", "until")} == {
        k: v for k, v in two.items() if k not in ("since", "until")
    }


def test_who_sees_a_shared_model_tells_what_became_of_it_and_its_owner_resets_it(
    serve: Serve,
) -> None:
    api = serve()
    made = {name: api.state["keys"].create(name, scopes=["predict", "train"]) for name in "ab"}
    one, two = ({"Authorization": f"Bearer {secret}"} for _, secret in made.values())
    api.headers.update(one)
    model = trained(api, api.upload(CONTENT), inputs=["a", "b"], targets=["y"])
    path, body = f"/models/{model}/feedback", {"inputs": ROWS[:3], "targets": Y[:3]}
    assert_problem(api.post(path, json=body, headers=two), 404)
    assert api.patch(f"/models/{model}", json={"shared": True}).status_code == 200
    assert api.post(path, json=body, headers=two).status_code == 201
    assert_problem(api.delete(path, headers=two), 403)
    assert known(api, model)["totals"]["rows"] == 3
    assert model in api.get("/metrics", headers=two).text
    assert api.patch(f"/models/{model}", json={"shared": False}).status_code == 200
    assert_problem(api.get(path, headers=two), 404)
    assert model not in api.get("/metrics", headers=two).text
    assert model in api.get("/metrics").text
    assert api.delete(path).status_code == 204
