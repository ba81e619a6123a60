"""Calibration over HTTP: a phase of the training job, kept with its model, told by predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine import cuts
from service.model_calibration import ModelCalibration
from tests.e2e.servers import csv_of
from tests.service.conftest import Api, assert_problem

SPEC: dict[str, Any] = {"epochs": 3, "hidden_dropout": 0.2, "network": {"layers": [None, 6, None]}}
CALIBRATE = {"coverage": 0.9, "fraction": 0.25, "num_samples": 20}
STREAM = "application/vnd.apache.arrow.stream"


def finished(api: Api, dataset: str, **spec: Any) -> dict[str, Any]:
    job = api.train(dataset, **{**SPEC, "calibrate": CALIBRATE, **spec})
    api.work()
    found: dict[str, Any] = api.get(f"/jobs/{job['id']}").json()
    assert found["status"] == "succeeded", found
    return found


def asked(model: str, dataset: str, **more: Any) -> dict[str, Any]:
    inputs = {"dataset": dataset, "rows": [0, 1, 2]}
    fields = {"num_samples": 20, "seed": 4, "statistics": ["mean", "interval"]}
    return {"model": model, "inputs": inputs, **fields, **more}


def test_a_calibrated_model_answers_with_intervals_when_asked_for(shared: Api) -> None:
    dataset = shared.upload(csv_of(80))
    job = finished(shared, dataset)
    model = shared.get(f"/models/{job['model']}").json()
    kept = model["calibration"]
    told = job["metrics"]["calibration"]
    assert model["metrics"] == job["metrics"]
    assert (told["rows"], told["promised"], kept["rows"]) == (20, 19 / 21, 20)
    assert told["quantiles"] == kept["quantiles"]
    answer = shared.post("/predict", json=asked(model["id"], dataset)).json()
    interval = answer["outputs"]["interval"]
    mean = np.array(answer["outputs"]["mean"])
    np.testing.assert_allclose(interval["upper"] - mean, kept["quantiles"]["y"], rtol=1e-9)
    np.testing.assert_allclose(mean - interval["lower"], kept["quantiles"]["y"], rtol=1e-9)
    assert (interval["coverage"], interval["calibrated"]) == (0.9, True)
    assert answer["warnings"] == []
    other = shared.post("/predict", json=asked(model["id"], dataset, hidden_dropout=0.1)).json()
    assert other["outputs"]["interval"]["calibrated"] is False
    assert "other dropout" in other["warnings"][0]
    by_default = asked(model["id"], dataset)
    del by_default["statistics"]
    assert "interval" not in shared.post("/predict", json=by_default).json()["outputs"]


def test_arrow_and_stored_predictions_have_the_same_intervals(shared: Api) -> None:
    dataset = shared.upload(csv_of(80))
    body = asked(finished(shared, dataset)["model"], dataset)
    expected = shared.post("/predict", json=body).json()["outputs"]["interval"]
    arrow = shared.post("/predict", json=body, headers={"Accept": STREAM})
    table = pa.ipc.open_stream(arrow.content).read_all()
    job = shared.post("/predictions", json=body).json()
    shared.work()
    result = shared.get(f"/jobs/{job['id']}").json()["result"]["dataset"]
    stored = shared.get(f"/datasets/{result}/content", headers={"Accept": STREAM})
    for found in (table, pa.ipc.open_stream(stored.content).read_all()):
        for side in ("lower", "upper"):
            column = found.column(f"interval_{side}").to_pylist()
            assert column == [row[0] for row in expected[side]]
    metadata = table.schema.metadata[b"bernoulli.answer"].decode()
    assert '"interval":{"coverage":0.9,"calibrated":true}' in metadata


def test_calibration_changes_neither_weights_nor_noise(shared: Api) -> None:
    """The same rows train and validate, so that all else is the same, to the bit."""
    dataset = shared.upload(csv_of(80))
    rows = list(range(60, 80))
    job = finished(shared, dataset, calibrate={"coverage": 0.9, "rows": rows})
    plain = finished(shared, dataset, calibrate=None, rows=list(range(60)))
    one, two = (shared.get(f"/models/{j['model']}/weights").content for j in (job, plain))
    assert one == two
    models = [shared.get(f"/models/{j['model']}").json() for j in (job, plain)]
    assert models[0]["noise_precision"] == models[1]["noise_precision"]
    assert models[0]["encoding"] == models[1]["encoding"]
    assert models[1]["calibration"] is None
    assert "calibration" not in plain["metrics"]


def test_a_model_without_calibration_has_no_interval(shared: Api) -> None:
    dataset = shared.upload(csv_of(40))
    model = finished(shared, dataset, calibrate=None)["model"]
    answer = shared.post("/predict", json=asked(model, dataset))
    assert "not calibrated" in assert_problem(answer, 422, "#/statistics/1")["detail"]


@pytest.mark.parametrize(
    ("calibrate", "pointer"),
    [
        ({"coverage": 0.9}, "#/calibrate"),
        ({"coverage": 0.9, "fraction": 0.2, "rows": [1]}, "#/calibrate"),
        ({"fraction": 0.2}, "#/calibrate/coverage"),
        ({"coverage": 1, "fraction": 0.2}, "#/calibrate/coverage"),
        ({"coverage": [0.9], "fraction": 0.2}, "#/calibrate/coverage"),
        ({"coverage": 0.99, "fraction": 0.2}, "#/calibrate/fraction"),
        ({"coverage": 0.9, "fraction": 0.3, "row_offset": 3}, "#/calibrate/row_offset"),
        ({"coverage": 0.9, "fraction": 0.3, "num_samples": 0}, "#/calibrate/num_samples"),
        ({"coverage": 0.9, "fraction": 0.3, "dropout": {"x*": 0.1}}, "#/calibrate/dropout/x*"),
        (
            {
                "coverage": 0.9,
                "fraction": 0.3,
                "regularizers": [{"form": "weight_l2", "weight": 1}],
            },
            "#/calibrate/regularizers/0",
        ),
    ],
)
def test_what_makes_no_calibration_is_refused_where_it_stands(
    shared: Api, calibrate: dict[str, Any], pointer: str
) -> None:
    body = {"dataset": shared.upload(csv_of(40)), **SPEC, "calibrate": calibrate}
    assert_problem(shared.post("/train", json=body), 422, pointer)


def test_another_data_set_calibrates_and_is_needed_meanwhile(api: Api) -> None:
    dataset, other = api.upload(csv_of(40)), api.upload(csv_of(30, seed=5))
    calibrate = {"coverage": 0.9, "dataset": other}
    body = {"dataset": dataset, **SPEC}
    missing = {"calibrate": {"coverage": 0.9, "dataset": "ds_none"}}
    own = {"calibrate": {"coverage": 0.9, "dataset": dataset}}
    validating = {"calibrate": calibrate, "validation": {"dataset": other}}
    assert_problem(api.post("/train", json={**body, **missing}), 404, "#/calibrate/dataset")
    for wrong in (own, validating):
        assert_problem(api.post("/train", json={**body, **wrong}), 422, "#/calibrate/dataset")
    job = api.train(dataset, **SPEC, calibrate=calibrate)
    assert api.delete(f"/datasets/{other}").status_code == 409
    api.work()
    done = api.get(f"/jobs/{job['id']}").json()
    assert done["metrics"]["calibration"]["rows"] == 30
    again = api.post(f"/jobs/{job['id']}/resume", json={"epochs": 1})
    assert again.status_code == 202
    assert api.delete(f"/datasets/{other}").status_code == 409


@pytest.mark.parametrize("keep", ["best", "ensemble"])
def test_a_search_calibrates_the_model_that_it_leaves(shared: Api, keep: str) -> None:
    dataset = shared.upload(csv_of(80))
    search = {"variants": [{"seed": 1}, {"seed": 2}], "keep": keep}
    job = finished(shared, dataset, search=search)
    model = shared.get(f"/models/{job['model']}").json()
    assert len(model["calibration"]["way"]["acting"]) == (2 if keep == "ensemble" else 1)
    assert job["metrics"]["calibration"]["rows"] == 20
    answer = shared.post("/predict", json=asked(model["id"], dataset)).json()
    assert answer["outputs"]["interval"]["calibrated"] is True
    plan = shared.post(
        "/train?validate_only=true",
        json={"dataset": dataset, **SPEC, "calibrate": CALIBRATE, "search": search},
    ).json()
    assert plan["rows"] == {"train": 54, "valid": 6, "calibration": 20}


def test_calibration_is_the_same_for_all_variants(shared: Api) -> None:
    search = {"variants": [{"calibrate.coverage": 0.8}]}
    body = {"dataset": shared.upload(csv_of(80)), **SPEC, "calibrate": CALIBRATE, "search": search}
    pointer = "#/search/variants/0/calibrate.coverage"
    assert_problem(shared.post("/train", json=body), 422, pointer)


@pytest.mark.parametrize("search", [None, {"variants": [{}, {"seed": 3}], "keep": "ensemble"}])
def test_a_job_stopped_while_it_calibrates_ends_with_the_same_model(
    api: Api, monkeypatch: pytest.MonkeyPatch, search: dict[str, Any] | None
) -> None:
    dataset = api.upload(csv_of(80))
    whole = finished(api, dataset, search=search)
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 1)
    job = api.train(dataset, **SPEC, calibrate=CALIBRATE, search=search)
    begun: list[bool] = []
    steps = ModelCalibration.steps

    def watched(*args: Any) -> Any:
        for step in steps(*args):
            begun.append(True)
            yield step

    monkeypatch.setattr(ModelCalibration, "steps", watched)
    api.worker(should_stop=lambda: len(begun) >= 3).work_once()
    stopped = api.get(f"/jobs/{job['id']}").json()
    assert (stopped["status"], stopped["progress"]["phase"]) == ("queued", "calibrating")
    assert 0 < stopped["progress"]["completed"] < stopped["progress"]["total"] == 20
    api.work()
    done = api.get(f"/jobs/{job['id']}").json()
    models = [api.get(f"/models/{j['model']}").json() for j in (whole, done)]
    assert models[0]["calibration"] == models[1]["calibration"]
    assert models[0]["weights"] == models[1]["weights"]
    assert whole["metrics"] == done["metrics"]


def test_a_cancelled_job_leaves_its_best_calibrated(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 1)
    dataset = api.upload(csv_of(80))
    job = api.train(dataset, **{**SPEC, "epochs": 5000}, calibrate=CALIBRATE)
    calls = iter(range(10**6))

    def stop() -> bool:
        if next(calls) == 40:
            api.post(f"/jobs/{job['id']}/cancel", json={"keep": True})
        return False

    api.worker(should_stop=stop).work_once()
    done = api.get(f"/jobs/{job['id']}").json()
    assert done["status"] == "cancelled"
    assert api.get(f"/models/{done['model']}").json()["calibration"]["rows"] == 20


def test_a_resumed_job_keeps_the_division_and_calibrates_its_own_parameters(shared: Api) -> None:
    dataset = shared.upload(csv_of(80))
    whole = finished(shared, dataset, epochs=5)
    part = finished(shared, dataset, epochs=3)
    made = shared.post(f"/jobs/{part['id']}/resume", json={"epochs": 2}).json()
    shared.work()
    rest = shared.get(f"/jobs/{made['id']}").json()
    models = [shared.get(f"/models/{job['model']}").json() for job in (whole, rest)]
    assert models[0]["weights"] == models[1]["weights"]
    assert models[0]["calibration"] == models[1]["calibration"]
    assert rest["metrics"] == whole["metrics"]


def test_a_classifier_answers_with_sets_in_every_format(shared: Api) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((90, 2))
    kind = np.where(x[:, 0] + rng.standard_normal(90) > 0, "up", "down")
    rows = [f"{a:.4f},{b:.4f},{k}" for (a, b), k in zip(x, kind, strict=True)]
    dataset = shared.upload("\n".join(["a,b,kind", *rows]).encode())
    job = finished(shared, dataset, calibrate={**CALIBRATE, "score": "raps", "fraction": 0.4})
    told = job["metrics"]["calibration"]
    assert (told["rows"], told["score"]) == (18, "raps")
    assert told["temperature"] > 0
    body = asked(job["model"], dataset, statistics=["probabilities", "set"])
    answer = shared.post("/predict", json=body).json()
    found = answer["outputs"]["set"]
    assert (found["coverage"], found["calibrated"], answer["warnings"]) == (0.9, True, [])
    assert len(found["labels"]) == 3
    assert all(set(own) <= {"down", "up"} for own in found["labels"])
    arrow = shared.post("/predict", json=body, headers={"Accept": STREAM})
    later = shared.post("/predictions", json=body).json()
    shared.work()
    result = shared.get(f"/jobs/{later['id']}").json()["result"]["dataset"]
    stored = shared.get(f"/datasets/{result}/content", headers={"Accept": STREAM})
    for content in (arrow.content, stored.content):
        table = pa.ipc.open_stream(content).read_all()
        for name in ("down", "up"):
            inside = [float(name in own) for own in found["labels"]]
            assert table.column(f"set.{name}").to_pylist() == inside
    plain = asked(job["model"], dataset, statistics=["set"], hidden_dropout=0, seed=None)
    assert shared.post("/predict", json=plain).json()["seed"] is not None
    assert_problem(
        shared.post("/predict", json={**body, "statistics": ["interval"]}), 422, "#/statistics/0"
    )
