"""Estimates: passes until there are enough, and the same numbers however they were drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine import estimation, tallies
from engine.errors import SpecError, StoppedError
from engine.prediction import Estimate, PredictionPlan, plan_prediction
from engine.spec import PredictSpec
from tests.engine.networks import rows_of
from tests.engine.test_prediction import IDS, ROWS, classifier, regressor

EVERYTHING = ["mean", "std", "quantiles", "standard_error", "variance", "samples"]


def planned(request: dict[str, Any], *, of_classes: bool = False) -> PredictionPlan:
    model = classifier() if of_classes else regressor({"hidden_dropout": 0.5})
    return plan_prediction(model, PredictSpec.model_validate(request), seed=5)


def estimates(plan: PredictionPlan, **ends: Any) -> list[Estimate]:
    return list(plan.estimates(rows_of(ROWS), IDS, **ends))


def same(one: Any, other: Any) -> bool:
    """Say whether two trees have the same bits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other, equal_nan=one.dtype != object))


def after(calls: int) -> Callable[[], bool]:
    """Be late from a call on."""
    count = iter(range(1_000_000))
    return lambda: next(count) >= calls


@pytest.mark.parametrize("of_classes", [False, True])
def test_each_estimate_is_the_answer_of_so_many_passes(of_classes: bool) -> None:
    request: dict[str, Any] = {"outputs": ["hid1:out"], "masks": "shared"}
    if not of_classes:
        request["statistics"] = EVERYTHING
    told = estimates(planned({**request, "num_samples": 300}, of_classes=of_classes))
    assert [estimate.num_samples for estimate in told] == [64, 128, 256, 300]
    assert [estimate.stopped_by for estimate in told] == [None, None, None, "num_samples"]
    for estimate in told:
        alone = planned({**request, "num_samples": estimate.num_samples}, of_classes=of_classes)
        assert same(estimate.outputs, alone.run(rows_of(ROWS), IDS))


def test_few_passes_are_one_estimate() -> None:
    (only,) = estimates(planned({"num_samples": 10}))
    assert (only.num_samples, only.stopped_by) == (10, "num_samples")
    (single,) = estimates(planned({}))
    assert list(single.outputs) == ["prediction"]


def test_passes_end_when_the_standard_errors_are_small_enough() -> None:
    plenty = planned({"num_samples": 4096, "statistics": ["standard_error"]})
    errors = {e.num_samples: e.outputs["standard_error"].max() for e in estimates(plenty)}
    wanted = (errors[256] + errors[512]) / 2
    plan = planned({"num_samples": 4096, "tolerance": float(wanted), "statistics": ["mean"]})
    last = estimates(plan)[-1]
    assert (last.num_samples, last.stopped_by) == (512, "tolerance")
    assert same(last.outputs, plan.run(rows_of(ROWS), IDS))
    assert plan.answer(rows_of(ROWS), IDS).num_samples == 512
    fewer = planned({"num_samples": 300, "tolerance": float(wanted)})
    assert estimates(fewer)[-1].stopped_by == "num_samples"


def test_a_tolerance_may_be_of_single_targets() -> None:
    plenty = planned({"num_samples": 4096, "statistics": ["standard_error"]})
    of_size = {e.num_samples: e.outputs["standard_error"][:, 1].max() for e in estimates(plenty)}
    wanted = float((of_size[128] + of_size[256]) / 2)
    last = estimates(planned({"num_samples": 4096, "tolerance": {"size": wanted}}))[-1]
    assert (last.num_samples, last.stopped_by) == (256, "tolerance")


def test_a_classifiers_tolerance_is_of_its_probabilities() -> None:
    plan = planned({"num_samples": 100_000, "tolerance": 0.005}, of_classes=True)
    last = estimates(plan)[-1]
    assert last.stopped_by == "tolerance"
    assert (last.outputs["std"] / np.sqrt(last.num_samples)).max() <= 0.005


def test_what_never_varies_meets_any_tolerance() -> None:
    plan = planned({"num_samples": 1000, "hidden_dropout": 0.0, "tolerance": 1e-300})
    (only,) = estimates(plan)
    assert (only.num_samples, only.stopped_by) == (64, "tolerance")


