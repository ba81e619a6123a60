"""Calibration rows: taken out first, by the division of the job, and read by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.data.dataset import Data
from engine.data.series import Series
from engine.errors import SpecError
from engine.plan import TrainingPlan, plan_training
from engine.search_plan import refit_spec
from engine.spec import TrainSpec

ROWS = 100
BASE: dict[str, Any] = {"network": {"layers": [None, 4, None]}, "inputs": ["x"], "targets": ["y"]}


def table(rows: int = ROWS, **columns: Any) -> Data:
    rng = np.random.default_rng(2)
    x = rng.standard_normal(rows)
    own = {
        "x": x,
        "y": 2 * x + rng.standard_normal(rows),
        "g": np.arange(rows) % 10,
        "t": rng.permutation(rows),
        "kind": pa.array(["ab"[int(v > 1)] for v in x], pa.large_string()),
    }
    return Data(table=pa.table(own | columns))


def planned(data: Data | None = None, **spec: Any) -> TrainingPlan:
    calibrate = {"coverage": 0.9, "fraction": 0.2}
    given = {**BASE, "calibrate": calibrate, **spec}
    return plan_training(TrainSpec.model_validate(given), data or table())


def parts(plan: TrainingPlan) -> list[set[int]]:
    split = plan.split
    assert split.calibration is not None
    valid = [] if split.valid is None else split.valid.tolist()
    return [set(split.train.tolist()), set(valid), set(split.calibration.tolist())]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"validation": None},
        {"validation": {"rows": [1, 2, 3]}},
        {"rows": list(range(10, 90))},
        {"calibrate": {"coverage": 0.9, "rows": list(range(5, 25))}},
        {
            "rows": list(range(30, 90)),
            "validation": {"rows": [1, 2]},
            "calibrate": {"coverage": 0.9, "rows": list(range(5, 25))},
        },
    ],
)
def test_the_parts_have_no_row_in_common_and_leave_none_out(spec: dict[str, Any]) -> None:
    train, valid, calibration = parts(planned(**spec))
    assert not train & valid and not train & calibration and not valid & calibration  # noqa: PT018
    asked = set(spec.get("rows", range(ROWS)))
    for part in (spec.get("validation"), spec.get("calibrate")):
        asked |= set((part or {}).get("rows", []))
    assert train | valid | calibration == asked


def test_calibration_rows_are_drawn_by_their_own_seed_or_the_jobs() -> None:
    def drawn(seed: int, own: int | None = None) -> set[int]:
        calibrate = {"coverage": 0.9, "fraction": 0.2, "seed": own}
        return parts(planned(seed=seed, calibrate=calibrate))[2]

    assert drawn(1) == drawn(1) == drawn(2, own=1) != drawn(2)


def test_whole_groups_calibrate_where_groups_validate() -> None:
    plan = planned(validation={"fraction": 0.2, "group": "g"})
    groups = [{row % 10 for row in part} for part in parts(plan)]
    assert [len(group) for group in groups] == [6, 2, 2]


def test_the_last_in_time_calibrate_and_those_before_validate() -> None:
    data = table()
    times = data.column("t")
    plan = planned(data, validation={"fraction": 0.25, "time": "t"})
    train, valid, calibration = (sorted(times[list(part)]) for part in parts(plan))
    assert train == list(range(60))
    assert valid == list(range(60, 80))
    assert calibration == list(range(80, 100))


@pytest.mark.parametrize("form", ["table", "windows"])
def test_what_calibration_rows_hold_changes_nothing_that_is_learnt(form: str) -> None:
    spec: dict[str, Any] = {}
    if form == "windows":
        spec = {"sequence": {"window": 3}, "inputs": ["x", "y"]}
        spec["network"] = {"layers": [None, {"form": "rnn", "size": 3}, {"form": "last"}, None]}
    plan = planned(**spec)
    x, y = (table().column(name).copy() for name in "xy")
    x[plan.split.reserved], y[plan.split.reserved] = 1e6, -1e6
    other = planned(table(x=x, y=y), **spec)
    assert other.encoding == plan.encoding
    assert parts(other) == parts(plan)


def test_windows_that_calibrate_share_no_row_with_the_others() -> None:
    spec: dict[str, Any] = {"sequence": {"window": 4, "group": "g", "order": "t"}}
    spec["inputs"] = ["x", "y"]
    spec["network"] = {"layers": [None, {"form": "rnn", "size": 3}, {"form": "last"}, None]}
    data = table(400, g=np.arange(400) % 4)
    plan = planned(data, **spec)
    assert plan.encoding.sequence is not None
    series = Series.of(data, plan.encoding.sequence)
    read = []
    for windows in parts(plan):
        lasts = np.array(sorted(windows))
        rows = [series.covered(lasts, 4, after=after)[0] for after in (0, 1)]
        read.append(set(np.concatenate(rows).tolist()))
    assert not read[0] & read[1] and not read[0] & read[2] and not read[1] & read[2]  # noqa: PT018
    assert plan.split.reserved is not None
    assert read[2] == set(plan.split.reserved.tolist())
    again = plan_training(refit_spec(plan.spec, 1, None), data, reserved=plan.split.reserved)
    assert parts(again)[2] == parts(plan)[2]


def test_a_refit_trains_on_the_validation_rows_and_not_on_those_that_calibrate() -> None:
    plan = planned()
    again = plan_training(refit_spec(plan.spec, 1, None), table(), reserved=plan.split.reserved)
    train, valid, calibration = parts(plan)
    assert parts(again) == [train | valid, set(), calibration]


@pytest.mark.parametrize(
    ("spec", "pointer", "words"),
    [
        ({"calibrate": {"coverage": 0.99, "fraction": 0.2}}, "fraction", "at least 99"),
        ({"calibrate": {"coverage": 0.9, "rows": list(range(8))}}, "rows", "at least 9"),
        ({"calibrate": {"coverage": 0.9, "rows": [*range(10), 100]}}, "rows/10", "not exist"),
        ({"calibrate": {"coverage": 0.9, "rows": list(range(100))}}, "rows", "none is left"),
        (
            {
                "validation": {"rows": [12, 3]},
                "calibrate": {"coverage": 0.9, "rows": list(range(10))},
            },
            "rows/3",
            "row 3 is a validation row",
        ),
        ({"calibrate": {"coverage": 0.9, "fraction": 0.999}}, "fraction", "none to train on"),
        (
            {"calibrate": {"coverage": 0.9, "fraction": 0.2, "score": "normalised"}},
            "score",
            "all the same",
        ),
        (
            {
                "hidden_dropout": 0.1,
                "calibrate": {
                    "coverage": 0.9,
                    "fraction": 0.2,
                    "score": "normalised",
                    "num_samples": 1,
                },
            },
            "score",
            "one pass",
        ),
        (
            {"calibrate": {"coverage": 0.9, "fraction": 0.2, "dropout": {"hid9:out": 0.1}}},
            "dropout/hid9:out",
            "hid1:out",
        ),
        (
            {
                "targets": ["kind"],
                "calibrate": {"coverage": 0.9, "fraction": 0.16, "score": "lac"},
            },
            "fraction",
            "of 16 rows 8 fit",
        ),
        (
            {
                "targets": ["kind"],
                "calibrate": {"coverage": 0.9, "fraction": 0.2, "score": "absolute"},
            },
            "score",
            "it has aps, raps, lac",
        ),
        (
            {"calibrate": {"coverage": 0.9, "fraction": 0.2, "temperature": True}},
            "temperature",
            "no probabilities",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_refused_where_it_stands(
    spec: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        planned(**spec)
    assert caught.value.pointer == f"#/calibrate/{pointer}".rstrip("/")


def test_another_data_set_may_calibrate_and_must_fit() -> None:
    calibrate = {"coverage": 0.9, "dataset": "ds_other"}
    spec = TrainSpec.model_validate({**BASE, "calibrate": calibrate})
    plan = plan_training(spec, table(), calibration_data=table(15))
    assert plan.calibration_rows == 15
    assert plan.split.calibration is None
    assert plan.describe()["rows"] == {"train": 90, "valid": 10, "calibration": 15}
    with pytest.raises(SpecError, match="these are 8") as caught:
        plan_training(spec, table(), calibration_data=table(8))
    assert caught.value.pointer == "#/calibrate/dataset"
