"""Predictions: what is answered for which request, in original units and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.artifact import Model
from engine.data.encoding import Encoding, Scaled
from engine.errors import SpecError
from engine.prediction import PredictionPlan, plan_prediction
from engine.regularizers import resolve
from engine.spec import PredictSpec, RegularizationSpec
from tests.engine.networks import random_network, rows_of

ROWS = np.random.default_rng(3).standard_normal((11, 4)).astype(np.float32)
IDS = np.arange(11)


def regressor(trained: dict[str, Any] | None = None, tau: float | None = 4.0) -> Model:
    network = random_network([4, 30, 2], seed=8)
    encoding = Encoding(
        kind="table",
        form="regressor",
        inputs=tuple(Scaled(name=f"x{i}") for i in range(4)),
        targets=(
            Scaled(name="price", mean=100.0, scale=10.0),
            Scaled(name="size", mean=-1.0, scale=0.5),
        ),
    )
    spec = RegularizationSpec.model_validate(trained or {})
    return Model(
        network=network,
        encoding=encoding,
        trained=resolve(spec, network.graph),
        noise_precision=None if tau is None else np.array([tau, 1.0]),
    )


def classifier() -> Model:
    network = random_network([4, 30, 3], form="classifier", seed=8)
    encoding = Encoding(
        kind="table",
        form="classifier",
        inputs=tuple(Scaled(name=f"x{i}") for i in range(4)),
        target="kind",
        classes=("cat", "dog", "eel"),
    )
    trained = resolve(RegularizationSpec(hidden_dropout=0.5), network.graph)
    return Model(network=network, encoding=encoding, trained=trained, noise_precision=None)


def planned(model: Model, seed: int = 5, **request: Any) -> PredictionPlan:
    return plan_prediction(model, PredictSpec.model_validate(request), seed=seed)


def answer(model: Model, seed: int = 5, **request: Any) -> dict[str, Any]:
    return planned(model, seed, **request).run(rows_of(ROWS), IDS)


def test_without_dropout_it_is_one_deterministic_pass_in_original_units() -> None:
    model = regressor({"hidden_dropout": 0.5})
    given = answer(model)
    raw = answer(model, outputs=["out:out"])["out:out"]
    assert list(given) == ["prediction"]
    np.testing.assert_allclose(given["prediction"], raw * [10.0, 0.5] + [100.0, -1.0], rtol=1e-6)


def test_dropout_without_num_samples_is_one_stochastic_pass() -> None:
    model = regressor()
    one = answer(model, input_dropout=0.5)["prediction"]
    many = answer(model, input_dropout=0.5, num_samples=3, statistics=["samples"])["samples"]
    assert np.array_equal(one, many[0])
    assert not np.array_equal(one, answer(model)["prediction"])


def test_the_first_passes_are_the_same_whatever_their_number() -> None:
    model = regressor()
    few = answer(model, hidden_dropout=0.5, num_samples=3, statistics=["samples"])["samples"]
    more = answer(model, hidden_dropout=0.5, num_samples=300, statistics=["samples"])["samples"]
    assert np.array_equal(few, more[:3])


def test_num_samples_alone_takes_the_rates_of_training() -> None:
    model = regressor({"hidden_dropout": 0.5, "dropout": {"in:out": 0.1}})
    implied = answer(model, num_samples=20)["mean"]
    for same in (
        {"dropout": "trained"},
        {"hidden_dropout": 0.5, "dropout": {"in:out": 0.1}},
        {"dropout": {"hid*:out": 0.5, "in:out": 0.1}},
    ):
        assert np.array_equal(answer(model, num_samples=20, **same)["mean"], implied)
    other = answer(model, num_samples=20, hidden_dropout=0.5)["mean"]
    assert not np.array_equal(other, implied)  # any key replaces them as a whole


def test_a_model_trained_without_dropout_cannot_be_sampled_by_default() -> None:
    with pytest.raises(SpecError, match="without dropout") as caught:
        planned(regressor(), num_samples=10)
    assert caught.value.pointer == "#/num_samples"


def test_rates_of_zero_on_purpose_give_variance_zero() -> None:
    given = answer(regressor(), num_samples=10, hidden_dropout=0.0)
    assert (given["std"] == 0).all()
    assert (given["variance"]["epistemic"] == 0).all()
    assert np.array_equal(given["mean"], answer(regressor())["prediction"])
    (warning,) = planned(regressor(), num_samples=50, hidden_dropout=0.0).warnings
    assert "all passes are the same" in warning


def test_statistics_are_those_of_the_samples() -> None:
    request: dict[str, Any] = {"hidden_dropout": 0.5, "num_samples": 64}
    given = answer(
        regressor(),
        **request,
        quantiles=[0.05, 0.5],
        statistics=[
            "mean", "std", "standard_error", "quantiles", "variance", "samples",
            "predictive_quantiles",
        ],
    )  # fmt: skip
    y = given["samples"]
    assert y.shape == (64, 11, 2)
    np.testing.assert_allclose(given["mean"], y.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(given["std"], y.std(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(given["standard_error"], given["std"] / 8, rtol=1e-12)
    np.testing.assert_allclose(given["quantiles"]["0.05"], np.quantile(y, 0.05, axis=0), rtol=1e-6)
    np.testing.assert_allclose(given["variance"]["epistemic"], given["std"] ** 2)
    np.testing.assert_allclose(given["variance"]["aleatoric"], [[0.25, 1.0]] * 11)
    np.testing.assert_allclose(
        given["variance"]["total"], given["std"] ** 2 + [0.25, 1.0], rtol=1e-12
    )
    wider = given["predictive_quantiles"]["0.05"] < given["quantiles"]["0.05"] + 1e-9
    assert wider.all()


def test_defaults_leave_out_samples_and_the_predictive_ones() -> None:
    given = answer(regressor(), hidden_dropout=0.5, num_samples=5)
    assert list(given) == ["mean", "std", "quantiles", "standard_error", "variance"]
    labelled = answer(classifier(), num_samples=5)
    assert list(labelled) == [
        "label", "probabilities", "std", "entropy", "expected_entropy", "mutual_information",
        "variation_ratio",
    ]  # fmt: skip


def test_one_pass_has_no_spread() -> None:
    given = answer(regressor(), hidden_dropout=0.5, num_samples=1)
    assert np.isnan(given["std"]).all()
    assert np.isnan(given["standard_error"]).all()


def test_without_noise_precision_the_aleatoric_part_is_missing_and_said_so() -> None:
    plan = planned(
        regressor(tau=None),
        hidden_dropout=0.5,
        num_samples=5,
        statistics=["variance", "predictive_quantiles"],
    )
    given = plan.run(rows_of(ROWS), IDS)
    assert np.isnan(given["variance"]["aleatoric"]).all()
    assert np.isnan(given["predictive_quantiles"]["0.5"]).all()
    assert (given["variance"]["epistemic"] > 0).any()
    assert any("noise precision" in warning for warning in plan.warnings)


def test_classifier_statistics_are_those_of_the_samples() -> None:
    names = [
        "label", "probabilities", "std", "entropy", "expected_entropy", "mutual_information",
        "variation_ratio", "samples",
    ]  # fmt: skip
    given = answer(classifier(), num_samples=50, statistics=names)
    p = given["samples"].astype(np.float64)
    np.testing.assert_allclose(p.sum(axis=2), 1.0, rtol=1e-6)
    mean = p.mean(axis=0)
    np.testing.assert_allclose(given["probabilities"], mean, rtol=1e-9)
    np.testing.assert_allclose(given["entropy"], -(mean * np.log(mean)).sum(axis=1), rtol=1e-9)
    expected = -(p * np.log(p)).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(given["expected_entropy"], expected, rtol=1e-9)
    np.testing.assert_allclose(given["mutual_information"], given["entropy"] - expected, atol=1e-12)
    assert given["label"].tolist() == [("cat", "dog", "eel")[i] for i in mean.argmax(axis=1)]


def test_where_all_probabilities_are_dropped_a_pass_is_uniform() -> None:
    given = answer(classifier(), num_samples=8, output_dropout=0.999, statistics=["samples"])
    np.testing.assert_allclose(given["samples"].sum(axis=2), 1.0, rtol=1e-6)
    assert (given["samples"] == np.float32(1 / 3)).all(axis=2).any()


def test_other_outputs_come_as_arrays_or_as_statistics() -> None:
    model = regressor()
    one = answer(model, outputs=["hid1:*", "in:out"])
    assert {name: one[name].shape for name in ("hid1:pre", "hid1:out", "in:out")} == {
        "hid1:pre": (11, 30),
        "hid1:out": (11, 30),
        "in:out": (11, 4),
    }
    many = answer(
        model, outputs=["hid1:out*"], hidden_dropout=0.5, num_samples=9, statistics=["mean", "std"]
    )
    assert list(many["hid1:out"]) == ["mean", "std"]
    assert np.array_equal(many["hid1:out-predrop"]["mean"], one["hid1:out"])
    assert (many["hid1:out-predrop"]["std"] == 0).all()
    assert (many["hid1:out"]["std"] > 0).any()


def test_rows_are_the_same_in_any_piece_of_the_request() -> None:
    plan = planned(regressor(), hidden_dropout=0.5, num_samples=30)
    whole = plan.run(rows_of(ROWS), IDS)
    shifted = planned(regressor(), hidden_dropout=0.5, num_samples=30, row_offset=4)
    part = shifted.run(rows_of(ROWS[4:7]), np.arange(3))
    assert np.array_equal(part["mean"], whole["mean"][4:7])
    assert np.array_equal(part["std"], whole["std"][4:7])


@pytest.mark.parametrize(
    ("request_", "pointer", "words"),
    [
        ({"statistics": ["mean"]}, "#/statistics", "num_samples"),
        (
            {"num_samples": 3, "hidden_dropout": 0.1, "statistics": ["mean", "entropy"]},
            "#/statistics/1",
            "it has mean",
        ),
        (
            {"num_samples": 3, "hidden_dropout": 0.1, "statistics": ["interval"]},
            "#/statistics/0",
            "not calibrated",
        ),
        ({"outputs": ["nothing*"]}, "#/outputs/0", "hid1:out"),
        ({"dropout": "trained", "hidden_dropout": 0.1}, "#/hidden_dropout", "leave out"),
        (
            {"regularizers": [{"form": "weight_l2", "weight": 0.1}]},
            "#/regularizers/0",
            "training loss",
        ),
    ],
)
def test_requests_that_make_no_sense_are_refused_where_they_stand(
    request_: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        planned(regressor(), **request_)
    assert caught.value.pointer == pointer
