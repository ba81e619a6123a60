"""Scores of a regressor are those of the formulas, of SciPy and of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from sklearn import metrics

from engine import ranking
from engine.predictive import Predictive
from engine.regression_scores import RegressionScores

Values = npt.NDArray[np.float64]
LEVELS = (0.5, 0.8, 0.9, 0.95)


def predictive(samples: Values, truth: Values, precision: Any = None) -> Predictive:
    tau = None if precision is None else np.asarray(precision, dtype=np.float64)
    if tau is not None and tau.ndim == 0:
        tau = tau.reshape(1, 1)
    std = samples.std(axis=0, ddof=1) if len(samples) > 1 else None
    total = None
    if tau is not None:
        noise = np.broadcast_to(1 / tau, samples.shape).mean(axis=0)
        total = np.sqrt(noise + (0 if std is None else std**2))
    return Predictive(
        samples=samples,
        mean=samples.mean(axis=0),
        std=std,
        total=total,
        precision=tau,
        truth=truth,
    )


def scores(*targets: Predictive, pieces: int = 1, scale: Any = None, **options: Any) -> Any:
    names = [f"y{index}" for index in range(len(targets))]
    given = np.ones(len(targets)) if scale is None else scale
    own = RegressionScores(names, given, **{"levels": LEVELS, "level": 0.9, **options})
    for index, target in enumerate(targets):
        for some in np.array_split(np.arange(len(target.truth)), pieces):
            own.add(own.measure(index, target.part(slice(some[0], some[-1] + 1))))
    return own


def result(*targets: Predictive, **options: Any) -> tuple[dict[str, Any], list[str]]:
    answer, warnings = scores(*targets, **options).result()
    return answer, warnings


@pytest.fixture
def drawn() -> tuple[Values, Values]:
    """Passes around a middle of their own, and truths."""
    rng = np.random.default_rng(1)
    middle = 3 * rng.standard_normal(400)
    samples = middle + 0.7 * rng.standard_normal((30, 400))
    return samples, middle + rng.standard_normal(400)


def test_errors_of_the_mean_are_scikit_learns(drawn: tuple[Values, Values]) -> None:
    samples, truth = drawn
    answer, warnings = result(predictive(samples, truth, 0.5), pieces=3)
    mean = samples.mean(axis=0)
    assert answer["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, mean))
    assert answer["mae"] == pytest.approx(metrics.mean_absolute_error(truth, mean))
    assert answer["r2"] == pytest.approx(metrics.r2_score(truth, mean))
    assert answer["targets"] is None
    assert warnings == []


def test_likelihood_intervals_and_calibration_are_those_of_the_mixture(
    drawn: tuple[Values, Values],
) -> None:
    samples, truth = drawn
    deviation = 1.3
    answer, _ = result(predictive(samples, truth, deviation**-2))
    density = stats.norm.pdf(truth, samples, deviation).mean(axis=0)
    assert answer["log_likelihood"] == pytest.approx(np.log(density).mean())
    below = stats.norm.cdf(truth, samples, deviation).mean(axis=0)
    for interval in answer["intervals"]:
        tail = (1 - interval["level"]) / 2
        assert interval["coverage"] == ((below >= tail) & (below <= 1 - tail)).mean()
    assert [interval["level"] for interval in answer["intervals"]] == list(LEVELS)
    assert answer["coverage"] == answer["intervals"][2]["coverage"]
    assert answer["interval_width"] == answer["intervals"][2]["width"]
    calibration = answer["calibration"]
    observed = [(below <= level).mean() for level in calibration["expected"]]
    assert calibration["observed"] == pytest.approx(observed)
    histogram, _ = np.histogram(below, bins=np.arange(21) / 20)
    assert calibration["pit"] == pytest.approx(histogram / 400)
    error = np.abs(np.array(observed) - calibration["expected"]).mean()
    assert answer["calibration_error"] == pytest.approx(error)


def test_widths_are_between_the_quantiles_of_many_draws() -> None:
    rng = np.random.default_rng(2)
    samples = np.array([[0.0], [1.0], [5.0]])
    answer, _ = result(predictive(samples, np.zeros(1), 4.0), level=0.6)
    draws = rng.choice(samples[:, 0], 400_000) + rng.normal(size=400_000) / 2
    low, high = np.quantile(draws, [0.2, 0.8])
    assert answer["interval_width"] == pytest.approx(high - low, abs=0.02)


def test_what_a_model_says_right_is_covered_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    rows = 1000
    samples = rng.standard_normal((50, rows))
    truth = samples[0] + 0.5 * rng.standard_normal(rows)
    answer, _ = result(predictive(samples[1:], truth, 4.0))
    for interval in answer["intervals"]:
        level = interval["level"]
        # 49 passes say where the 50th lies only roughly.
        assert abs(interval["coverage"] - level) < 4 * np.sqrt(level * (1 - level) / rows) + 0.02
    assert answer["calibration_error"] < 4 * 0.5 / np.sqrt(rows)


def test_noise_of_each_pass_and_row_counts_where_it_is(drawn: tuple[Values, Values]) -> None:
    samples, truth = drawn
    rng = np.random.default_rng(4)
    deviation = np.exp(rng.standard_normal(samples.shape) / 2)
    answer, _ = result(predictive(samples, truth, deviation**-2))
    density = stats.norm.pdf(truth, samples, deviation).mean(axis=0)
    assert answer["log_likelihood"] == pytest.approx(np.log(density).mean())
    of_members = np.tile([[1.0], [0.2], [3.0]], (10, 1))
    answer, _ = result(predictive(samples, truth, of_members), pieces=4)
    density = stats.norm.pdf(truth, samples, of_members**-0.5).mean(axis=0)
    assert answer["log_likelihood"] == pytest.approx(np.log(density).mean())


def test_without_a_noise_precision_the_passes_are_the_distribution(
    drawn: tuple[Values, Values],
) -> None:
    samples, truth = drawn
    answer, (warning,) = result(predictive(samples, truth))
    assert answer["log_likelihood"] is None
    assert "noise precision" in warning
    low, high = np.quantile(samples, [0.05, 0.95], axis=0)
    assert answer["coverage"] == ((low <= truth) & (truth <= high)).mean()
    assert answer["interval_width"] == pytest.approx((high - low).mean())
    assert set(answer["uncertainty"]) == {"std"}


def test_one_pass_without_noise_says_nothing_of_how_sure_it_is(
    drawn: tuple[Values, Values],
) -> None:
    samples, truth = drawn
    answer, warnings = result(predictive(samples[:1], truth))
    assert answer["crps"] == pytest.approx(answer["mae"])
    for name in ("log_likelihood", "coverage", "interval_width", "intervals", "calibration"):
        assert answer[name] is None
    assert answer["risk_coverage"] is None
    assert answer["uncertainty"] == {}
    assert len(warnings) == 2


def test_one_pass_with_noise_is_one_normal(drawn: tuple[Values, Values]) -> None:
    samples, truth = drawn
    answer, _ = result(predictive(samples[:1], truth, 0.5))
    expected = stats.norm.logpdf(truth, samples[0], 0.5**-0.5).mean()
    assert answer["log_likelihood"] == pytest.approx(expected)
    width = 2 * stats.norm.ppf(0.95) * 0.5**-0.5
    assert answer["interval_width"] == pytest.approx(width)


def test_of_several_targets_each_is_scored_by_itself(drawn: tuple[Values, Values]) -> None:
    samples, truth = drawn
    one, other = predictive(samples, truth, 0.5), predictive(50 * samples, 40 * truth, 1e-4)
    answer, _ = result(one, other, scale=np.array([1.0, 50.0]))
    alone = [result(one)[0], result(other)[0]]
    assert list(answer["targets"]) == ["y0", "y1"]
    for name in ("rmse", "mae", "r2", "log_likelihood", "crps", "coverage", "interval_width"):
        own = [each[name] for each in alone]
        assert [target[name] for target in answer["targets"].values()] == own
        assert answer[name] == pytest.approx(np.mean(own))
    # Ranked in units of each one's scale.
    errors = np.abs(np.concatenate([one.mean - truth, (other.mean - 40 * truth) / 50]))
    assert answer["risk_coverage"]["risk"][-1] == pytest.approx(errors.mean())


def test_a_target_that_never_varies_has_no_r2(drawn: tuple[Values, Values]) -> None:
    samples, _ = drawn
    for value in (0.0, 1 / 3):
        answer, warnings = result(predictive(samples, np.full(400, value), 1.0), pieces=7)
        assert answer["r2"] is None
        assert any("same in all rows" in warning for warning in warnings)


def test_uncertainty_that_ranks_as_the_errors_do_has_no_excess_area() -> None:
    rng = np.random.default_rng(5)
    errors = rng.random(200)
    # Two passes whose deviation is in proportion to the error of their mean.
    samples = np.stack([errors * 0.5, errors * 1.5])
    answer, _ = result(predictive(samples, np.zeros(200)))
    assert answer["uncertainty"]["std"]["ause"] == pytest.approx(0, abs=1e-12)
    area = (np.cumsum(np.sort(errors)) / np.arange(1, 201)).mean()
    assert answer["uncertainty"]["std"]["aurc"] == pytest.approx(area)
    backwards = np.stack([errors - (1 - errors), errors + (1 - errors)])
    answer, _ = result(predictive(backwards, np.zeros(200)))
    assert answer["uncertainty"]["std"]["ause"] > 0.5


def test_predictions_that_are_not_finite_make_scores_null() -> None:
    samples = np.array([[0.0, np.inf], [1.0, np.inf]])
    with np.errstate(invalid="ignore"):
        own = predictive(samples, np.array([0.0, 1.0]), 1.0)
    answer, warnings = result(own)
    assert answer["rmse"] is None
    assert answer["crps"] is None
    assert any("not finite" in warning for warning in warnings)


@pytest.mark.parametrize("exact", [100, 10**6])
def test_neither_pieces_nor_an_interruption_change_the_scores(
    exact: int, drawn: tuple[Values, Values], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "EXACT_VALUES", exact)
    samples, truth = drawn
    own = predictive(samples, truth, 0.5)
    whole = scores(own, pieces=2)
    half = scores(own.part(slice(0, 200)))
    restored = RegressionScores(["y0"], np.ones(1), levels=LEVELS, level=0.9)
    restored.restore(half.state())
    restored.add(restored.measure(0, own.part(slice(200, 400))))
    assert restored.result() == whole.result()
    pieces, _ = result(own, pieces=9)
    for name in ("rmse", "r2", "crps", "log_likelihood", "coverage", "interval_width"):
        assert pieces[name] == pytest.approx(whole.result()[0][name], rel=1e-12)
