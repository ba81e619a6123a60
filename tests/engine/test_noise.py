"""Gaussian noise: what is added, where, in which order; and the terms that look at outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from engine.errors import PatternError
from engine.prediction import plan_prediction
from engine.regularizers import is_stochastic, resolve
from engine.sampling import Sampler, readable_outputs
from engine.spec import PredictSpec, RegularizationSpec
from engine.streams import normal_noise, row_states, stream_key
from tests.engine.networks import Floats, identity_network, only, random_network, rows_of
from tests.engine.test_prediction import IDS, ROWS, regressor
from tests.engine.test_training import data_of, training_of


def one_pass(x: Floats, *wanted: str, depth: int = 3, seed: int = 1, **keywords: Any) -> Any:
    network = identity_network(x.shape[1], depth)
    regularizers = resolve(RegularizationSpec.model_validate(keywords), network.graph)
    sampler = Sampler(network, regularizers, wanted=wanted, seed=seed)
    values = sampler.deterministic(rows_of(x))
    drawn = sampler.samples(rows_of(x), np.arange(len(x)), np.arange(1))
    return values | {name: value[0] for name, value in drawn.items()}


def test_draws_are_standard_normal_and_independent() -> None:
    passes, rows = np.divmod(np.arange(100 * 100), 100)
    noise = normal_noise(row_states(stream_key(7, "law"), passes, rows), 50)
    count = noise.size
    assert abs(noise.mean()) < 4 / np.sqrt(count)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / count)
    assert stats.kstest(noise.ravel()[:100_000], "norm").pvalue > 1e-4
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 4 / np.sqrt(count)
    assert abs((noise[1:] * noise[:-1]).mean()) < 4 / np.sqrt(count)


def test_noise_is_added_with_its_deviation_where_the_pattern_aims() -> None:
    x = np.full((500, 40), 3.0, dtype=np.float32)
    values = one_pass(
        x, "in:out", "hid1:out", "hid1:out-prenoise", "hid2:out", noise={"hid1:out": 0.5}
    )
    assert (values["in:out"] == 3).all()
    assert (values["hid1:out-prenoise"] == 3).all()
    added = values["hid1:out"] - 3
    assert abs(added.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * added.size)
    assert np.array_equal(values["hid2:out"], values["hid1:out"])


def test_noise_comes_after_dropout() -> None:
    x = np.ones((200, 40), dtype=np.float32)
    values = one_pass(
        x, "hid1:out", "hid1:out-predrop", "hid1:out-prenoise", "hid2:out",
        hidden_dropout=0.5, noise={"hid1:out": 0.1},
    )  # fmt: skip
    assert (values["hid1:out-predrop"] == 1).all()
    assert set(np.unique(values["hid1:out-prenoise"])) == {0, 2}
    assert not (values["hid1:out"] == 0).any()


def test_keywords_and_patterns_draw_the_same_and_dropout_differs() -> None:
    x = np.ones((20, 10), dtype=np.float32)
    one = one_pass(x, "out:out", hidden_noise=0.3)["out:out"]
    two = one_pass(x, "out:out", noise={"hid*:out": 0.3})["out:out"]
    explicit = {"form": "gaussian_noise", "pattern": "hid*:out", "weight": 0.3}
    three = one_pass(x, "out:out", regularizers=[explicit])["out:out"]
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)
    assert not np.array_equal(one, one_pass(x, "out:out", seed=2, hidden_noise=0.3)["out:out"])


def test_the_variance_of_noise_adds_up_through_a_linear_network() -> None:
    x = np.zeros((1, 30), dtype=np.float32)
    network = identity_network(30)
    spec = RegularizationSpec.model_validate({"input_noise": 0.3, "hidden_noise": 0.4})
    sampler = Sampler(network, resolve(spec, network.graph), wanted=("out:out",), seed=3)
    y = sampler.samples(rows_of(x), np.arange(1), np.arange(2000))["out:out"]
    expected = 0.3**2 + 2 * 0.4**2  # two hidden layers
    assert abs(y.var() - expected) < 4 * expected * np.sqrt(2 / y.size)


def test_a_deviation_of_zero_changes_nothing() -> None:
    network = identity_network(4)
    regularizers = resolve(RegularizationSpec(noise={"hid1:out": 0.0}), network.graph)
    assert not is_stochastic(regularizers)
    assert "hid1:out-prenoise" in readable_outputs(network.graph, regularizers)


def test_predictions_take_the_noise_of_training_and_say_so() -> None:
    model = regressor({"noise": {"hid1:out": 0.2}})
    plan = plan_prediction(model, PredictSpec(num_samples=50), seed=1)
    assert plan.noise() == [
        {"pattern": "hid1:out", "std": 0.2, "rng": None, "matched": ["hid1:out"]}
    ]
    assert plan.dropout() == []
    assert (plan.run(rows_of(ROWS), IDS)["std"] > 0).all()
    without = plan_prediction(model, PredictSpec(num_samples=5, hidden_dropout=0.1), seed=1)
    assert without.noise() == []  # any key replaces the rates of training as a whole


def test_a_noise_pattern_that_matches_nothing_is_refused() -> None:
    network = random_network([3, 4, 1])
    with pytest.raises(PatternError) as caught:
        resolve(RegularizationSpec(noise={"no": 0.1}), network.graph)
    assert caught.value.pointer == "#/noise/no"


def test_hidden_l1_adds_the_mean_size_of_the_hidden_outputs() -> None:
    """A step too small to move anything: the term is that of the initial network."""
    train = data_of(rows=20)
    training, _ = training_of(
        train,
        layers=[None, [7, "tanh"], 5, None],
        regularizers=[
            {"form": "hidden_l1", "weight": 0.5},
            {"form": "hidden_l1", "pattern": "hid2:pre", "weight": 0.25},
        ],
        optimizer={"form": "sgd", "learning_rate": 1e-12},
        epochs=1,
        batch_size=20,
        validation=None,
    )
    end = list(training)[-1]
    w = training.kept_parameters()
    h1 = np.tanh(only(train.x).numpy() @ w["hid1.w"] + w["hid1.b"])
    pre2 = h1 @ w["hid2.w"] + w["hid2.b"]
    expected = 0.5 * (np.abs(h1).mean() + np.maximum(pre2, 0).mean()) / 2
    first, second = end.regularizers  # type: ignore[union-attr]
    assert first["loss"] == pytest.approx(expected, rel=1e-5)
    assert second["loss"] == pytest.approx(0.25 * np.abs(pre2).mean(), rel=1e-5)


def test_monitors_tell_the_share_of_values_below_levels() -> None:
    train, valid = data_of(rows=30), data_of(rows=10)
    training, _ = training_of(
        train,
        valid,
        monitors={"hid1:out": [0.1, 1e9], "hid*.w": 0.0},
        optimizer={"form": "sgd", "learning_rate": 1e-12},
        epochs=1,
        batch_size=7,
    )
    end = list(training)[-1]
    w = training.kept_parameters()

    def share(x: Floats) -> float:
        return float((np.maximum(x @ w["hid1.w"] + w["hid1.b"], 0) < 0.1).mean())

    assert end.train["hid1:out<0.1"] == pytest.approx(share(only(train.x).numpy()), abs=1e-6)  # type: ignore[union-attr]
    assert end.valid["hid1:out<0.1"] == pytest.approx(share(only(valid.x).numpy()), abs=1e-6)  # type: ignore[union-attr]
    assert end.train["hid1:out<1e+09"] == pytest.approx(1.0)  # type: ignore[union-attr]
    assert end.train["hid1.w<0"] == pytest.approx(float((w["hid1.w"] < 0).mean()), abs=1e-6)  # type: ignore[union-attr]


def test_monitors_tell_the_sizes_of_gradients() -> None:
    """Before any clipping, against the formula of a linear network's mean squared error."""
    train = data_of(rows=30)
    training, _ = training_of(
        train,
        layers=[None, {"activation": "linear"}],
        monitor_gradients=True,
        gradient_clip=1e-3,
        optimizer={"form": "sgd", "learning_rate": 1e-12},
        epochs=1,
        batch_size=30,
    )
    end = list(training)[-1]
    w = training.kept_parameters()
    x, y = only(train.x).numpy().astype(np.float64), train.y.numpy()
    slope = 2 * (x @ w["out.w"] + w["out.b"] - y) / y.size
    sizes = {label: end.train[label] for label in ("∂out.w", "∂out.b")}  # type: ignore[union-attr]
    assert sizes["∂out.w"] == pytest.approx(((x.T @ slope) ** 2).sum(), rel=1e-5)
    assert sizes["∂out.b"] == pytest.approx((slope.sum(axis=0) ** 2).sum(), rel=1e-5)
