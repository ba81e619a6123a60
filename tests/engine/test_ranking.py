"""Rankings: AUROC as scikit-learn has it, risk-coverage curves as they are drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from engine import ranking
from engine.ranking import Ranking


def ranked(values: np.ndarray, losses: np.ndarray, pieces: int = 1) -> Ranking:
    own = Ranking()
    for some, lost in zip(
        np.array_split(values, pieces), np.array_split(losses, pieces), strict=True
    ):
        own.add(some, lost)
    return own


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(2, 200), distinct=st.sampled_from([3, 50, 10**6]))
def test_the_area_under_the_roc_is_scikit_learns(seed: int, count: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, distinct, count) / distinct
    wrong = rng.random(count) < 0.3
    wrong[:2] = (True, False)
    expected = metrics.roc_auc_score(wrong, values)
    assert ranked(values, wrong, pieces=3).auroc() == pytest.approx(expected, abs=1e-12)


def test_without_both_kinds_there_is_no_area() -> None:
    values = np.array([0.1, 0.2])
    assert ranked(values, np.zeros(2)).auroc() is None
    assert ranked(values, np.ones(2)).auroc() is None
    assert Ranking().area() is None
    assert Ranking().risks((0.5,)) == [None]


def test_risk_and_coverage_worked_by_hand() -> None:
    # The two surest are right, then one is wrong, then one right, then one wrong.
    own = ranked(np.array([0.5, 0.1, 0.4, 0.2, 0.3]), np.array([1, 0, 0, 0, 1]))
    assert own.risks((0.2, 0.4, 0.6, 0.8, 1.0)) == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    assert own.area() == pytest.approx((0 + 0 + 1 / 3 + 1 / 4 + 2 / 5) / 5)
    # A share is rounded up to whole values.
    assert own.risks((0.41, 0.01)) == pytest.approx([1 / 3, 0])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), distinct=st.sampled_from([1, 2, 5]))
def test_equal_values_count_as_the_mean_over_their_orders(seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    values, losses = rng.integers(0, distinct, 12).astype(float), rng.random(12)
    areas = []
    for _ in range(1000):
        order = np.lexsort((rng.random(12), values))
        areas.append((np.cumsum(losses[order]) / np.arange(1, 13)).mean())
    error = np.std(areas) / np.sqrt(len(areas))
    area = ranked(values, losses).area()
    assert area is not None
    assert abs(area - np.mean(areas)) < 6 * error + 1e-12


def test_many_values_are_ranked_by_their_leading_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    values = rng.exponential(size=5000)
    losses = (rng.random(5000) < values / 5).astype(float)
    exact = ranked(values, losses)
    monkeypatch.setattr(ranking, "EXACT_VALUES", 700)
    rough = ranked(values, losses, pieces=9)
    assert set(rough.state()) == {"buckets"}
    for name in ("auroc", "area"):
        assert getattr(rough, name)() == pytest.approx(getattr(exact, name)(), abs=1e-3)
    assert rough.risks((0.3, 1.0)) == pytest.approx(exact.risks((0.3, 1.0)), abs=1e-3)


@pytest.mark.parametrize("exact", [10, 10**6])
def test_a_ranking_goes_on_from_its_state(exact: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "EXACT_VALUES", exact)
    rng = np.random.default_rng(3)
    values, losses = rng.random(100), rng.random(100)
    whole = ranked(values, losses, pieces=2)
    other = Ranking()
    other.restore(ranked(values[:50], losses[:50]).state())
    other.add(values[50:], losses[50:])
    assert other.area() == whole.area()
    assert other.risks((0.5,)) == whole.risks((0.5,))
