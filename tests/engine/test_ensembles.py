"""Ensembles: statistics of all members' passes, each by its own streams, whatever the cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import special

from engine.artifact import Model, load_model
from engine.bundle import bundle_of, read_bundle
from engine.calibration import mixture_log_likelihood
from engine.data.dataset import Data
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.ensembles import ensemble_document, plan_model
from engine.errors import ArtifactError, SpecError
from engine.prediction import plan_prediction
from engine.run import artifact_of
from engine.search import Search
from engine.search_plan import plan_search
from engine.spec import PredictSpec, SearchSpec, TrainSpec
from engine.streams import stream_key
from tests.engine.networks import random_network, rows_of

ROWS = 40
SEED = 5


def data(kind: str) -> Data:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((ROWS, 3))
    total = x.sum(axis=1) + 0.1 * rng.standard_normal(ROWS)
    y: Any = 10 * total
    if kind == "classifier":
        y = pa.array([["low", "mid", "high"][int(v > -1) + int(v > 1)] for v in total])
        y = y.cast(pa.large_string())
    return Data(table=pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y}))


def ensemble(kind: str = "regressor", **base: Any) -> tuple[dict[str, Any], bytes]:
    spec = {
        "network": {"layers": [None, [6, "tanh"], None]},
        "hidden_dropout": 0.3,
        "epochs": 3,
        "batch_size": 16,
        "validation": 0.25,
    }
    given = data(kind)
    variants = [{}, {"seed": 2, "network.layers.1.size": 5}, {"hidden_dropout": 0.1, "seed": 4}]
    plan = plan_search(
        SearchSpec.model_validate({"variants": variants, "keep": "ensemble"}),
        TrainSpec.model_validate(spec | base),
        given,
    )
    search = Search(plan, given, device=torch.device("cpu"), threads=2)
    for _ in search:
        pass
    found = [
        (artifact_of(own, outcome, version="0")[0], outcome.parameters)
        for own, outcome in search.members()
    ]
    assert len(found) == 3
    return ensemble_document(found, search.metrics())


@pytest.fixture(scope="module")
def regressor() -> Model:
    return load_model(*ensemble())


@pytest.fixture(scope="module")
def classifier() -> Model:
    return load_model(*ensemble("classifier"))


def inputs(rows: int = 7) -> tuple[Inputs, np.ndarray[Any, Any]]:
    x = np.random.default_rng(1).standard_normal((rows, 3)).astype(np.float32)
    return rows_of(x), np.arange(rows)


def ask(model: Model, passes: int | None, *statistics: str, **spec: Any) -> dict[str, Any]:
    asked = PredictSpec.model_validate(
        {"num_samples": passes, "statistics": statistics or None, **spec}
    )
    return plan_model(model, asked, seed=SEED).run(*inputs())


def alone(model: Model, passes: int, **spec: Any) -> list[np.ndarray[Any, Any]]:
    """Each member's passes, drawn by itself."""
    asked = PredictSpec.model_validate({"num_samples": passes, "statistics": ["samples"], **spec})
    seeds = [SEED, *(stream_key(SEED, "member", index) % 2**53 for index in (1, 2))]
    return [
        plan_prediction(own, asked, seed=seed).run(*inputs())["samples"]
        for own, seed in zip(model.members, seeds, strict=True)
    ]


