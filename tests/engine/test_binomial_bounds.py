"""Bounds of shares, and the law of a calibrated model's coverage, as SciPy has them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.binomial_bounds import conformal_p_value, share_bounds


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 50), (47, 50), (870, 1000)])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_bounds_are_those_of_the_exact_binomial_test(
    count: int, total: int, confidence: float
) -> None:
    expected = stats.binomtest(count, total).proportion_ci(confidence, method="exact")
    assert share_bounds(count, total, confidence) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("rank", "rows"), [(9, 9), (46, 50), (90, 99), (1801, 2000)])
@pytest.mark.parametrize("total", [1, 40, 1000])
def test_the_law_of_coverage_is_beta_binomial(rank: int, rows: int, total: int) -> None:
    law = stats.betabinom(total, rank, rows + 1 - rank)
    for count in {0, total // 2, int(0.8 * total), int(0.9 * total), total}:
        expected = min(1.0, 2 * min(law.cdf(count), law.sf(count - 1)))
        found = conformal_p_value(count, total, rank=rank, rows=rows)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-11)


def test_of_exchangeable_scores_no_more_differ_than_chance_has_it() -> None:
    rng = np.random.default_rng(4)
    rows, rank, total, draws = 30, 28, 60, 4000
    scores = rng.random((draws, rows + total))
    quantile = np.sort(scores[:, :rows], axis=1)[:, rank - 1]
    covered = (scores[:, rows:] <= quantile[:, None]).sum(axis=1)
    of_count = [conformal_p_value(c, total, rank=rank, rows=rows) for c in range(total + 1)]
    values = np.array(of_count)[covered]
    for level in (0.01, 0.1):
        assert (values < level).mean() <= level + 4 * (level * (1 - level) / draws) ** 0.5
