"""The CRPS is its integral and its closed form, whichever way it is computed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from engine.crps import mixture_crps, passes_crps

Values = np.ndarray


def closed_form(samples: Values, deviation: Values, truth: float) -> float:
    """Grimit et al. (2006), all T² terms of one truth."""

    def absolute(mean: Values, std: Values) -> Values:
        z = mean / std
        density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        return np.asarray(2 * std * density + mean * (2 * special.ndtr(z) - 1))

    both = np.sqrt(deviation[:, None] ** 2 + deviation**2)
    pairs = absolute(samples[:, None] - samples, both).mean()
    return float(absolute(samples - truth, deviation).mean() - pairs / 2)


def integral(samples: Values, deviation: Values, truth: float) -> float:
    def below(x: float) -> float:
        return float(special.ndtr((x - samples) / deviation).mean())

    low, high = float((samples - 12 * deviation).min()), float((samples + 12 * deviation).max())
    low, high = min(low, truth), max(high, truth)
    points = sorted({*samples.tolist(), truth})
    left, _ = integrate.quad(lambda x: below(x) ** 2, low, truth, points=points, limit=500)
    right, _ = integrate.quad(lambda x: (1 - below(x)) ** 2, truth, high, points=points, limit=500)
    return float(left + right)


@pytest.mark.parametrize("deviation", [0.05, 0.7, 6.0])
def test_the_score_of_a_mixture_is_its_integral(deviation: float) -> None:
    rng = np.random.default_rng(3)
    samples, truth = rng.standard_normal((6, 4)), 2 * rng.standard_normal(4)
    found = mixture_crps(samples, deviation**-2, truth)
    for index in range(4):
        own = samples[:, index]
        expected = integral(own, np.full(6, deviation), truth[index])
        assert found[index] == pytest.approx(expected, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    passes=st.sampled_from([1, 2, 3, 17, 200]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    width=st.sampled_from([1e-4, 0.02, 0.5, 3.0, 100.0]),
    mean=st.sampled_from([0.0, 1e5]),
    learnt=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_score_of_a_mixture_is_the_closed_form(
    passes: int, scale: float, width: float, mean: float, learnt: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    samples = scale * rng.standard_normal((passes, 5)) + mean * scale
    samples[:, 0] = samples[0, 0]  # all passes the same
    samples[0, 1] += 1000 * scale  # one far from the others
    truth = scale * rng.standard_normal(5) + mean * scale
    deviation = np.full((passes, 5), scale * width)
    if learnt:
        deviation *= np.exp(rng.standard_normal((passes, 5)))
    found = mixture_crps(samples, 1 / deviation**2, truth)
    expected = [closed_form(samples[:, i], deviation[:, i], truth[i]) for i in range(5)]
    largest = max(np.abs(samples).max(), np.abs(truth).max())
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-13 * largest)


def test_one_normal_has_the_formula_of_gneiting_and_raftery() -> None:
    z = np.array([-2.0, 0.0, 0.3, 5.0])
    sigma = 1.7
    expected = sigma * (
        z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    )
    found = mixture_crps(np.zeros((1, 4)), sigma**-2, sigma * z)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_score_of_passes_alone_is_the_sum_over_all_pairs() -> None:
    rng = np.random.default_rng(4)
    for passes in (1, 2, 9):
        samples, truth = rng.standard_normal((passes, 3)) + 1e3, rng.standard_normal(3) + 1e3
        expected = np.abs(samples - truth).mean(axis=0)
        expected -= np.abs(samples[:, None] - samples).mean(axis=(0, 1)) / 2
        np.testing.assert_allclose(passes_crps(samples, truth), expected, rtol=1e-12)


def test_the_score_of_one_pass_is_its_absolute_error() -> None:
    assert passes_crps(np.array([[1.5, -2.0]]), np.array([1.0, 3.0])) == pytest.approx([0.5, 5.0])


def test_passes_that_are_not_finite_have_no_score_and_harm_no_others() -> None:
    samples = np.array([[0.0, np.inf, 1.0], [1.0, 0.0, np.nan]])
    found = mixture_crps(samples, 4.0, np.zeros(3))
    assert np.isnan(found).tolist() == [False, True, True]
    assert found[0] == pytest.approx(closed_form(samples[:, 0], np.full(2, 0.5), 0.0))


def test_no_score_depends_on_its_neighbours() -> None:
    rng = np.random.default_rng(6)
    samples, truth = 5 * rng.standard_normal((40, 300)), rng.standard_normal(300)
    whole = mixture_crps(samples, 2.0, truth)
    alone = [mixture_crps(samples[:, [i]], 2.0, truth[[i]])[0] for i in range(0, 300, 50)]
    np.testing.assert_allclose(whole[::50], alone, rtol=1e-12)
