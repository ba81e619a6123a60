"""An ensemble is measured as predictions of it are: its mean, and all its passes together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import special, stats

from engine.artifact import Model, load_model
from engine.data.dataset import Data
from engine.ensembles import ensemble_document, member_seed, plan_model
from engine.run import artifact_of
from engine.search import Search
from engine.search_plan import plan_search
from engine.spec import PredictSpec, SearchSpec, TrainSpec

VALID = [1, 5, 8, 13, 21, 34, 40, 47]
VARIANTS: list[dict[str, Any]] = [{}, {"seed": 2, "network.layers.1.size": 5}, {"seed": 4}]


def data(kind: str) -> Data:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((60, 2))
    y = x.sum(axis=1) * 7 + rng.standard_normal(60) + 3
    target: Any = (
        y if kind != "classifier" else pa.array(["ab"[int(v > 3)] for v in y], pa.large_string())
    )
    more = {"z": x[:, 0] * 100} if kind == "regressor" else {}
    return Data(table=pa.table({"a": x[:, 0], "b": x[:, 1], **more, "y": target}))


def searched(
    kind: str, variants: list[dict[str, Any]], select: str | None = None, **base: Any
) -> tuple[Search, Data]:
    given = data(kind)
    spec = {
        "network": {"layers": [None, [6, "tanh"], None]},
        "inputs": ["a", "b"],
        "targets": ["y", "z"] if kind == "regressor" else ["y"],
        "hidden_dropout": 0.3,
        "epochs": 3,
        "batch_size": 16,
        "validation": {"rows": VALID},
    }
    asked = SearchSpec.model_validate({"variants": variants, "keep": "ensemble", "select": select})
    plan = plan_search(asked, TrainSpec.model_validate(spec | base), given)
    return Search(plan, given, device=torch.device("cpu")), given


def finished(kind: str, variants: list[dict[str, Any]], **base: Any) -> tuple[Search, Data]:
    search, given = searched(kind, variants, **base)
    for _ in search:
        pass
    return search, given


def model_of(search: Search) -> Model:
    documents = [
        (artifact_of(plan, outcome, version="0")[0], outcome.parameters)
        for plan, outcome in search.members()
    ]
    return load_model(*ensemble_document(documents, {}))


def predicted(search: Search, given: Data, **asked: Any) -> dict[str, Any]:
    """Predict the validation rows, as `/predict` does for rows of a stored data set."""
    model = model_of(search)
    seed = search.members()[0][0].spec.seed
    plan = plan_model(model, PredictSpec.model_validate(asked), seed=seed)
    rows = np.array(VALID)
    return plan.run(model.encoding.encode_inputs(given, rows), rows)


def truths(given: Data, name: str) -> Any:
    assert given.table is not None
    return np.array(given.table.column(name).to_pylist())[VALID]


def test_a_regressors_are_those_of_its_mean_and_of_its_mixture_of_passes() -> None:
    search, given = finished("regressor", VARIANTS)
    found = search.together().metrics()
    truth = np.stack([truths(given, "y"), truths(given, "z")], axis=1)
    errors = np.asarray(predicted(search, given)["prediction"], np.float64) - truth
    squares = (errors**2).mean(axis=0)
    valid = found["valid"]
    assert valid["rmse"] == pytest.approx(np.sqrt(squares).mean(), rel=1e-5)
    assert valid["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert valid["r2"] == pytest.approx(np.mean(1 - squares / truth.var(axis=0)), rel=1e-5)
    scale = search.members()[0][0].encoding.target_scale
    assert valid["loss"] == pytest.approx(((errors / scale) ** 2).mean(), rel=1e-5)
    samples = predicted(search, given, num_samples=100, statistics=["samples"])["samples"]
    assert len(samples) == 300
    precision = [
        [outcome.noise_precision[name] for name in ("y", "z")]
        for _, outcome in search.members()
        if outcome.noise_precision is not None
    ]
    sigma = np.tile(np.array(precision), (100, 1))[:, None, :] ** -0.5  # members take turns
    logs = special.logsumexp(stats.norm.logpdf(truth, samples, sigma), axis=0) - np.log(300)
    assert valid["log_likelihood"] == pytest.approx(logs.mean(), rel=1e-5)
    losses = [outcome.metrics["train"]["loss"] for _, outcome in search.members()]
    assert found["train"] == {"loss": pytest.approx(np.mean(losses))}


def test_a_classifiers_are_those_of_its_mean_probabilities() -> None:
    search, given = finished("classifier", VARIANTS)
    valid = search.together().metrics()["valid"]
    classes = list(model_of(search).encoding.classes or ())
    truth = np.array([classes.index(label) for label in truths(given, "y")])
    plain = np.asarray(predicted(search, given)["probabilities"], np.float64)
    rows = np.arange(len(truth))
    assert valid["accuracy"] == np.mean(plain.argmax(axis=1) == truth)
    assert valid["loss"] == pytest.approx(-np.log(plain[rows, truth]).mean(), rel=1e-5)
    asked = {"num_samples": 100, "statistics": ["probabilities"]}
    mean = np.asarray(predicted(search, given, **asked)["probabilities"], np.float64)
    assert valid["log_likelihood"] == pytest.approx(np.log(mean[rows, truth]).mean(), rel=1e-5)


def test_members_without_dropout_count_as_much_as_those_with() -> None:
    search, given = finished("plain", [{"hidden_dropout": 0}, {"seed": 3}])
    found = search.together().metrics()["valid"]["log_likelihood"]
    model, rows, densities = model_of(search), np.array(VALID), []
    seed = search.members()[0][0].spec.seed
    for index, (plan, outcome) in enumerate(search.members()):
        asked = {"num_samples": 100, "statistics": ["samples"]}
        spec = PredictSpec.model_validate(asked | {"hidden_dropout": plan.spec.hidden_dropout})
        own = plan_model(model.members[index], spec, seed=member_seed(seed, index))
        samples = own.run(model.encoding.encode_inputs(given, rows), rows)["samples"][..., 0]
        assert outcome.noise_precision is not None
        sigma = outcome.noise_precision["y"] ** -0.5
        densities.append(stats.norm.pdf(truths(given, "y"), samples, sigma).mean(axis=0))
    assert found == pytest.approx(np.log(np.mean(densities, axis=0)).mean(), rel=1e-5)


def test_equal_members_are_worth_what_each_is_worth() -> None:
    search, _ = finished("plain", [{}, {}], hidden_dropout=0)
    lone = search.members()[0][1].metrics
    found = search.together().metrics()
    for kind in ("train", "valid"):
        assert set(found[kind]) == set(lone[kind])
        for name, value in lone[kind].items():
            assert found[kind][name] == pytest.approx(value, rel=1e-5)


def test_losses_that_are_not_of_the_same_are_not_averaged() -> None:
    search, _ = finished("plain", [{}, {"network.loss": "mae"}])
    found = search.together().metrics()
    assert found["train"] == {}
    assert "loss" not in found["valid"]
    assert found["valid"]["rmse"] > 0


def test_without_validation_rows_there_is_the_training_loss_alone() -> None:
    search, _ = finished("plain", [{}, {"seed": 2}], validation=None, select="train.loss")
    found = search.together().metrics()
    assert list(found["train"]) == ["loss"]
    assert found["valid"] == {}


def test_a_search_that_is_stopped_and_restored_measures_the_same() -> None:
    calm, _ = finished("plain", VARIANTS)
    run, _ = searched("plain", VARIANTS)
    for _ in run:
        if run.epochs >= 4:
            break
    again, _ = searched("plain", VARIANTS)
    again.restore(run.state())
    for _ in again:
        pass
    assert again.together().metrics() == calm.together().metrics()
    last, _ = searched("plain", VARIANTS)
    last.restore(again.state())
    assert last.together().metrics() == calm.together().metrics()
