"""Quantiles of passes with noise: where the mixture's distribution function says so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from engine import quantiles
from engine.quantiles import mixture_quantiles

LEVELS = (0.001, 0.05, 0.5, 0.95, 0.999)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("width", [1e-5, 0.3, 50.0])
@pytest.mark.parametrize("of_passes", [False, True])
def test_so_much_of_the_mixture_lies_below(scale: float, width: float, of_passes: bool) -> None:
    rng = np.random.default_rng(1)
    samples = scale * rng.standard_normal((60, 4, 3))
    samples[:2, 0] *= 100  # some far from the rest
    samples[:, 1] = samples[0, 1]
    deviation = np.full(samples.shape, scale * width)
    if of_passes:
        deviation *= np.exp(rng.standard_normal(samples.shape))
    precision = 1 / deviation**2 if of_passes else np.array(1 / (scale * width) ** 2)
    for level, found in zip(LEVELS, mixture_quantiles(samples, precision, LEVELS), strict=True):
        below = special.ndtr((found - samples) / deviation).mean(axis=0)
        np.testing.assert_allclose(below, level, atol=1e-7)


def test_no_quantile_depends_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    samples = rng.standard_normal((40, 60)) * np.exp(3 * rng.standard_normal(60))
    whole = mixture_quantiles(samples, np.array(4.0), LEVELS)
    monkeypatch.setattr(quantiles, "_CELLS", 1)
    for one, other in zip(whole, mixture_quantiles(samples, np.array(4.0), LEVELS), strict=True):
        np.testing.assert_array_equal(one, other)
    alone = mixture_quantiles(samples[:, 20:23], np.array(4.0), LEVELS)
    np.testing.assert_array_equal(np.stack(whole)[:, 20:23], np.stack(alone))


def test_the_ends_are_infinite() -> None:
    low, high = mixture_quantiles(np.zeros((3, 2)), np.array(1.0), (0.0, 1.0))
    assert (low == -np.inf).all()
    assert (high == np.inf).all()
