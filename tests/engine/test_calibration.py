"""Noise precision: where the likelihood of the mixture is largest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from engine.calibration import fit_noise_precision, mixture_log_likelihood


def test_log_likelihood_is_that_of_the_gaussian_mixture() -> None:
    rng = np.random.default_rng(1)
    samples, truth, tau = rng.standard_normal((7, 5)), rng.standard_normal(5), 2.5
    expected = np.log(stats.norm.pdf(truth, samples, tau**-0.5).mean(axis=0))
    np.testing.assert_allclose(mixture_log_likelihood(samples, truth, tau), expected, rtol=1e-12)


def test_one_pass_gives_the_inverse_of_the_mean_squared_error() -> None:
    rng = np.random.default_rng(2)
    truth = rng.standard_normal(200) * 3
    tau = fit_noise_precision(np.zeros((1, 200)), truth)
    assert tau == pytest.approx(1 / np.mean(truth**2), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(scale=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 50), passes=st.integers(1, 30))
def test_no_other_precision_makes_the_truths_more_likely(
    scale: float, seed: int, passes: int
) -> None:
    rng = np.random.default_rng(seed)
    samples = scale * rng.standard_normal((passes, 40))
    truth = scale * rng.standard_normal(40)
    tau = fit_noise_precision(samples, truth)
    best = mixture_log_likelihood(samples, truth, tau).mean()
    for factor in np.exp(np.linspace(-6, 6, 60)):
        assert mixture_log_likelihood(samples, truth, tau * factor).mean() <= best + 1e-6


def test_a_perfect_fit_does_not_claim_infinite_precision() -> None:
    truth = np.linspace(1, 2, 20)
    tau = fit_noise_precision(np.tile(truth, (5, 1)), truth)
    assert np.isfinite(tau)
    assert np.isfinite(mixture_log_likelihood(np.tile(truth, (5, 1)), truth, tau)).all()
    assert np.isfinite(fit_noise_precision(np.zeros((3, 4)), np.zeros(4)))
