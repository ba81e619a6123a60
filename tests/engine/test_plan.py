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


def test_sampled_weights_that_no_layer_has_are_warned_of() -> None:
    steps = {"form": "reshape", "shape": [2, 1]}
    filters = {"form": "conv1", "size": 4, "filter_size": 2}
    network = {"layers": [None, steps, filters, "flatten", None]}
    sample = {"network": network, "training": {"form": "sample"}}
    assert planned(**sample).warnings == ()
    (warning,) = planned(**sample, targets=["kind"]).warnings
    assert "'sample' changes nothing" in warning


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


def gappy(rows: Any, **columns: Any) -> Any:
    """Plan on 12 rows of which the last three lack everything but `x`."""
    numbers = [*(float(i % 5) for i in range(9)), None, None, None]
    table = {
        "x": pa.array(np.arange(12.0)),
        "n": pa.array(numbers),
        "i": pa.array([None if v is None else int(v) for v in numbers], type=pa.int64()),
        "b": pa.array([None if v is None else v > 2 for v in numbers]),
        "t": pa.array([None if v is None else f"c{v:g}" for v in numbers], pa.large_string()),
        "w": pa.array([1.0] * 9 + [None, -1.0, 0.0]),
    }
    spec = {"inputs": ["x"], "network": {"layers": [None, 2, None]}, "rows": rows, **columns}
    return plan_training(TrainSpec.model_validate(spec), Data(table=pa.table(table)))


@pytest.mark.parametrize(
    "asked",
    [
        {"targets": ["n"]},
        {"targets": ["n", "i"]},
        {"targets": ["t"]},
        {"targets": ["b"]},
        {"targets": ["i"], "form": "classifier"},
        {"targets": ["n"], "sample_weight": "w"},
        {"inputs": ["n", "i", "b"], "form": "autoencoder"},
    ],
    ids=str,
)
def test_only_the_rows_that_a_job_uses_need_targets_and_weights(asked: dict[str, Any]) -> None:
    form = asked.pop("form", None)
    if form is not None:
        asked["network"] = {"form": form, "layers": [None, 2, None]}
    used = list(range(9))
    for validation in (None, 0.25, {"rows": [7, 8]}, {"fraction": 0.25, "seed": 1}):
        plan = gappy(used, validation=validation, **asked)
        assert set(plan.split.train) <= set(used)
    with pytest.raises(EngineError, match="missing values") as caught:
        gappy([*used, 9], validation=None, **asked)
    assert caught.value.pointer.lstrip("#/") in ("targets", "inputs", "sample_weight")
    with pytest.raises(EngineError, match="missing values"):
        gappy(None, **asked)
    # Rows that only validate are used, too.
    with pytest.raises(EngineError, match="missing values"):
        gappy(used, validation={"rows": [9]}, **asked)


def test_weights_are_checked_on_the_rows_that_a_job_uses() -> None:
    def weighted(rows: list[int], **more: Any) -> Any:
        weight = {"targets": ["x"], "inputs": ["i"], "sample_weight": "w", "validation": None}
        return gappy(rows, **weight | more)

    assert weighted([0, 1, 11]).selection.sample_weight == "w"
    for rows, words in (([0, 9], "1 missing"), ([0, 10], "least is -1"), ([11], "are 0")):
        with pytest.raises(EngineError, match=words) as caught:
            weighted(rows)
        assert caught.value.pointer == "#/sample_weight"
    with pytest.raises(EngineError, match=r"validation rows .* are 0") as caught:
        weighted([0, 1], validation={"rows": [11]})
    assert caught.value.pointer == "#/sample_weight"


@pytest.mark.parametrize("weights", [[1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
def test_weights_in_arrays_are_checked_before_anything_runs(weights: list[float]) -> None:
    arrays = {"x": np.ones((4, 2)), "y": np.arange(4.0), "w": np.array(weights)}
    spec = {"sample_weight": "w", "network": {"layers": [None, 2, None]}, "rows": [0, 1, 2]}
    with pytest.raises(EngineError) as caught:
        plan_training(TrainSpec.model_validate({**spec, "validation": None}), Data(arrays=arrays))
    assert caught.value.pointer == "#/sample_weight"


def test_a_plan_names_what_the_network_reads_of_the_columns() -> None:
    plan = planned(inputs=["kind", "a"]).describe()
    assert plan["inputs"] == ["kind", "a"]
    assert plan["input_names"] == ["kind=cat", "kind=dog", "a"]
    assert plan["input_count"] == plan["layers"][0]["size"] == 3
    gaps = gappy(None, inputs=["t", "n"], targets=["x"]).describe()
    assert gaps["input_names"][-2:] == ["n", "n is missing"]


def test_a_plan_names_the_first_thousand_of_very_many_inputs() -> None:
    data = Data(arrays={"x": np.ones((4, 1500)), "y": np.arange(4.0)})
    spec = TrainSpec.model_validate({"network": {"layers": [None, 2, None]}})
    plan = plan_training(spec, data).describe()
    assert plan["input_names"] == [f"x[{number}]" for number in range(1000)]
    assert plan["input_count"] == 1500
