"""The size of an answer is told before it is made, as it then is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.prediction import plan_prediction
from engine.spec import PredictSpec
from engine.summary import statistics_of
from tests.engine.networks import rows_of
from tests.engine.test_prediction import IDS, ROWS, classifier, regressor


def count(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(map(count, tree.values()))
    return tree.size if isinstance(tree, np.ndarray) else 0


@pytest.mark.parametrize("form", ["regressor", "classifier"])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"num_samples": 1},
        {"num_samples": 7},
        {"num_samples": 7, "quantiles": [0.1, 0.2, 0.5, 0.7]},
        {"num_samples": 7, "outputs": ["hid1:out"]},
        {"outputs": ["hid1:out"]},
        {"num_samples": 7, "statistics": ["mean", "samples"], "outputs": ["hid1:out"]},
        {"num_samples": 7, "masks": "shared", "statistics": ["std", "covariance"]},
        {"num_samples": 7, "statistics": "all"},
    ],
)
def test_it_is_that_of_the_answer(form: str, asked: dict[str, Any]) -> None:
    model = classifier() if form == "classifier" else regressor({"hidden_dropout": 0.5})
    if asked.get("statistics") == "all":
        wanted = [s for s in statistics_of(form) if s not in ("interval", "set", "covariance")]
        asked = {**asked, "statistics": wanted}
    elif form == "classifier" and "mean" in asked.get("statistics", ()):
        asked = {**asked, "statistics": ["probabilities", "samples"]}
    plan = plan_prediction(model, PredictSpec.model_validate(asked), seed=5)
    answer = plan.run(rows_of(ROWS), IDS)
    assert plan.answer_size(len(ROWS)) == count(answer)
