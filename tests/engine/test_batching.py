"""Requests answered together: each gets the answer that it would get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.artifact import Model
from engine.batching import run_together
from engine.data.inputs import Inputs
from engine.errors import StoppedError
from engine.prediction import PredictionPlan, plan_prediction
from engine.spec import PredictSpec
from tests.engine.networks import rows_of
from tests.engine.test_estimation import same
from tests.engine.test_prediction import classifier, regressor

MODELS = {"regressor": regressor({"hidden_dropout": 0.5}), "classifier": classifier()}
STATISTICS = {
    "regressor": [
        "mean", "std", "quantiles", "standard_error", "variance", "predictive_quantiles", "samples",
    ],
    "classifier": [
        "label", "probabilities", "std", "entropy", "expected_entropy", "mutual_information",
        "variation_ratio", "samples",
    ],
}  # fmt: skip


def planned(model: Model, request: dict[str, Any], seed: int = 5) -> PredictionPlan:
    return plan_prediction(model, PredictSpec.model_validate(request), seed=seed)


@st.composite
def requests(draw: st.DrawFn, form: str) -> dict[str, Any]:
    """What several callers might ask for in common."""
    request: dict[str, Any] = {
        "masks": draw(st.sampled_from(["independent", "shared"])),
        "outputs": draw(st.sampled_from([[], ["hid1:out*"], ["out:*", "in:out"]])),
    }
    request |= draw(
        st.sampled_from(
            [
                {"hidden_dropout": 0.5},
                {"input_dropout": 0.2, "hidden_noise": 0.3},
                {"dropout": {"hid1:out": 0.0}},
                {"regularizers": [{"form": "drop_connect", "pattern": "hid1.w", "weight": 0.3}]},
            ]
        )
    )
    passes = draw(st.none() | st.sampled_from([1, 2, 64, 65, 130]))
    if passes is not None:
        request["num_samples"] = passes
        names = st.lists(st.sampled_from(STATISTICS[form]), min_size=1, unique=True)
        if draw(st.booleans()):
            request["statistics"] = draw(names)
    return request


@settings(max_examples=60, deadline=None)
@given(form=st.sampled_from(["regressor", "classifier"]), data=st.data())
def test_each_answer_of_a_batch_has_the_bits_of_its_lone_twin(
    form: str, data: st.DataObject
) -> None:
    request = data.draw(requests(form))
    plans: list[PredictionPlan] = []
    xs: list[Inputs] = []
    for _ in range(data.draw(st.integers(1, 5))):
        offset = {"row_offset": data.draw(st.integers(0, 50))}
        seed = data.draw(st.integers(0, 3))
        plans.append(planned(MODELS[form], request | offset, seed))
        rows = np.random.default_rng(seed).standard_normal((data.draw(st.integers(1, 40)), 4))
        xs.append(rows_of(rows.astype(np.float32)))
    ids = [np.arange(len(x)) for x in xs]
    together = run_together(plans, xs, ids)
    for plan, x, own, answer in zip(plans, xs, ids, together, strict=True):
        assert same(answer, plan.run(x, own))


def test_plans_run_together_where_only_seed_and_offset_differ() -> None:
    model = MODELS["regressor"]
    base: dict[str, Any] = {"hidden_dropout": 0.5, "num_samples": 9}
    key = planned(model, base).batch_key
    assert planned(model, base | {"row_offset": 7, "seed": 3}, seed=3).batch_key == key
    assert planned(model, {"num_samples": 9}).batch_key == key  # the rates are those of training
    for other in (
        {"num_samples": 10},
        {"hidden_dropout": 0.4},
        {"masks": "shared"},
        {"outputs": ["hid1:out"]},
        {"quantiles": [0.5]},
        {"statistics": ["mean"]},
        {"statistics": ["mean", "std", "quantiles", "standard_error", "variance"]},
    ):
        assert planned(model, base | other).batch_key != key
    assert planned(regressor({"hidden_dropout": 0.5}), base).batch_key != key
    for ends in ({"tolerance": 0.1}, {"budget_ms": 5.0}):
        one, two = (planned(model, base | ends).batch_key for _ in range(2))
        assert one != two


def test_plans_that_differ_do_not_run_together() -> None:
    plans = [planned(MODELS["regressor"], {"num_samples": count}) for count in (8, 9)]
    x = rows_of(np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="batch_key"):
        run_together(plans, [x, x], [np.arange(1)] * 2)


def test_whoever_stops_a_batch_stops_all() -> None:
    plans = [planned(MODELS["regressor"], {"num_samples": 8})] * 2
    x = rows_of(np.zeros((1, 4), dtype=np.float32))
    with pytest.raises(StoppedError):
        run_together(plans, [x, x], [np.arange(1)] * 2, stop=lambda: True)
