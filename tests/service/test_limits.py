"""Limits of online answers: a million rows x passes of a small network are within them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.artifact import Model
from engine.data.encoding import Encoding
from engine.prediction import plan_prediction
from engine.spec import Form, PredictSpec
from service.errors import TooLarge
from service.limits import check_size
from tests.engine.networks import random_network


def model_of(form: Form, outputs: int) -> Model:
    network = random_network([4, 50, outputs], form=form)
    encoding = Encoding.identity({"in": (4,)}, (outputs,), form)
    return Model(network=network, encoding=encoding, trained=(), noise_precision=None)


@pytest.mark.parametrize(("form", "outputs"), [("regressor", 5), ("classifier", 22)])
@pytest.mark.parametrize("passes", [None, 1, 10, 1000])
@pytest.mark.parametrize("samples", [False, True])
def test_a_million_rows_x_passes_are_answered(
    form: Form, outputs: int, passes: int | None, samples: bool
) -> None:
    asked: dict[str, Any] = {"num_samples": passes}
    if passes is not None:
        asked["hidden_dropout"] = 0.5
        if samples:
            mean = "probabilities" if form == "classifier" else "mean"
            asked["statistics"] = [mean, "samples"]
    spec = PredictSpec.model_validate(asked)
    plan = plan_prediction(model_of(form, outputs), spec, seed=1)
    assert check_size(plan, 1_000_000 // (passes or 1)) > 0


def test_what_is_larger_is_told_with_the_limit() -> None:
    plan = plan_prediction(model_of("regressor", 60), PredictSpec(), seed=1)
    with pytest.raises(TooLarge, match="60000000 numbers, and at most 50000000") as caught:
        check_size(plan, 1_000_000)
    assert "POST /predictions" in caught.value.detail
