"""Metrics against scikit-learn's, on the data's own scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from engine.graph import Graph
from engine.metrics import DeterministicMetrics
from tests.engine.networks import graph_of

SCALE = np.array([10.0, 0.1, 3.0])


def metrics_of(graph: Graph, outputs: Any, targets: Any, scale: Any) -> dict[str, float]:
    return DeterministicMetrics(graph, targets, target_scale=scale).of(outputs)


def test_metrics_are_those_of_the_field() -> None:
    rng = np.random.default_rng(1)
    targets = rng.standard_normal((40, 3)).astype(np.float32)
    outputs = (targets + 0.5 * rng.standard_normal((40, 3))).astype(np.float32)
    found = metrics_of(graph_of([2, 3]), outputs, targets, SCALE)
    truth, guess = targets * SCALE, outputs * SCALE
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, guess), rel=1e-6)
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, guess), rel=1e-6)
    assert found["r2"] == pytest.approx(r2_score(truth, guess), rel=1e-6)


def test_metrics_of_a_sequence_are_those_of_its_steps() -> None:
    rng = np.random.default_rng(2)
    outputs, targets = rng.standard_normal((2, 8, 5, 3)).astype(np.float32)
    whole = metrics_of(graph_of([2, 3]), outputs, targets, SCALE)
    one, two = (array.reshape(40, 3) for array in (outputs, targets))
    assert whole == pytest.approx(metrics_of(graph_of([2, 3]), one, two, SCALE), rel=1e-6)


def test_a_target_that_never_changes_has_no_r2() -> None:
    outputs = np.arange(6, dtype=np.float32).reshape(3, 2)
    targets = np.full((3, 2), 0.1, dtype=np.float32)
    found = metrics_of(graph_of([2, 2]), outputs, targets, None)
    assert set(found) == {"rmse", "mae"}
