"""Statistics over passes, against NumPy and SciPy in float64."""

from __future__ import annotations

import statistics
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize, stats

from engine.quantiles import mixture_quantiles, pass_quantiles, quantile_key
from engine.statistics import (
    BLOCK,
    Moments,
    count_votes,
    entropy,
    mean_and_variance,
    reduce_blocks,
    variation_ratio,
)

samples_of = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 600), st.integers(1, 4), st.integers(1, 3)),
    elements=st.floats(-1e6, 1e6, width=32),
    fill=st.floats(-10, 10, width=32),
)


@settings(max_examples=60, deadline=None)
@given(samples_of)
def test_moments_and_quantiles_are_numpys(samples: np.ndarray) -> None:
    exact = samples.astype(np.float64)
    mean, variance = mean_and_variance(samples)
    scale = np.abs(exact).max() + 1e-30
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=0, atol=1e-12 * scale)
    assert variance is not None
    np.testing.assert_allclose(
        variance, exact.var(axis=0, ddof=1), rtol=1e-9, atol=1e-20 * scale**2
    )
    for quantile, ours in zip(
        (0.0, 0.05, 0.5, 1.0), pass_quantiles(samples, (0, 0.05, 0.5, 1)), strict=True
    ):
        expected = np.quantile(exact, quantile, axis=0)
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-9 * scale)