@pytest.mark.parametrize("passes", [2, 64, 200])
def test_statistics_are_those_of_all_members_passes(regressor: Model, passes: int) -> None:
    names = ("mean", "std", "quantiles", "standard_error", "variance", "samples")
    found = ask(regressor, passes, *names)
    drawn = alone(regressor, passes)
    together = np.stack(drawn, axis=1).reshape(3 * passes, 7, 1)
    np.testing.assert_array_equal(found["samples"], together)
    np.testing.assert_allclose(found["mean"], together.mean(axis=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["std"], together.std(axis=0, ddof=1), rtol=1e-4)
    for key, value in found["quantiles"].items():
        expected = np.quantile(together, float(key), axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    errors = sum(own.var(axis=0, ddof=1) / passes for own in drawn)
    np.testing.assert_allclose(found["standard_error"], np.sqrt(errors) / 3, rtol=1e-4)
    noise = np.mean([1 / np.asarray(own.noise_precision) for own in regressor.members])
    np.testing.assert_allclose(found["variance"]["aleatoric"], noise, rtol=1e-6)
    np.testing.assert_allclose(found["variance"]["epistemic"], found["std"] ** 2)


def test_predictive_quantiles_are_those_of_each_pass_with_its_members_noise(
    regressor: Model,
) -> None:
    found = ask(regressor, 50, "predictive_quantiles", "samples", quantiles=[0.05, 0.5])
    taus = np.array([np.asarray(own.noise_precision).ravel()[0] for own in regressor.members])
    for key, values in found["predictive_quantiles"].items():
        for row in range(7):
            z = (values[row, 0] - found["samples"][:, row, 0]) * np.sqrt(np.tile(taus, 50))
            share = torch.special.ndtr(torch.from_numpy(z)).mean().item()
            assert share == pytest.approx(float(key), abs=1e-6)


def test_a_classifiers_uncertainties_are_of_the_mixture(classifier: Model) -> None:
    names = ("probabilities", "entropy", "expected_entropy", "mutual_information")
    found = ask(classifier, 30, *names, "variation_ratio", "label")
    together = np.concatenate(alone(classifier, 30)).astype(np.float64)
    mean = together.mean(axis=0)
    np.testing.assert_allclose(found["probabilities"], mean, atol=1e-6)
    entropy = -(mean * np.log(mean)).sum(axis=-1)
    expected = -(together * np.log(together)).sum(axis=-1).mean(axis=0)
    np.testing.assert_allclose(found["entropy"], entropy, atol=1e-6)
    np.testing.assert_allclose(found["expected_entropy"], expected, atol=1e-5)
    np.testing.assert_allclose(found["mutual_information"], entropy - expected, atol=1e-5)
    votes = np.stack([(together.argmax(axis=-1) == c).mean(axis=0) for c in range(3)])
    np.testing.assert_allclose(found["variation_ratio"], 1 - votes.max(axis=0))


@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_without_passes_the_prediction_is_the_mean_of_the_members(
    kind: str, regressor: Model, classifier: Model
) -> None:
    model = regressor if kind == "regressor" else classifier
    found = ask(model, None)["prediction"]
    plain = PredictSpec()
    each = [
        plan_prediction(own, plain, seed=0).run(*inputs())["prediction"] for own in model.members
    ]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5, atol=1e-5)


def test_members_trained_without_dropout_are_samples_all_the_same() -> None:
    model = load_model(*ensemble(hidden_dropout=0, validation={"rows": [0, 1, 2, 3]}))
    found = ask(model, 1, "mean", "std", "standard_error", hidden_dropout=0)
    each = [
        plan_prediction(own, PredictSpec(), seed=0).run(*inputs())["prediction"]
        for own in model.members
    ]
    np.testing.assert_allclose(found["std"], np.std(each, axis=0, ddof=1), rtol=1e-4)
    assert np.isnan(found["standard_error"]).all()


def test_the_first_passes_are_the_same_however_many_there_are(regressor: Model) -> None:
    few, many = (ask(regressor, passes, "samples")["samples"] for passes in (10, 130))
    np.testing.assert_array_equal(many[:30], few)


def test_an_estimate_that_sharpens_ends_by_tolerance_of_the_passes(regressor: Model) -> None:
    asked = PredictSpec.model_validate(
        {"num_samples": 100_000, "tolerance": 0.5, "statistics": ["mean", "standard_error"]}
    )
    plan = plan_model(regressor, asked, seed=SEED)
    *_, last = plan.estimates(*inputs())
    assert last.stopped_by == "tolerance"
    assert last.outputs["standard_error"].max() <= 0.5
    whole = plan_model(regressor, asked.model_copy(update={"tolerance": None}), seed=SEED)
    again = whole.spec.model_copy(update={"num_samples": last.num_samples})
    mean = plan_model(regressor, again, seed=SEED).run(*inputs())["mean"]
    np.testing.assert_array_equal(last.outputs["mean"], mean)


def test_shared_masks_give_covariances_of_the_mixture(regressor: Model) -> None:
    found = ask(regressor, 40, "covariance", "samples", masks="shared")
    together = found["samples"][:, :, 0].astype(np.float64)
    expected = np.cov(together, rowvar=False)
    np.testing.assert_allclose(found["covariance"][:, :, 0], expected, rtol=1e-4, atol=1e-3)


def test_a_bundle_carries_all_members(regressor: Model) -> None:
    document, weights = ensemble()
    read, same = read_bundle(bundle_of(document, weights), max_bytes=1 << 24)
    assert same == weights
    assert read["parameters"] == document["parameters"]
    assert read["parameter_count"] == document["parameter_count"]
    model = load_model(read, same)
    np.testing.assert_array_equal(ask(model, 20)["mean"], ask(regressor, 20)["mean"])


@pytest.mark.parametrize("members", [[], {}, None, [{}], "two"])
def test_a_bundle_of_broken_members_is_refused(members: Any) -> None:
    document, weights = ensemble()
    with pytest.raises(ArtifactError):
        read_bundle(bundle_of({**document, "members": members}, weights), max_bytes=1 << 24)


def test_what_members_do_not_share_is_refused(regressor: Model) -> None:
    for spec, pointer in (
        ({"outputs": ["hid1:out"]}, "#/outputs"),
        ({"start": "hid1"}, "#/start"),
        ({"dropout": {"hid9:out": 0.1}}, "#/dropout/hid9:out"),
    ):
        with pytest.raises(SpecError) as caught:
            plan_model(regressor, PredictSpec.model_validate(spec), seed=0)
        assert caught.value.pointer == pointer
    found = ask(regressor, 20, "mean", outputs=["out:out"])
    assert found["out:out"]["mean"].shape == (7, 1)


def test_the_mixture_is_no_worse_than_its_members_on_average(regressor: Model) -> None:
    """By Jensen's inequality, of every row's log-likelihood."""
    truth = np.zeros(7)
    drawn = [own[:, :, 0].astype(np.float64) for own in alone(regressor, 50)]
    taus = [float(np.asarray(own.noise_precision).ravel()[0]) for own in regressor.members]
    logs = [mixture_log_likelihood(s, truth, t) for s, t in zip(drawn, taus, strict=True)]
    precision = regressor.precision_of_passes(150)
    assert precision is not None
    samples = ask(regressor, 50, "samples")["samples"][:, :, 0].astype(np.float64)
    whole = mixture_log_likelihood(samples, truth, precision.reshape(150, 1))
    assert (whole >= np.mean(logs, axis=0) - 1e-9).all()


def test_each_pass_of_an_ensemble_of_sequences_has_its_members_noise() -> None:
    layers: list[Any] = [{"shape": [5, 3]}, {"form": "rnn", "size": 3}, 2]
    members = tuple(
        Model(
            network=random_network(layers, seed=seed),
            encoding=Encoding.identity({"in": (5, 3)}, (5, 2), "regressor"),
            trained=(),
            noise_precision=np.array([1.0, 4.0]) * seed,
        )
        for seed in (1, 2)
    )
    model = replace(members[0], members=members)
    x = np.random.default_rng(1).standard_normal((2, 5, 3)).astype(np.float32)
    asked = PredictSpec.model_validate(
        {
            "num_samples": 1,
            "hidden_dropout": 0.5,
            "statistics": ["samples", "predictive_quantiles"],
            "quantiles": [0.9],
        }
    )
    found = plan_model(model, asked, seed=SEED).run(rows_of(x), np.arange(2))
    quantile, deviation = found["predictive_quantiles"]["0.9"], np.array([[1.0, 2.0]])
    each = [
        special.ndtr((quantile - found["samples"][member]) * deviation * np.sqrt(member + 1))
        for member in (0, 1)
    ]
    np.testing.assert_allclose(np.mean(each, axis=0), 0.9, rtol=1e-6)
