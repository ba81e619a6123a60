"""Covariance of rows under shared masks, against NumPy, and in answers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import estimation
from engine.covariance import Covariance
from engine.errors import SpecError
from engine.prediction import PredictionPlan, plan_prediction
from engine.spec import PredictSpec
from engine.statistics import BLOCK, mean_and_variance, reduce_blocks
from tests.engine.networks import rows_of
from tests.engine.test_estimation import same
from tests.engine.test_prediction import IDS, ROWS, classifier, regressor

ASKED = {"num_samples": 150, "masks": "shared", "statistics": ["mean", "std", "covariance"]}


def planned(request: dict[str, Any], *, of_classes: bool = False) -> PredictionPlan:
    model = classifier() if of_classes else regressor({"hidden_dropout": 0.5})
    return plan_prediction(model, PredictSpec.model_validate(request), seed=5)


def covariance_of(samples: np.ndarray, cuts: set[int] | None = None) -> np.ndarray:
    covariance = Covariance()
    blocks = -(-len(samples) // BLOCK)
    for first, end in pairwise(sorted({0, blocks} | (cuts or set()))):
        piece = samples[first * BLOCK : end * BLOCK]
        covariance.add(piece, reduce_blocks(piece))
    return covariance.matrix(mean_and_variance(samples)[1])


@pytest.mark.parametrize("offset", [0.0, 1e6, -3e9])
@pytest.mark.parametrize("passes", [2, 64, 65, 1000])
def test_it_is_numpys_of_each_output(offset: float, passes: int) -> None:
    rng = np.random.default_rng(passes)
    mixing = rng.standard_normal((5, 5))
    centred = np.einsum("tik,ij->tjk", rng.standard_normal((passes, 5, 3)), mixing)
    samples = centred + offset
    ours = covariance_of(samples)
    exact = samples - offset  # each value with the rounding that the offset gave it
    for output in range(3):
        expected = np.cov(exact[:, :, output], rowvar=False)
        bound = 1e-12 * np.abs(expected).max() + 1e-14 * abs(offset)
        np.testing.assert_allclose(ours[:, :, output], expected, rtol=0, atol=bound)
    assert np.array_equal(ours, ours.swapaxes(0, 1))


@settings(max_examples=30, deadline=None)
@given(passes=st.integers(2, 700), cuts=st.sets(st.integers(1, 10), max_size=4))
def test_no_bit_depends_on_how_the_passes_are_cut(passes: int, cuts: set[int]) -> None:
    samples = np.random.default_rng(passes).standard_normal((passes, 4, 2)).astype(np.float32)
    within = {cut for cut in cuts if cut < -(-passes // BLOCK)}
    assert np.array_equal(covariance_of(samples, within), covariance_of(samples))


def test_the_covariance_of_one_pass_does_not_exist() -> None:
    given = planned({**ASKED, "num_samples": 1}).run(rows_of(ROWS), IDS)
    assert np.isnan(given["covariance"]).all()


@pytest.mark.parametrize("of_classes", [False, True])
def test_answers_have_it_in_original_units(of_classes: bool) -> None:
    names = ["std", "covariance", "samples"]
    request = {**ASKED, "statistics": names, "outputs": ["hid1:out", "in:out"]}
    given = planned(request, of_classes=of_classes).run(rows_of(ROWS), IDS)
    assert list(given)[:3] == names
    for tree in (given, given["hid1:out"]):
        samples = np.asarray(tree["samples"], dtype=np.float64)
        assert tree["covariance"].shape == (11, *samples.shape[1:])
        for output in range(samples.shape[-1]):
            expected = np.cov(samples[:, :, output], rowvar=False)
            scale = np.abs(expected).max()
            ours = tree["covariance"][:, :, output]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9 * scale)
            np.testing.assert_allclose(np.diag(ours), tree["std"][:, output] ** 2, rtol=1e-12)
    assert (given["in:out"]["covariance"] == 0).all()


def test_no_bit_depends_on_how_the_drawing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(ASKED)
    whole = plan.run(rows_of(ROWS), IDS)
    monkeypatch.setattr(estimation, "_PIECE", 64)
    assert same(plan.run(rows_of(ROWS), IDS), whole)
    *_, last = plan.estimates(rows_of(ROWS), IDS)
    assert same(last.outputs, whole)


def test_independent_masks_have_none() -> None:
    with pytest.raises(SpecError, match="shared") as caught:
        planned({"num_samples": 9, "statistics": ["mean", "covariance"]})
    assert caught.value.pointer == "#/statistics/1"


def test_its_size_counts() -> None:
    plan = planned(ASKED)
    without = planned({**ASKED, "statistics": ["mean", "std"]})
    assert plan.answer_size(3000) - without.answer_size(3000) >= 3000 * 3000 * 2
    assert plan.cost(3000)[0] - without.cost(3000)[0] >= 3000 * 3000 * 2 * 150
    assert plan.batch_key != planned(ASKED).batch_key  # rows of others are no part of it