@settings(max_examples=60, deadline=None)
@given(samples_of, st.data())
def test_moments_have_the_same_bits_however_their_passes_are_cut(
    samples: np.ndarray, data: st.DataObject
) -> None:
    moments = Moments()
    blocks = -(-len(samples) // BLOCK)
    cuts = data.draw(st.sets(st.integers(1, blocks), max_size=5))
    for first, end in pairwise(sorted({0, blocks, *cuts})):
        moments.add(reduce_blocks(samples[first * BLOCK : end * BLOCK]))
    mean, variance = mean_and_variance(samples)
    assert np.array_equal(moments.mean, mean)
    assert moments.variance is not None
    assert variance is not None
    assert np.array_equal(moments.variance, variance)


def test_passes_cannot_follow_a_block_that_is_not_full() -> None:
    moments = Moments()
    moments.add(reduce_blocks(np.zeros((3, 1), dtype=np.float32)))
    with pytest.raises(ValueError, match="not full"):
        moments.add(reduce_blocks(np.zeros((64, 1), dtype=np.float32)))


@pytest.mark.parametrize("offset", [1e6, -3e9, 1e12])
def test_moments_at_a_large_mean_are_those_of_two_passes(offset: float) -> None:
    values = offset + np.random.default_rng(4).standard_normal((5000, 3))
    mean, variance = mean_and_variance(values)
    assert variance is not None
    exact = [statistics.variance(map(Fraction, column)) for column in values.T.tolist()]
    # Each value carries its own rounding; what is computed adds about as much.
    bound = 8 * np.spacing(abs(offset)) * np.sqrt(1 / 5000) + 1e-13
    np.testing.assert_allclose(variance, [float(v) for v in exact], rtol=bound)
    means = [float(statistics.mean(map(Fraction, column))) for column in values.T.tolist()]
    np.testing.assert_allclose(mean, means, rtol=4e-16)


def test_moments_survive_a_large_offset() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 16, (10_000, 1, 1)).astype(np.float32)
    _, variance = mean_and_variance((noise + np.float32(1e6)).astype(np.float32))
    assert variance is not None
    assert variance[0, 0] == pytest.approx(noise.astype(np.float64).var(ddof=1), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(passes=st.integers(1, 700), value=st.floats(-(2.0**99), 2.0**99, width=32))
def test_equal_passes_have_exactly_no_variance(passes: int, value: float) -> None:
    mean, variance = mean_and_variance(np.full((passes, 1, 1), value, dtype=np.float32))
    assert mean[0, 0] == np.float32(value)
    assert (variance is None) if passes == 1 else (variance is not None and variance[0, 0] == 0)


@settings(max_examples=30, deadline=None)
@given(samples_of, st.integers(0, 3))
def test_an_elements_statistics_have_the_same_bits_in_any_company(
    samples: np.ndarray, row: int
) -> None:
    row %= samples.shape[1]
    alone = np.ascontiguousarray(samples[:, row : row + 1, :1])
    mean, variance = mean_and_variance(samples)
    mean_alone, variance_alone = mean_and_variance(alone)
    assert variance is not None
    assert variance_alone is not None
    assert mean_alone[0, 0] == mean[row, 0]
    assert variance_alone[0, 0] == variance[row, 0]
    precision = np.full(samples.shape[2], 0.3)
    whole = mixture_quantiles(samples.astype(np.float64), precision, (0.05,))[0]
    single = mixture_quantiles(alone.astype(np.float64), precision[:1], (0.05,))[0]
    assert single[0, 0] == whole[row, 0]


@settings(max_examples=40, deadline=None)
@given(
    passes=st.integers(1, 50),
    spread=st.sampled_from([0.0, 1e-6, 0.1, 3.0, 1e4]),
    tau=st.sampled_from([1e-6, 0.5, 40.0, 1e8]),
    quantile=st.sampled_from([1e-6, 0.05, 0.5, 0.9, 0.999]),
    seed=st.integers(0, 100),
)
def test_mixture_quantiles_invert_the_mixtures_distribution(
    passes: int, spread: float, tau: float, quantile: float, seed: int
) -> None:
    samples = spread * np.random.default_rng(seed).standard_normal((passes, 1, 1))
    (ours,) = mixture_quantiles(samples, np.array([tau]), (quantile,))
    deviation = tau**-0.5

    def excess(y: float) -> float:
        return float(stats.norm.cdf(y, samples.ravel(), deviation).mean()) - quantile

    low, high = samples.min() - 10 * deviation, samples.max() + 10 * deviation
    expected = optimize.brentq(excess, low, high, xtol=1e-13 * (high - low))
    # Between far components the distribution is flat and any point of the gap is a quantile.
    assert abs(ours.item() - expected) < 1e-6 * deviation or abs(excess(ours.item())) < 1e-9


def test_mixture_quantiles_at_the_ends_are_infinite() -> None:
    low, high = mixture_quantiles(np.zeros((3, 1, 1)), np.ones(1), (0.0, 1.0))
    assert (low.item(), high.item()) == (-np.inf, np.inf)


def test_entropies_are_exact_at_certainty_and_uniform() -> None:
    p = np.array([[1.0, 0.0, 0.0], [1 / 3] * 3, [0.5, 0.5, 0.0]])
    np.testing.assert_allclose(entropy(p), [0.0, np.log(3), np.log(2)], rtol=1e-15)
    assert entropy(p)[0] == 0


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 9), st.integers(2, 6)),
        elements=st.just(0.0) | st.just(1.0) | st.floats(2.0**-149, 1.0),
    )
)
def test_entropies_are_scipys_in_nats(weights: np.ndarray) -> None:
    sums = weights.sum(axis=1, keepdims=True)
    p = np.where(sums > 0, weights / np.where(sums > 0, sums, 1), 1 / weights.shape[1])
    np.testing.assert_allclose(entropy(p), stats.entropy(p, axis=1), rtol=1e-13, atol=1e-15)
    assert (entropy(p) >= 0).all()


def test_variation_ratio_is_the_share_of_dissenting_passes() -> None:
    votes = np.array([0, 0, 1, 2, 0, 1, 0, 0])
    samples = np.eye(3, dtype=np.float32)[votes][:, None]
    assert variation_ratio(count_votes(samples)).tolist() == [1 - 5 / 8]


@pytest.mark.parametrize(
    ("quantile", "key"), [(0.05, "0.05"), (0.5, "0.5"), (1e-5, "0.00001"), (0.0, "0"), (1.0, "1")]
)
def test_quantiles_are_keyed_by_their_shortest_decimal(quantile: float, key: str) -> None:
    assert quantile_key(quantile) == key
