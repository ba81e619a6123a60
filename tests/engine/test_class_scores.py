"""Scores of a classifier are scikit-learn's, and those of the loops that papers write."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn import metrics

from engine import class_scores
from engine.class_scores import ClassScores

Values = npt.NDArray[np.float64]


def drawn(classes: int, rows: int = 500, seed: int = 1) -> tuple[Values, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.5), rows)
    truth = np.array([rng.choice(classes, p=(p + 0.1) / (p + 0.1).sum()) for p in probabilities])
    return probabilities, truth


def scores(classes: Any, probabilities: Values, truth: Any, pieces: int = 1) -> ClassScores:
    own = ClassScores(classes)
    for some in np.array_split(np.arange(len(truth)), pieces):
        shares = probabilities[some]
        own.add(shares, truth[some], {"entropy": -(shares * np.log(shares + 1e-300)).sum(axis=1)})
    return own


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_scikit_learns(classes: int) -> None:
    probabilities, truth = drawn(classes)
    answer, warnings = scores(range(classes), probabilities, truth, pieces=3).result()
    assert answer["accuracy"] == metrics.accuracy_score(truth, probabilities.argmax(axis=1))
    clipped = np.maximum(probabilities[np.arange(500), truth], 1e-7)
    assert answer["log_loss"] == pytest.approx(-np.log(clipped).mean())
    expected = ((probabilities - np.eye(classes)[truth]) ** 2).sum(axis=1).mean()
    assert answer["brier"] == pytest.approx(expected)
    if classes == 2:
        expected = metrics.roc_auc_score(truth, probabilities[:, 1])
        both = metrics.brier_score_loss(truth, probabilities[:, 1])
        assert answer["brier"] == pytest.approx(2 * both)
    else:
        expected = metrics.roc_auc_score(truth, probabilities, multi_class="ovr")
    assert answer["auroc"] == pytest.approx(expected, abs=1e-6)
    assert warnings == []


def test_the_log_loss_is_scikit_learns_where_nothing_is_clipped() -> None:
    probabilities, truth = drawn(3)
    probabilities = 0.9 * probabilities + 0.1 / 3
    answer, _ = scores(range(3), probabilities, truth).result()
    assert answer["log_loss"] == pytest.approx(metrics.log_loss(truth, probabilities))


def test_the_calibration_error_is_guos_loop() -> None:
    probabilities, truth = drawn(4)
    confidence, label = probabilities.max(axis=1), probabilities.argmax(axis=1)
    answer, _ = scores(range(4), probabilities, truth, pieces=4).result()
    error, edges = 0.0, np.linspace(0, 1, 16)
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = (confidence > low) & (confidence <= high)
        bin_ = answer["reliability"][index]
        assert (bin_["lower"], bin_["upper"]) == pytest.approx((low, high))
        assert bin_["count"] == inside.sum()
        if inside.any():
            right = (label == truth)[inside].mean()
            assert bin_["accuracy"] == pytest.approx(right)
            assert bin_["confidence"] == pytest.approx(confidence[inside].mean())
            error += inside.mean() * abs(right - confidence[inside].mean())
        else:
            assert bin_["accuracy"] is None
    assert answer["ece"] == pytest.approx(error)


def test_scores_worked_by_hand() -> None:
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9]])
    answer, _ = scores(("no", "yes"), probabilities, np.array([0, 0, 1, 1])).result()
    assert answer["accuracy"] == 0.75
    assert answer["brier"] == pytest.approx((0.08 + 0.72 + 0.18 + 0.02) / 4)
    assert answer["auroc"] == 1
    # The only error is what it was least sure of.
    assert answer["uncertainty"]["confidence"]["auroc"] == 1
    assert answer["uncertainty"]["confidence"]["mean"] == pytest.approx(0.25)
    assert answer["uncertainty"]["confidence"]["aurc"] == pytest.approx(1 / 16)
    assert answer["risk_coverage"]["risk"][-1] == 0.25
    assert answer["risk_coverage"]["risk"][14] == 0


def test_the_area_for_errors_is_scikit_learns() -> None:
    probabilities, truth = drawn(5)
    answer, _ = scores(range(5), probabilities, truth).result()
    wrong = probabilities.argmax(axis=1) != truth
    entropy = -(probabilities * np.log(probabilities + 1e-300)).sum(axis=1)
    expected = metrics.roc_auc_score(wrong, entropy)
    assert answer["uncertainty"]["entropy"]["auroc"] == pytest.approx(expected)


def test_a_class_that_no_row_has_leaves_no_area() -> None:
    probabilities, truth = drawn(3)
    answer, (warning,) = scores(("a", "b", "c"), probabilities, np.minimum(truth, 1)).result()
    assert answer["auroc"] is None
    assert "'c'" in warning


def test_without_errors_nothing_tells_them_apart() -> None:
    probabilities, _ = drawn(3)
    answer, warnings = scores(range(3), probabilities, probabilities.argmax(axis=1)).result()
    assert answer["accuracy"] == 1
    assert answer["uncertainty"]["entropy"]["auroc"] is None
    assert any("every label is right" in warning for warning in warnings)


def test_too_many_probabilities_leave_no_area(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_scores, "MOST_HELD", 1000)
    probabilities, truth = drawn(3)
    own = scores(range(3), probabilities, truth, pieces=4)
    answer, (warning,) = own.result()
    assert answer["auroc"] is None
    assert "at most 1000" in warning
    again = ClassScores(range(3))
    again.restore(own.state())
    assert again.result() == own.result()


def test_neither_pieces_nor_an_interruption_change_the_scores() -> None:
    probabilities, truth = drawn(4)
    whole = scores(range(4), probabilities, truth, pieces=2)
    restored = ClassScores(range(4))
    restored.restore(scores(range(4), probabilities[:250], truth[:250]).state())
    entropy = -(probabilities * np.log(probabilities + 1e-300)).sum(axis=1)
    restored.add(probabilities[250:], truth[250:], {"entropy": entropy[250:]})
    assert restored.result() == whole.result()
