"""Prediction sets: scores by hand, sets of MAPIE, what they promise; temperatures by search."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from mapie.classification import SplitConformalClassifier
from scipy import optimize, special, stats
from sklearn.base import BaseEstimator, ClassifierMixin

from engine.conformal import conformal_quantile, promised_coverage
from engine.conformal_sets import chances, class_scores, fit_temperature, softened

Doubles = npt.NDArray[np.float64]


def shares(rows: int, classes: int = 4, seed: int = 1) -> Doubles:
    rng = np.random.default_rng(seed)
    drawn: Doubles = special.softmax(2 * rng.standard_normal((rows, classes)), axis=-1)
    return drawn


def labels(p: Doubles, rng: np.random.Generator) -> Any:
    return (p.cumsum(axis=-1) < rng.random((len(p), 1))).sum(axis=-1)


def by_hand(p: list[float], u: float, penalty: float, free: int) -> list[float]:
    ranked = sorted(range(len(p)), key=lambda c: (-p[c], c))
    return [
        sum(p[other] for other in ranked[: ranked.index(c)])
        + u * p[c]
        + penalty * max(0, ranked.index(c) + 1 - free)
        for c in range(len(p))
    ]


@pytest.mark.parametrize(("score", "penalty"), [("aps", 0.0), ("raps", 0.1)])
def test_scores_are_the_mass_of_likelier_classes_and_a_share_of_the_own(
    score: str, penalty: float
) -> None:
    p = np.concatenate([shares(20), [[0.25] * 4, [0.5, 0.0, 0.5, 0.0]]])
    u = np.random.default_rng(2).random(len(p))
    found = class_scores(p, u, score=score, penalty=penalty, free_ranks=2)
    expected = [by_hand(row, own, penalty, 2) for row, own in zip(p.tolist(), u, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


class Shares(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Says the shares that it is given."""

    def fit(self, _x: Any, _y: Any) -> Shares:
        self.classes_ = np.arange(4)
        return self

    def predict_proba(self, x: Any) -> Any:
        return x

    def predict(self, x: Any) -> Any:
        return x.argmax(axis=-1)


def test_sets_by_probability_are_those_of_mapie() -> None:
    p, new = shares(150), shares(80, seed=3)
    truth = labels(p, np.random.default_rng(4))
    other = SplitConformalClassifier(
        Shares().fit(None, None), confidence_level=0.9, conformity_score="lac", prefit=True
    )
    _, expected = other.conformalize(p, truth).predict_set(new)
    scores = np.take_along_axis(class_scores(p, p[:, 0], score="lac"), truth[:, None], axis=-1)[
        :, 0
    ]
    inside = class_scores(new, new[:, 0], score="lac") <= conformal_quantile(scores, 0.9)
    np.testing.assert_array_equal(inside, expected[:, :, 0])


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
def test_sets_cover_on_average_what_their_rows_promise(score: str) -> None:
    """Wrong probabilities cover as much as right ones."""
    rng = np.random.default_rng(5)
    rows, repeats, new = 40, 1500, 20
    covered = np.empty(repeats)
    for at in range(repeats):
        p = shares(rows + new, seed=at)
        truth = labels(p, rng)
        told = p[:, ::-1] if at % 2 else p**3 / (p**3).sum(axis=-1, keepdims=True)
        u = chances(at, np.arange(rows + new), 1)[:, 0]
        scores = class_scores(told, u, score=score, penalty=0.05, free_ranks=1)
        own = np.take_along_axis(scores, truth[:, None], axis=-1)[:, 0]
        covered[at] = np.mean(own[rows:] <= conformal_quantile(own[:rows], 0.9))
    error = covered.std() / math.sqrt(repeats)
    assert abs(covered.mean() - promised_coverage(rows, 0.9)) < 4 * error


def test_chances_depend_on_seed_and_row_alone() -> None:
    rows = np.array([7, 3, 9])
    whole = chances(5, np.arange(10), 2)
    np.testing.assert_array_equal(chances(5, rows, 2), whole[rows])
    np.testing.assert_array_equal(chances([5, 6, 5], rows, 2)[[0, 2]], whole[[7, 9]])
    assert not np.array_equal(chances(6, rows, 2), whole[rows])
    assert ((whole > 0) & (whole < 1)).all()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_softening_divides_the_logits(temperature: float) -> None:
    logits = np.random.default_rng(6).standard_normal((3, 5, 4))
    p = special.softmax(logits, axis=-1).astype(np.float32)
    expected = special.softmax(logits / temperature, axis=-1)
    np.testing.assert_allclose(softened(p, temperature), expected, rtol=2e-5)
    sure = np.array([[1.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(softened(sure, temperature), sure)


@pytest.mark.parametrize("passes", [1, 6])
@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_no_other_temperature_is_likelier_by_the_classes_and_the_prior(
    passes: int, sharper: float
) -> None:
    rng = np.random.default_rng(7)
    logits = 2 * rng.standard_normal((1, 500, 4))
    truth = labels(special.softmax(logits[0], axis=-1), rng)
    drawn = sharper * (logits + 0.3 * rng.standard_normal((passes, 500, 4)))
    samples = special.softmax(drawn, axis=-1).astype(np.float32)

    def loss(log_temperature: float) -> float:
        p = special.softmax(drawn / math.exp(log_temperature), axis=-1).mean(axis=0)
        classes = np.log(np.take_along_axis(p, truth[:, None], axis=-1)).sum()
        return -float(classes + stats.norm(scale=0.5).logpdf(log_temperature))

    best = optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    assert fit_temperature(samples, truth) == pytest.approx(math.exp(best.x), rel=1e-3)


def test_votes_of_few_rows_make_no_class_impossible() -> None:
    """Alone they would be likeliest as T goes to 0, where a class without votes has nothing."""
    passes = np.full((10, 20, 2), 0.25, dtype=np.float32)
    passes[..., 0] = 0.75
    truth = np.zeros(20, dtype=np.int64)
    found = fit_temperature(passes, truth)
    assert 0.2 < found < 1
    unlike = softened(passes, found).mean(axis=0)[:, 1]
    assert (unlike > 1e-3).all()
    assert fit_temperature(np.repeat(passes, 50, axis=1), np.repeat(truth, 50)) < found
