"""Searches over HTTP: refused or planned as a whole, trained as one job, told by variants."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.servers import csv_of
from tests.service.conftest import Api, assert_problem

NETWORK = {"layers": [None, [6, "tanh"], None]}
BASE: dict[str, Any] = {"network": NETWORK, "epochs": 5, "hidden_dropout": 0.1}
GRID = {"hidden_dropout": [0.05, 0.2], "optimizer.learning_rate": [0.001, 0.03]}


def finished(api: Api, **spec: Any) -> dict[str, Any]:
    job = api.train(spec.pop("dataset", None) or api.upload(csv_of(60)), **{**BASE, **spec})
    api.work()
    found: dict[str, Any] = api.get(f"/jobs/{job['id']}").json()
    assert found["status"] == "succeeded", found
    return found


def test_a_search_leaves_one_model_and_tells_each_variants_metrics(api: Api) -> None:
    job = finished(api, search={"grid": GRID})
    answer = api.get(f"/jobs/{job['id']}/variants").json()
    assert answer["has_more"] is False
    variants = answer["data"]
    assert [v["overrides"] for v in variants] == [
        {"hidden_dropout": rate, "optimizer.learning_rate": step}
        for rate in GRID["hidden_dropout"]
        for step in GRID["optimizer.learning_rate"]
    ]
    assert [v["status"] for v in variants] == ["succeeded"] * 4
    likelihoods = [v["metrics"]["valid"]["log_likelihood"] for v in variants]
    best = likelihoods.index(max(likelihoods))
    assert [v["selected"] for v in variants] == [index == best for index in range(4)]
    model = api.get(f"/models/{job['model']}").json()
    assert model["metrics"] == job["metrics"]
    assert job["metrics"]["search"]["variant"] == best
    assert job["metrics"]["search"]["valid"] == variants[best]["metrics"]["valid"]
    assert job["metrics"]["valid"] == {}
    assert model["noise_precision"] == variants[best]["noise_precision"]
    assert model["spec"]["hidden_dropout"] == variants[best]["overrides"]["hidden_dropout"]
    assert model["kept_epoch"] == variants[best]["kept_epoch"]


def test_the_refit_of_the_best_tells_how_fast_it_is(api: Api) -> None:
    progress = finished(api, search={"grid": GRID})["progress"]
    assert progress["phase"] == "refitting"
    assert progress["completed"] == progress["total"]
    assert progress["rows_per_second"] > 0
    assert progress["eta_seconds"] == 0


def test_a_variant_has_the_metrics_of_the_job_alone(api: Api) -> None:
    dataset = api.upload(csv_of(60))
    job = finished(
        api, dataset=dataset, search={"variants": [{"hidden_dropout": 0.3}], "refit": False}
    )
    alone = finished(api, dataset=dataset, hidden_dropout=0.3)
    (variant,) = api.get(f"/jobs/{job['id']}/variants").json()["data"]
    assert variant["metrics"] == alone["metrics"]
    assert {k: v for k, v in job["metrics"].items() if k != "search"} == alone["metrics"]
    weights = [api.get(f"/models/{j['model']}/weights").content for j in (job, alone)]
    assert weights[0] == weights[1]


def test_events_tell_of_variants_the_choice_and_the_epochs_of_the_refit(api: Api) -> None:
    job = finished(api, search={"grid": GRID})
    events = api.get(f"/jobs/{job['id']}/events").json()["data"]
    assert sum(event["type"] == "variant" for event in events) == 8
    (selected,) = [event["data"] for event in events if event["type"] == "selected"]
    assert selected["by"] == "valid.log_likelihood"
    epochs = [event["data"]["epoch"] for event in events if event["type"] == "epoch"]
    assert epochs == list(range(1, job["metrics"]["search"]["kept_epoch"] + 1))
    log = api.get(f"/jobs/{job['id']}/regularizers").json()["data"]
    assert [entry["form"] for entry in log] == ["bernoulli_dropout"]
    assert [line["epoch"] for line in log[0]["history"]] == epochs


@pytest.mark.parametrize("keep", ["best", "ensemble"])
def test_without_a_refit_the_epochs_told_are_those_of_the_chosen_variant(
    api: Api, keep: str
) -> None:
    dataset = api.upload(csv_of(60))
    search = {"grid": {"hidden_dropout": [0.05, 0.2]}, "keep": keep, "refit": False}
    job = finished(api, dataset=dataset, search=search)
    alone = finished(api, dataset=dataset, **job["metrics"]["search"]["overrides"])

    def told(of: dict[str, Any]) -> tuple[Any, Any]:
        events = api.get(f"/jobs/{of['id']}/events?limit=1000").json()["data"]
        epochs = [event["data"] for event in events if event["type"] == "epoch"]
        return epochs, api.get(f"/jobs/{of['id']}/regularizers").json()["data"]

    epochs, log = told(job)
    assert (epochs, log) == told(alone)
    assert len(epochs) == len(log[0]["history"]) == 5


def test_an_ensemble_is_one_model_whose_members_are_the_variants(api: Api) -> None:
    dataset = api.upload(csv_of(60))
    search = {"variants": [{"seed": 1}, {"seed": 2}, {"seed": 3}], "keep": "ensemble"}
    job = finished(api, dataset=dataset, search=search)
    variants = api.get(f"/jobs/{job['id']}/variants").json()["data"]
    model = api.get(f"/models/{job['model']}").json()
    best = [variant["selected"] for variant in variants].index(True)
    order = [best, *(index for index in range(3) if index != best)]
    told = [(member["metrics"], member["spec"]["seed"]) for member in model["members"]]
    assert told == [(variants[index]["metrics"], index + 1) for index in order]
    assert model["parameter_count"] == 3 * (3 * 6 + 6 + 6 + 1)
    assert {name.split(".")[0] for name in model["parameters"]} == {"0", "1", "2"}
    assert job["metrics"]["search"]["variant"] == best
    assert job["metrics"] == model["metrics"]
    assert set(job["metrics"]["valid"]) == set(variants[0]["metrics"]["valid"])
    losses = [variant["metrics"]["train"]["loss"] for variant in variants]
    assert job["metrics"]["train"] == {"loss": pytest.approx(sum(losses) / 3)}
    request = {"model": job["model"], "inputs": [[0.1, 0.2, 0.3]], "num_samples": 8, "seed": 3}
    asked = {**request, "statistics": ["mean", "samples"]}
    answer = api.post("/predict", json=asked).json()
    samples = answer["outputs"]["samples"]
    assert (len(samples), answer["num_samples"]) == (24, 8)
    mean = sum(sample[0][0] for sample in samples) / 24
    assert answer["outputs"]["mean"][0][0] == pytest.approx(mean)
    assert (
        answer == api.post("/predict", json={**request, "statistics": ["mean", "samples"]}).json()
    )
    plain = api.post("/predict", json={k: request[k] for k in ("model", "inputs")})
    assert plain.status_code == 200, plain.text
    bundle = api.get(f"/models/{job['model']}/bundle").content
    headers = {"Content-Type": "application/zip"}
    copy = api.post("/models", content=bundle, headers=headers).json()
    assert copy["parameters"] == model["parameters"]
    again = api.post("/predict", json={**request, "model": copy["id"]}).json()
    assert again["outputs"]["mean"] == answer["outputs"]["mean"]


def test_a_stored_data_set_is_predicted_by_an_ensemble(api: Api) -> None:
    dataset = api.upload(csv_of(60))
    search = {"grid": {"hidden_dropout": [0.1, 0.3]}, "keep": "ensemble"}
    job = finished(api, dataset=dataset, search=search)
    body = {"model": job["model"], "inputs": {"dataset": dataset}, "num_samples": 20, "seed": 1}
    answer = api.post("/predictions", json=body)
    assert answer.status_code == 202, answer.text
    api.work()
    done = api.get(answer.headers["location"]).json()
    assert done["status"] == "succeeded", done
    rows = api.get(f"/datasets/{done['result']['dataset']}/preview", params={"rows": 1}).json()
    online = api.post("/predict", json={**body, "inputs": {"dataset": dataset, "rows": [0]}}).json()
    assert rows["rows"][0]["mean"] == online["outputs"]["mean"][0][0]


def test_variants_are_listed_before_anything_has_run(api: Api) -> None:
    job = api.train(api.upload(), search={"grid": GRID})
    variants = api.get(f"/jobs/{job['id']}/variants").json()["data"]
    assert [v["status"] for v in variants] == ["queued"] * 4
    plain = api.train(api.upload())
    assert api.get(f"/jobs/{plain['id']}/variants").json()["data"] == []
    assert_problem(api.get("/jobs/job_none/variants"), 404)


def test_a_random_search_draws_by_the_jobs_seed(api: Api) -> None:
    random = {
        "num_variants": 6,
        "distributions": {
            "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "log": True},
            "network.layers.1.size": {"min": 3, "max": 5, "integer": True},
            "hidden_dropout": [0.1, 0.2],
        },
    }
    drawn = []
    dataset = api.upload(csv_of(60))
    for changes in ({}, {}, {"seed": 14}):
        job = api.train(dataset, **{**BASE, **changes}, search={"random": random})
        variants = api.get(f"/jobs/{job['id']}/variants").json()["data"]
        drawn.append([variant["overrides"] for variant in variants])
    assert drawn[0] == drawn[1] != drawn[2]
    for overrides in drawn[0]:
        assert 1e-4 <= overrides["optimizer.learning_rate"] <= 1e-1
        assert overrides["network.layers.1.size"] in (3, 4, 5)
        assert overrides["hidden_dropout"] in (0.1, 0.2)
    api.work()


def test_the_plan_of_a_search_tells_of_its_variants(api: Api) -> None:
    body = {
        "dataset": api.upload(csv_of(60)),
        **BASE,
        "search": {
            "grid": {"network.layers.1.size": [2, 4], "epochs": [9, 18]},
            "halving": {"factor": 2, "min_epochs": 3},
        },
    }
    plan = api.post("/train", params={"validate_only": True}, json=body).json()
    search = plan["search"]
    assert search["num_variants"] == 4
    assert [v["epochs"] for v in search["variants"]] == [9, 18, 9, 18]
    counts = [v["parameter_count"] for v in search["variants"]]
    assert counts == [2 * 5 + 1] * 2 + [4 * 5 + 1] * 2
    assert search["select"] == "valid.log_likelihood"
    assert search["refit"] is True
    assert search["rungs"] == [
        {"epoch": 3, "left": 2},
        {"epoch": 6, "left": 1},
        {"epoch": 12, "left": 1},
    ]
    assert api.get("/jobs").json()["data"] == []


@pytest.mark.parametrize(
    ("search", "pointer", "words"),
    [
        ({}, "#/search", "exactly one of"),
        ({"grid": {}}, "#/search/grid", "at least 1"),
        ({"grid": {"hidden_dropout": []}}, "#/search/grid/hidden_dropout", "at least 1"),
        ({"grid": GRID, "variants": [{}]}, "#/search", "exactly one of"),
        ({"grid": {"rows": [[1]]}}, "#/search/grid/rows/0", "same in all variants"),
        ({"variants": [{}, {"device": "cpu"}]}, "#/search/variants/1/device", "same in all"),
        ({"variants": [{"name": "a"}]}, "#/search/variants/0/name", "none that may vary"),
        ({"grid": {"hidden_dropout": [0.1, 1.5]}}, "#/search/grid/hidden_dropout/1", "less than 1"),
        (
            {"variants": [{"optimizer": {"form": "adam", "learning_rate": "x"}}]},
            "#/search/variants/0/optimizer/learning_rate",
            "must be a number",
        ),
        ({"grid": {"optimizer.beta9": [0.1]}}, "#/search/grid/optimizer.beta9/0", "unknown field"),
        ({"grid": {"a.b": [0.1]}}, "#/search/grid/a.b/0", "'a' is none"),
        (
            {"grid": {"network.layers.7.size": [1]}},
            "#/search/grid/network.layers.7.size/0",
            "the list has 3 entries",
        ),
        (
            {"grid": {"epochs.x": [1]}},
            "#/search/grid/epochs.x/0",
            "set it as a whole",
        ),
        (
            {"variants": [{"optimizer": "adam", "optimizer.learning_rate": 0.1}]},
            "#/search/variants/0/optimizer",
            "set the same field",
        ),
        (
            {"grid": {"dropout.hid9:out": [0.1]}},
            "#/search/grid/dropout.hid9:out/0",
            "hid1:out",
        ),
        ({"grid": GRID, "select": "valid.accuracy"}, "#/search/select", "valid.rmse"),
        ({"grid": GRID, "keep": "some"}, "#/search/keep", "best"),
        ({"grid": GRID, "keep": "ensemble", "refit": True}, "#/search", "leave it out"),
        (
            {
                "variants": [{}, {"network.layers.2.name": "y"}],
                "keep": "ensemble",
                "select": "valid.loss",
            },
            "#/search/variants/1/network.layers.2.name",
            "last layers have the same name",
        ),
        ({"grid": {"network.form": ["regressor", "classifier"]}}, "#/targets", "variant 1"),
        (
            {"grid": {"seed": list(range(40)), "epochs": list(range(1, 40))}},
            "#/search",
            "1560 combinations",
        ),
        (
            {"random": {"num_variants": 2, "distributions": {"epochs": {"min": 3, "max": 2}}}},
            "#/search/random/distributions/epochs",
            "smaller",
        ),
        (
            {"random": {"num_variants": 2, "distributions": {"epochs": {"min": 2, "max": 3}}}},
            "#/search/random/distributions/epochs",
            "integer",
        ),
    ],
    ids=str,
)
def test_a_search_that_cannot_be_met_is_refused_where_it_is_wrong(
    api: Api, search: dict[str, Any], pointer: str, words: str
) -> None:
    body = {"dataset": api.upload(csv_of(60)), **BASE, "search": search}
    answer = api.post("/train", json=body)
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert problem["errors"][0]["pointer"].startswith(pointer), problem
    assert words in problem["errors"][0]["detail"], problem


def test_what_the_rows_do_not_allow_is_refused(api: Api) -> None:
    dataset = api.upload(csv_of(60))
    body: dict[str, Any] = {"dataset": dataset, **BASE, "validation": None}
    body["search"] = {"grid": GRID, "select": "valid.loss"}
    problem = assert_problem(api.post("/train", json=body), 422, "#/search/select")
    assert "without validation rows" in problem["detail"]
    body["search"] = {"grid": {"patience": [3]}}
    assert_problem(api.post("/train", json=body), 422, "#/search/grid/patience/0")
    body["validation"] = {"dataset": api.upload(csv_of(30, seed=1))}
    body["search"] = {"grid": GRID, "refit": True}
    assert_problem(api.post("/train", json=body), 422, "#/search/refit")


def test_a_search_without_validation_rows_is_decided_by_the_training_loss(api: Api) -> None:
    job = finished(api, validation=None, search={"grid": GRID})
    variants = api.get(f"/jobs/{job['id']}/variants").json()["data"]
    losses = [variant["metrics"]["train"]["loss"] for variant in variants]
    assert variants[losses.index(min(losses))]["selected"]


def test_classifiers_are_searched_by_accuracy(api: Api) -> None:
    lines = ["a,b,kind"] + [f"{i % 7},{i % 3},{'cat' if i % 7 > 3 else 'dog'}" for i in range(60)]
    job = finished(
        api,
        dataset=api.upload("\n".join(lines).encode()),
        search={"grid": GRID, "select": "valid.accuracy"},
    )
    variants = api.get(f"/jobs/{job['id']}/variants").json()["data"]
    accuracies = [variant["metrics"]["valid"]["accuracy"] for variant in variants]
    assert variants[accuracies.index(max(accuracies))]["selected"]
    assert variants[0]["noise_precision"] is None
