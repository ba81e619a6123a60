"""Ranges: rows are outside where a value lies beyond those of the training rows, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engine.data import ranges
from engine.data.dataset import Data
from engine.data.encoding import Encoding
from engine.data.inputs import Inputs
from engine.data.selection import Selection
from engine.spec import ColumnSpec


def fitted(data: Data, rows: Any = None, **options: dict[str, Any]) -> Encoding:
    names = tuple(name for name in data.names if name != "y")
    selection = Selection(
        kind=data.kind,
        form="regressor",
        inputs=names,
        targets=("y",),
        sample_weight=None,
        options={name: ColumnSpec.model_validate(given) for name, given in options.items()},
    )
    return Encoding.fit(data, selection, np.arange(data.rows) if rows is None else rows)


def table(**columns: Any) -> Data:
    return Data(
        table=pa.table({**columns, "y": [0.0, 1.0] * (len(next(iter(columns.values()))) // 2)})
    )


AGES = table(age=[20.0, 60.0, 30.0, 40.0], city=pa.array(["a", "b", "a", "b"], pa.large_string()))


def listed(encoding: Encoding, records: Any) -> list[tuple[int, tuple[str, ...]]]:
    found = encoding.ranges.outside(encoding.encode_records(records))
    return [] if found is None else found.listed


def test_a_row_is_outside_below_the_least_and_above_the_largest_value() -> None:
    rows = [[20, "a"], [60, "b"], [19.99, "a"], [60.01, "a"], [45, "b"]]
    assert listed(fitted(AGES), rows) == [(2, ("age",)), (3, ("age",))]
    assert listed(fitted(AGES), [[30, "a"]]) == []
    # What the training rows have not, counts as outside though the data set has it.
    assert listed(fitted(AGES, np.array([0, 2])), [[40, "a"], [25, "a"]]) == [(0, ("age",))]


@settings(deadline=None, max_examples=50)
@given(
    values=npst.arrays(
        np.float64,
        st.tuples(st.integers(2, 9), st.integers(1, 3)),
        elements=st.floats(-1e6, 1e6, width=32).map(lambda value: round(value, 3)),
    )
)
def test_training_rows_are_never_outside_and_rows_further_off_always_are(values: Any) -> None:
    encoding = fitted(Data(arrays={"x": values, "y": np.zeros(len(values))}))
    assert listed(encoding, values.tolist()) == []
    assert encoding.ranges.outside(encoding.encode_inputs(Data(arrays={"x": values}))) is None
    reach = 1e-3 * (1 + np.abs(values).max())
    for beyond in (values.max(axis=0) + reach, values.min(axis=0) - reach):
        (row,) = listed(encoding, [beyond.tolist()])
        assert row == (0, encoding.input_names)


def test_what_is_missing_is_not_outside() -> None:
    gaps = table(age=[20.0, None, 30.0, 40.0])
    assert listed(fitted(gaps), [[None], [50]]) == [(1, ("age",))]
    constant = {"age": {"missing": "constant", "fill": -999.0, "indicator": False}}
    assert listed(fitted(gaps, **constant), [[None], [-500]]) == [(1, ("age",))]


def test_a_sequence_or_image_is_outside_where_one_of_its_values_is() -> None:
    rng = np.random.default_rng(0)
    for shape in ((4, 2), (2, 3, 3)):
        x = rng.uniform(-1, 1, (20, *shape))
        encoding = fitted(Data(arrays={"x": x, "y": np.zeros(20)}))
        strange = x[:3].copy()
        strange[1].flat[-1] = 5.0  # of the last feature (channel), at the last step (pixel)
        assert listed(encoding, strange.tolist()) == [(1, ("x[1]",))]


def test_all_rows_are_counted_and_the_first_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.linspace(0, 1, 400).reshape(200, 2)
    encoding = fitted(Data(arrays={"x": x, "y": np.zeros(200)}))
    far = x.copy()
    far[50:] += 9
    far[:, 1] = 0.5
    encoded = encoding.encode_records(far.tolist())
    whole = encoding.ranges.outside(encoded)
    assert whole is not None
    assert (whole.rows, dict(whole.inputs)) == (150, {"x[0]": 150})
    assert whole.listed == [(row, ("x[0]",)) for row in range(50, 50 + ranges.MAX_LISTED)]
    monkeypatch.setattr(ranges, "_PIECE", 14)
    assert encoding.ranges.outside(encoded) == whole
    assert "150 rows" in whole.told()
    assert "'x[0]' (150)" in whole.told()


def test_nothing_is_outside_where_no_range_is_known() -> None:
    imported = Encoding.identity({"in": (2,)}, (1,), "regressor")
    assert listed(imported, [[1e9, -1e9]]) == []
    old = {"name": "age", "type": "integer", "size": 1, "mean": 3.0, "scale": 2.0}
    document = {"kind": "table", "form": "regressor", "inputs": [old], "targets": [old]}
    assert listed(Encoding.model_validate(document), [[1e9]]) == []


def test_values_of_a_hidden_layer_have_no_range() -> None:
    hidden = Inputs({"hid1:out": np.full((2, 5), 1e9, dtype=np.float32)})
    assert fitted(AGES).ranges.outside(hidden) is None
