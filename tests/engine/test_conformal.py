"""Conformal intervals: their rank, what they promise, and which way of predicting they hold for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.regression import SplitConformalRegressor
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin

from engine.conformal import (
    STD_FLOOR,
    Calibration,
    Way,
    by_target,
    conformal_quantile,
    half_width,
    least_rows,
    promised_coverage,
    rank_of,
    scores_of,
)

ONE = np.ones(1)


class Column(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Predicts its one input."""

    def fit(self, _x: Any, _y: Any) -> Column:
        self.fitted_ = True
        return self

    def predict(self, x: Any) -> Any:
        return x[:, 0]


@given(rows=st.integers(1, 5000), hundredths=st.integers(1, 99))
def test_the_rank_is_that_of_the_coverage_in_decimals(rows: int, hundredths: int) -> None:
    """55 % of 100 is 55, though 0.55 * 100 is more in floating point."""
    rank = rank_of(rows, hundredths / 100)
    assert rank == -(-(rows + 1) * hundredths // 100)
    assert (rank <= rows) == (rows >= least_rows(hundredths / 100))


def test_fewer_rows_than_these_promise_nothing() -> None:
    assert [least_rows(coverage) for coverage in (0.9, 0.95, 0.99, 0.5)] == [9, 19, 99, 1]


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_intervals_are_those_of_mapie(coverage: float) -> None:
    rng = np.random.default_rng(4)
    for rows in (21, 73, 200):
        mean = rng.standard_normal((rows, 1))
        truth = mean[:, 0] + rng.standard_t(3, rows)
        other = SplitConformalRegressor(
            Column().fit(None, None), confidence_level=coverage, prefit=True
        )
        _, expected = other.conformalize(mean, truth).predict_interval(mean)
        scores = scores_of(truth[:, None], mean, None, score="absolute", scale=ONE)
        width = half_width(conformal_quantile(scores, coverage), None, score="absolute", scale=ONE)
        found = np.stack([mean - width, mean + width], axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_coverage_of_many_calibrations_is_the_beta_distribution() -> None:
    """Of n uniform scores the k-th smallest is Beta(k, n + 1 - k), and so is what it covers."""
    rng = np.random.default_rng(5)
    rows, coverage, repeats = 24, 0.9, 4000
    covered = np.array(
        [float(conformal_quantile(rng.random((rows, 1)), coverage)[0]) for _ in range(repeats)]
    )
    rank = rank_of(rows, coverage)
    law = stats.beta(rank, rows + 1 - rank)
    assert law.mean() == pytest.approx(promised_coverage(rows, coverage))
    assert abs(covered.mean() - law.mean()) < 4 * law.std() / math.sqrt(repeats)
    assert stats.kstest(covered, law.cdf).pvalue > 1e-3


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([1e-6, 1.0, 1e6]))
def test_normalised_intervals_have_the_units_of_the_target(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    mean, std = rng.standard_normal((40, 2)), rng.random((40, 2))
    truth = mean + std * rng.standard_normal((40, 2))

    def width(unit: float) -> Any:
        scale = unit * np.array([2.0, 3.0])
        scores = scores_of(unit * truth, unit * mean, unit * std, score="normalised", scale=scale)
        return half_width(
            conformal_quantile(scores, 0.9), unit * std, score="normalised", scale=scale
        )

    np.testing.assert_allclose(width(factor), factor * width(1.0), rtol=1e-9)


def test_a_row_without_spread_has_an_interval_all_the_same() -> None:
    std = np.array([[0.0], [1.0]])
    scores = scores_of([[1.0], [1.0]], np.zeros((2, 1)), std, score="normalised", scale=2 * ONE)
    np.testing.assert_allclose(scores[:, 0], [1 / (2 * STD_FLOOR), 1.0])


@pytest.mark.parametrize("shape", [(2,), (5, 2), (2, 3, 4)])
def test_quantiles_by_target_come_back_as_outputs_have_them(shape: tuple[int, ...]) -> None:
    quantile = np.random.default_rng(1).random(shape)
    kept = calibration(quantiles=by_target(quantile, ("y", "z")))
    again = Calibration.model_validate_json(kept.model_dump_json())
    np.testing.assert_array_equal(again.along(("y", "z"), len(shape)), quantile)


def calibration(**changed: Any) -> Calibration:
    way = {"num_samples": 100, "masks": "independent", "acting": [acting()]}
    told = {"coverage": 0.9, "score": "absolute", "rows": 20, "quantiles": {"y": 1.0}, "seed": 1}
    return Calibration.model_validate({**told, "way": way, **changed})


def acting(rate: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"dropout": [{"rate": rate, "matched": ["hid1:out"]}], **more}


@pytest.mark.parametrize(
    ("asked", "differences"),
    [
        (Way.of([acting()], 100, "independent"), []),
        (Way.of([acting(0.2)], 100, "independent"), ["other dropout"]),
        (
            Way.of([acting()], 50, "shared"),
            [
                "`num_samples` 50 instead of 100",
                "`masks` 'shared' instead of 'independent'",
            ],
        ),
        (
            Way.of([acting(noise=[{"std": 0.1, "matched": ["in:out"]}])], 100, "independent"),
            ["other noise"],
        ),
        (
            Way.of([acting(noise=[{"std": 0.0, "matched": ["in:out"]}])], 100, "independent"),
            [],
        ),
        (Way.of([acting(), acting()], 100, "independent"), ["other dropout and `drop_connect`"]),
    ],
)
def test_a_way_of_predicting_is_known_by_what_acts_where(
    asked: Way, differences: list[str]
) -> None:
    found = list(calibration().way.differences(asked))
    if len(asked.acting) > 1:
        assert found
    else:
        assert found == differences


def test_the_number_of_passes_is_no_difference_where_all_are_the_same() -> None:
    nothing = Way.of([acting(0.0)], 100, "independent")
    assert not list(nothing.differences(Way.of([{}], 1, "shared")))