def test_late_ends_the_passes_but_never_before_the_first_block() -> None:
    plan = planned({"num_samples": 1000, "budget_ms": 5.0})
    (only,) = estimates(plan, late=lambda: True)
    assert (only.num_samples, only.stopped_by) == (64, "budget_ms")
    for calls in (1, 2, 3):
        last = estimates(plan, late=after(calls))[-1]
        alone = planned({"num_samples": last.num_samples})
        assert last.stopped_by == "budget_ms"
        assert last.num_samples % 64 == 0
        assert same(last.outputs, alone.run(rows_of(ROWS), IDS))
    assert plan.answer(rows_of(ROWS), IDS, late=lambda: True).num_samples == 64
    few = planned({"num_samples": 10, "budget_ms": 5.0})
    assert estimates(few, late=lambda: True)[-1].stopped_by == "num_samples"


def test_no_bit_depends_on_how_rows_and_passes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned({"num_samples": 200, "statistics": EVERYTHING, "outputs": ["hid1:*"]})
    whole = plan.run(rows_of(ROWS), IDS)
    running = estimates(plan)
    monkeypatch.setattr(estimation, "_PIECE", 64 * 40 * 3)
    monkeypatch.setattr(estimation, "_KEPT", 200 * 62 * 2)
    monkeypatch.setattr(estimation, "_PREPARED", 0)
    assert same(plan.run(rows_of(ROWS), IDS), whole)
    for one, other in zip(estimates(plan), running, strict=True):
        assert same(one.outputs, other.outputs)
    # Late within a piece that has begun: none of its rows is counted.
    for calls in range(1, 9):
        last = estimates(plan, late=after(calls))[-1]
        alone = planned(
            {"num_samples": last.num_samples, "statistics": EVERYTHING, "outputs": ["hid1:*"]}
        )
        assert same(last.outputs, alone.run(rows_of(ROWS), IDS))


def test_quantiles_of_many_passes_come_from_a_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"num_samples": 700, "statistics": ["quantiles", "samples"], "outputs": ["hid1:out"]}
    exact = planned(request).run(rows_of(ROWS), IDS)
    monkeypatch.setattr(tallies, "EXACT_PASSES", 300)
    sketched = planned(request).run(rows_of(ROWS), IDS)
    assert np.array_equal(sketched["samples"], exact["samples"])
    assert not same(exact["hid1:out"], sketched["hid1:out"])
    for key, values in exact["quantiles"].items():
        away = np.abs(values - exact["samples"][:64].mean(axis=0))
        spacing = np.diff(np.sort(exact["samples"], axis=0), axis=0).max(axis=0)
        assert (np.abs(sketched["quantiles"][key] - values) <= 0.001 * (away + spacing)).all()
        assert not np.array_equal(sketched["quantiles"][key], values)
    told = estimates(planned(request))
    assert same(told[-1].outputs, sketched)
    fewer = planned({**request, "num_samples": 256})  # still exact
    assert same(told[2].outputs, fewer.run(rows_of(ROWS), IDS))
    without = planned({**request, "statistics": ["quantiles"]}).run(rows_of(ROWS), IDS)
    assert same(without["quantiles"], sketched["quantiles"])


def test_whoever_stops_gets_no_estimate() -> None:
    with pytest.raises(StoppedError):
        estimates(planned({"num_samples": 1000}), stop=lambda: True)


@pytest.mark.parametrize(
    ("request_", "pointer", "words"),
    [
        ({"tolerance": 0.1}, "#/tolerance", "give `num_samples`"),
        ({"budget_ms": 5.0}, "#/budget_ms", "give `num_samples`"),
        ({"tolerance": 0.1, "num_samples": 1}, "#/tolerance", "one pass has none"),
        ({"tolerance": {"sice": 0.1}, "num_samples": 9}, "#/tolerance/sice", "price, size"),
    ],
)
def test_ends_that_make_no_sense_are_refused_where_they_stand(
    request_: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        planned(request_)
    assert caught.value.pointer == pointer


def test_a_classifiers_tolerance_is_one_number() -> None:
    with pytest.raises(SpecError, match="one number"):
        planned({"tolerance": {"kind": 0.1}, "num_samples": 9}, of_classes=True)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("inf"), "a", True, {}, {"size": 0.0}])
@pytest.mark.parametrize("name", ["tolerance", "budget_ms"])
def test_ends_are_positive_and_finite(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=name):
        PredictSpec.model_validate({"num_samples": 9, name: wrong})
