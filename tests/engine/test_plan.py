"""Plans: a whole request checked against its data, before anything runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.data.dataset import Data
from engine.errors import EngineError
from engine.evaluation import given_precision
from engine.plan import plan_training
from engine.spec import TrainSpec

TABLE = Data(
    table=pa.table(
        {
            "a": np.arange(40, dtype=np.float64),
            "b": np.arange(40, dtype=np.float64) % 7,
            "kind": pa.array(["cat", "dog"] * 20, type=pa.large_string()),
            "y": np.arange(40, dtype=np.float64) * 2,
        }
    )
)


def planned(**spec: Any) -> Any:
    given = {"inputs": ["a", "b"], "targets": ["y"], "network": {"layers": [None, 5, None]}} | spec
    return plan_training(TrainSpec.model_validate(given), TABLE)


def test_a_plan_tells_shapes_names_patterns_and_costs() -> None:
    plan = planned(dropout={"hid*:out": 0.1}, validation=0.25, batch_size=8).describe()
    assert json.loads(json.dumps(plan)) == plan
    assert [layer["size"] for layer in plan["layers"]] == [2, 5, 1]
    assert plan["parameters"]["hid1.w"]["shape"] == [2, 5]
    assert plan["parameter_count"] == 2 * 5 + 5 + 5 + 1
    assert plan["regularizers"][0]["matched"] == ["hid1:out"]
    assert plan["rows"] == {"train": 30, "valid": 10}
    assert plan["steps_per_epoch"] == 4
    assert plan["estimated_seconds"] > 0
    assert plan["estimated_memory_bytes"] > 0
    assert plan["warnings"] == []


def test_a_text_target_makes_a_classifier() -> None:
    plan = planned(targets=["kind"])
    assert plan.graph.form == "classifier"
    assert plan.encoding.classes == ("cat", "dog")
    assert plan.graph.last.size == 2


def test_what_has_no_effect_is_warned_of() -> None:
    warnings = planned(dropout={"hid1:pre": 0.1, "*:out": 0.2}, validation=None).warnings
    assert any("'hid1:pre'" in text for text in warnings)
    assert any("noise precision" in text for text in warnings)
    assert any("'out:out'" in text for text in warnings)


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"inputs": ["no*"]}, "#/inputs/0"),
        ({"targets": ["no"]}, "#/targets/0"),
        ({"network": {"layers": [None, 5, 3]}}, "#/network/layers/2/size"),
        ({"network": {"layers": [3, 5, None]}}, "#/network/layers/0/size"),
        ({"network": {"layers": [None, 5, None], "loss": "xe"}}, "#/network/loss"),
        ({"network": {"layers": [None, 1_000_000, 1000, None]}}, "#/network/layers"),
        ({"dropout": {"hid7:out": 0.1}}, "#/dropout/hid7:out"),
        ({"rows": [0, 1, 99]}, "#/rows/2"),
        ({"validation": {"rows": [99]}}, "#/validation/rows/0"),
        ({"patience": 3, "validation": None}, "#/patience"),
        ({"noise_precision": {"z": 1.0}}, "#/noise_precision"),
        ({"targets": ["kind"], "noise_precision": 2.0}, "#/noise_precision"),
    ],
)
def test_a_bad_request_is_refused_where_it_stands(spec: dict[str, Any], pointer: str) -> None:
    with pytest.raises(EngineError) as caught:
        planned(**spec)
    assert caught.value.pointer == pointer
    assert caught.value.detail


@pytest.mark.parametrize("given", [{"y": 3.0}, {"y[0]": 3.0, "y[1]": 2.0}, 3.0, "fit"])
def test_noise_precision_of_an_array_goes_by_its_name_or_its_columns(given: Any) -> None:
    rng = np.random.default_rng(0)
    data = Data(arrays={"x": rng.standard_normal((40, 3)), "y": rng.standard_normal((40, 2))})
    spec = TrainSpec.model_validate(
        {"network": {"layers": [None, 4, None]}, "noise_precision": given}
    )
    names = plan_training(spec, data).encoding.target_names
    if isinstance(given, dict):
        assert [given_precision(spec.noise_precision, name) for name in names] == [
            3.0,
            given.get("y[1]", 3.0),
        ]
