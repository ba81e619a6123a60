"""`POST /models/{id}/calibrate`: a job that leaves the same weights with another calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from engine import cuts
from engine.streams import stream_key
from service import calibration_job
from tests.e2e.servers import csv_of
from tests.engine.data.conftest import npz
from tests.service.conftest import Api, assert_problem

SPEC: dict[str, Any] = {"epochs": 3, "hidden_dropout": 0.2, "network": {"layers": [None, 6, None]}}
ROWS = list(range(50))


def trained(api: Api, dataset: str, **spec: Any) -> dict[str, Any]:
    job = api.train(dataset, **{**SPEC, "name": "first", **spec})
    api.work()
    model = api.get(f"/jobs/{job['id']}").json()["model"]
    found: dict[str, Any] = api.get(f"/models/{model}").json()
    return found


def asked(api: Api, model: str, **body: Any) -> dict[str, Any]:
    answer = api.post(f"/models/{model}/calibrate", json={"coverage": 0.9, **body})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert (job["kind"], job["spec"]["model"]) == ("calibrate", model)
    return job


def finished(api: Api, model: str, **body: Any) -> dict[str, Any]:
    job = asked(api, model, **body)
    api.work()
    done = api.get(f"/jobs/{job['id']}").json()
    assert done["status"] == "succeeded", done
    assert done["result"] == {"model": done["model"]}
    found: dict[str, Any] = api.get(f"/models/{done['model']}").json()
    assert done["metrics"]["calibration"]["quantiles"] == found["calibration"]["quantiles"]
    return found


@pytest.mark.parametrize("search", [None, {"variants": [{}, {"seed": 2}], "keep": "ensemble"}])
def test_the_new_model_is_the_old_one_with_another_calibration(
    shared: Api, search: dict[str, Any] | None
) -> None:
    model = trained(shared, shared.upload(csv_of(60)), search=search)
    other = shared.upload(csv_of(40, seed=8))
    new = finished(shared, model["id"], dataset=other, num_samples=20, seed=3)
    assert (new["calibrated_from"], new["name"]) == (model["id"], "first")
    assert new["calibration"]["rows"] == 40
    same = ("weights", "encoding", "spec", "noise_precision", "members", "parameters")
    assert {key: new[key] for key in same} == {key: model[key] for key in same}
    assert {k: v for k, v in new["metrics"].items() if k != "calibration"} == model["metrics"]
    again = shared.get(f"/models/{model['id']}").json()
    assert (again["calibration"], again["calibrated_from"]) == (None, None)
    body: dict[str, Any] = {"inputs": {"dataset": other}, "num_samples": 20, "seed": 5}
    plain = {**body, "statistics": ["mean"]}
    means = [
        shared.post("/predict", json={**plain, "model": own["id"]}).json()["outputs"]
        for own in (model, new)
    ]
    assert means[0] == means[1]
    wanted = {**body, "model": new["id"], "statistics": ["interval"]}
    answer = shared.post("/predict", json=wanted).json()
    assert answer["outputs"]["interval"]["calibrated"] is True
    newest = finished(shared, new["id"], dataset=other, coverage=0.5, num_samples=20, seed=3)
    assert newest["calibrated_from"] == new["id"]
    quantiles = [own["calibration"]["quantiles"]["y"] for own in (newest, new)]
    assert quantiles[0] < quantiles[1]
    assert (
        finished(shared, model["id"], dataset=other, coverage=0.5, num_samples=20, seed=3)[
            "calibration"
        ]
        == newest["calibration"]
    )


def test_it_comes_to_what_training_comes_to_on_the_same_rows(shared: Api) -> None:
    dataset = shared.upload(csv_of(80))
    calibrate = {"coverage": 0.9, "rows": list(range(50, 80)), "num_samples": 10, "seed": 4}
    one = trained(shared, dataset, rows=ROWS, calibrate=calibrate)
    two = trained(shared, dataset, rows=ROWS)
    new = finished(shared, two["id"], dataset=dataset, **{**calibrate, "coverage": 0.9})
    assert new["calibration"] == one["calibration"]
    assert new["weights"] == one["weights"]


def test_a_classifier_gets_a_temperature_from_the_network_as_it_was_trained(shared: Api) -> None:
    rows = "\n".join(f"{a},{b},{'up' if (7 * a + b) % 11 > 4 else 'down'}"
                     for a in range(8) for b in range(8))  # fmt: skip
    content = f"a,b,kind\n{rows}".encode()
    model = trained(shared, shared.upload(content))
    other = shared.upload(content + b"\n1,9,up")
    new = finished(shared, model["id"], dataset=other, num_samples=10, seed=1)
    newest = finished(shared, new["id"], dataset=other, num_samples=10, seed=1)
    assert newest["calibration"] == new["calibration"]
    assert new["calibration"]["temperature"] != 1.0


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"dataset": "ds_none"}, 404, "#/dataset"),
        ({"coverage": 2.0}, 422, "#/coverage"),
        ({"coverage": 0.99}, 422, "#/dataset"),
        ({"rows": [1, 2]}, 422, "#/rows"),
        ({"rows": [*range(20), 90]}, 422, "#/rows/20"),
        ({"dropout": {"what*": 0.1}}, 422, "#/dropout/what*"),
        ({"score": "aps"}, 422, "#/score"),
        ({"temperature": True}, 422, "#/temperature"),
        ({"fraction": 0.2}, 422, "#/fraction"),
    ],
)
def test_what_makes_no_calibration_is_refused_where_it_stands(
    shared: Api, change: dict[str, Any], status: int, pointer: str
) -> None:
    model = trained(shared, shared.upload(csv_of(60)))["id"]
    body = {"coverage": 0.9, "dataset": shared.upload(csv_of(40, seed=8)), **change}
    assert_problem(shared.post(f"/models/{model}/calibrate", json=body), status, pointer)


def test_labels_have_to_be_of_the_steps_that_the_model_reads(shared: Api) -> None:
    x = np.random.default_rng(3).standard_normal((40, 4, 2))
    y = (x[..., 0] > 0).astype(np.int64)

    def stored(steps: int, labels: int) -> str:
        content = npz(x=x[:, :steps], y=y[:, :labels])
        return shared.upload(content, "application/x-npz")

    layers = [None, {"form": "rnn", "size": 3}, None]
    network = {"form": "classifier", "layers": layers}
    dataset = stored(4, 4)
    model = trained(shared, dataset, network=network)["id"]
    for path in (f"/models/{model}/calibrate", "/evaluate"):
        body: dict[str, Any] = {"dataset": stored(3, 4), "num_samples": 3}
        body |= {"coverage": 0.5} if "calibrate" in path else {"model": model}
        answer = shared.post(path, json=body)
        assert "labels of shape [3]" in assert_problem(answer, 422, "#/dataset")["detail"]
    asked = {**SPEC, "dataset": dataset, "network": network}
    for key in ("validation", "calibrate"):
        other: dict[str, Any] = {"dataset": stored(4, 3)}
        other |= {"coverage": 0.5} if key == "calibrate" else {}
        answer = shared.post("/train", json={**asked, key: other})
        assert_problem(answer, 422, f"#/{key}/dataset")
    new = finished(shared, model, dataset=stored(1, 1), coverage=0.5, num_samples=3)
    assert np.shape(new["calibration"]["quantiles"]["y"]) == (1,)


def test_rows_that_the_model_has_seen_do_not_calibrate_it(shared: Api) -> None:
    dataset, other = shared.upload(csv_of(80)), shared.upload(csv_of(30, seed=9))
    everything = trained(shared, dataset, validation={"dataset": other})["id"]
    some = trained(shared, dataset, rows=ROWS, validation={"rows": [60]})["id"]
    for model, body, pointer in (
        (everything, {"dataset": dataset}, "#/dataset"),
        (everything, {"dataset": other}, "#/dataset"),
        (some, {"dataset": dataset}, "#/rows"),
        (some, {"dataset": dataset, "rows": [70, 71, 3]}, "#/rows/2"),
        (some, {"dataset": dataset, "rows": [70, 60]}, "#/rows/1"),
    ):
        answer = shared.post(f"/models/{model}/calibrate", json={"coverage": 0.9, **body})
        assert_problem(answer, 422, pointer)
    missing = shared.upload(b"x0,x1,y\n" + b"1,2,3\n" * 20)
    unread = {"coverage": 0.9, "dataset": missing}
    assert_problem(shared.post(f"/models/{some}/calibrate", json=unread), 422, "#/dataset")
    assert_problem(shared.post("/models/mdl_none/calibrate", json=unread), 404)


def test_a_stopped_job_begins_anew_and_ends_the_same(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(api, api.upload(csv_of(60)))["id"]
    other = api.upload(csv_of(40, seed=8))
    whole = finished(api, model, dataset=other, num_samples=20, seed=3)
    monkeypatch.setattr(cuts, "PIECE_NUMBERS", 1)
    job = asked(api, model, dataset=other, num_samples=20, seed=3)
    assert api.delete(f"/models/{model}").status_code == 409
    assert api.delete(f"/datasets/{other}").status_code == 409
    calls = iter([False] * 20 + [True])
    assert api.worker(should_stop=lambda: next(calls)).work_once()
    assert api.get(f"/jobs/{job['id']}").json()["status"] == "queued"
    api.work()
    done = api.get(f"/jobs/{job['id']}").json()
    assert done["status"] == "succeeded"
    assert api.get(f"/models/{done['model']}").json()["calibration"] == whole["calibration"]
    assert api.delete(f"/models/{model}").status_code == 204
    assert calibration_job.score_spec(done["spec"]).seed == 3


@pytest.mark.parametrize("search", [None, {"variants": [{}, {"seed": 2}], "keep": "ensemble"}])
def test_the_noise_is_fitted_anew_where_that_is_asked_for(
    shared: Api, search: dict[str, Any] | None
) -> None:
    model = trained(shared, shared.upload(csv_of(60)), search=search)
    content, y = with_noise(200)
    noisy = shared.upload(content)
    way = {"num_samples": 20, "seed": 3}
    plain = finished(shared, model["id"], dataset=noisy, **way)
    new = finished(shared, model["id"], dataset=noisy, noise_precision="fit", **way)
    assert plain["noise_precision"] == model["noise_precision"]
    assert new["calibration"] == plain["calibration"]
    same = ("weights", "encoding", "spec")
    assert {key: new[key] for key in same} == {key: model[key] for key in same}
    assert new["metrics"]["calibration"]["noise_precision"] == new["noise_precision"]
    members = len(search["variants"]) if search else 1
    asked = {"model": new["id"], "inputs": {"dataset": noisy}, "num_samples": 20}
    seed = stream_key(3, "calibration") % 2**53
    answer = shared.post("/predict", json={**asked, "seed": seed, "statistics": ["samples"]})
    samples = np.array(answer.json()["outputs"]["samples"])[..., 0]
    told = [own["noise_precision"]["y"] for own in new["members"] or [new]]
    for member, precision in enumerate(told):
        own = samples[member::members]
        assert_most_likely(own, y, precision)
    statistics = {**asked, "seed": 1, "statistics": ["variance"]}
    aleatoric = shared.post("/predict", json=statistics).json()["outputs"]["variance"]["aleatoric"]
    assert np.array(aleatoric) == pytest.approx(np.mean([1 / tau for tau in told]))


def with_noise(rows: int) -> tuple[bytes, Any]:
    """Return a table like the one that was trained on, whose targets vary more, and these."""
    head, *lines = csv_of(rows, seed=8).decode().split("\n")
    noise = 5 * np.random.default_rng(2).standard_normal(rows)
    parts = [line.rsplit(",", 1) for line in lines]
    y = np.round([float(value) for _, value in parts] + noise, 6)
    table = [head, *(f"{x},{own:.6f}" for (x, _), own in zip(parts, y, strict=True))]
    return "\n".join(table).encode(), y


def assert_most_likely(samples: Any, truth: Any, precision: float) -> None:
    def likelihood(tau: float) -> float:
        return float(np.log(stats.norm.pdf(truth, samples, tau**-0.5).mean(axis=0)).mean())

    best = likelihood(precision)
    assert all(likelihood(precision * factor) < best for factor in (0.8, 0.95, 1.05, 1.25))


def test_what_has_no_noise_to_fit_is_refused(shared: Api) -> None:
    other = shared.upload(csv_of(40, seed=8))
    layers = [None, 6, {"name": "covar", "size": 1, "activation": "softplus", "inputs": "hid1"},
              {"name": "out", "size": 1, "inputs": "hid1"}]  # fmt: skip
    spec = {"network": {"layers": layers, "loss": "gll"}, "hidden_dropout": None,
            "dropout": {"hid1:out": 0.2}}  # fmt: skip
    model = trained(shared, shared.upload(csv_of(60)), **spec)["id"]
    body = {"coverage": 0.9, "dataset": other, "noise_precision": "fit"}
    answer = shared.post(f"/models/{model}/calibrate", json=body)
    assert_problem(answer, 422, "#/noise_precision")
    body["noise_precision"] = "none"
    assert_problem(shared.post(f"/models/{model}/calibrate", json=body), 422, "#/noise_precision")
