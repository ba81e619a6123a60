"""Nested lists become arrays; what is wrong is pointed at exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.arrays import ScaledArray
from engine.data.dataset import Data
from engine.data.encoding import Encoding, InputGroup
from engine.data.scaling import Scaled
from engine.data.selection import Selection
from engine.errors import DataError
from tests.engine.networks import only

X = np.random.default_rng(1).normal(2, 3, (3, 4, 2))
ROWS = X.tolist()


def _encoding(*others: Scaled) -> Encoding:
    """Reads sequences of 4 steps of 2 numbers, `x`, and the other columns; predicts `y`."""
    data = Data(arrays={"x": X, "y": np.arange(3.0)})
    selection = Selection(kind="arrays", form="regressor", inputs=("x",), targets=("y",))
    encoding = Encoding.fit(data, selection, np.arange(3))
    groups = (
        InputGroup(layer="in", reads=("x",)),
        InputGroup(layer="more", reads=tuple(field.name for field in others)),
    )
    return Encoding.model_validate(
        encoding.model_dump()
        | {
            "inputs": [field.model_dump() for field in (*encoding.inputs, *others)],
            "groups": [group.model_dump() for group in groups if group.reads],
        }
    )


def _changed(row: int, step: int, value: Any) -> list[Any]:
    """The rows, with one step's second number changed."""
    rows: list[Any] = X.tolist()
    rows[row][step][1] = value
    return rows


def test_rows_objects_and_columns_say_the_same() -> None:
    encoding = _encoding()
    expected = (X - X.mean((0, 1))) / X.std((0, 1))
    for inputs in (
        ROWS,
        {"x": ROWS},
        [{"x": row} for row in ROWS],
        [{"x": row, "y": None} for row in ROWS],
        {"x": ROWS, "y": [1]},
        tuple(tuple(tuple(step) for step in row) for row in ROWS),
    ):
        np.testing.assert_allclose(only(encoding.encode_records(inputs)), expected, atol=1e-6)


def test_arrays_and_columns_are_read_side_by_side() -> None:
    encoding = _encoding(Scaled(name="age", mean=10, scale=2), Scaled(name="u", size=2))
    x = only(_encoding().encode_records(ROWS))
    ages = zip(ROWS, (8, 10, 12), strict=True)
    records = [{"x": row, "age": age, "u": [age, 0]} for row, age in ages]
    columns = {"x": ROWS, "age": [8, 10, 12], "u": [[8, 0], [10, 0], [12, 0]], "y": [0] * 3}
    for inputs in (records, columns):
        values = encoding.encode_records(inputs).values
        assert np.array_equal(values["in:out"], x)
        assert values["more:out"].tolist() == [[-1, 8, 0], [0, 10, 0], [1, 12, 0]]


@pytest.mark.parametrize(
    ("inputs", "pointer", "says"),
    [
        (3, "#/inputs", "got a number"),
        ("x", "#/inputs", "got a text"),
        ([], "#/inputs", "at least one"),
        ({"x": []}, "#/inputs/x", "at least one"),
        ({"x": 1}, "#/inputs/x", "expected a list of rows, each a list of 4 lists of 2 numbers"),
        ({}, "#/inputs/x", "'x' is missing"),
        ({"x": ROWS, "z": 1}, "#/inputs", "does not know 'z'; it reads 'x'"),
        ([{"x": ROWS[0]}, {"y": 1}], "#/inputs/1/x", "'x' is missing"),
        ([{"x": ROWS[0]}, {"x": ROWS[0], "z": 1}], "#/inputs/1", "does not know 'z'"),
        ([{"x": ROWS[0]}, ROWS[0]], "#/inputs/1", "all rows are objects"),
        ([ROWS[0], {"x": ROWS[0]}], "#/inputs/1", "got an object"),
        ([[]], "#/inputs/0", "expected a list of 4 lists of 2 numbers, got a list of 0"),
        ([ROWS[0], ROWS[1][:3]], "#/inputs/1", "got a list of 3"),
        ([ROWS[0], [1, 2, 3, 4]], "#/inputs/1/0", "expected a list of 2 numbers, got a number"),
        (_changed(1, 2, None), "#/inputs/1/2/1", "expected a number, got null"),
        (_changed(1, 2, None), "#/inputs/1/2/1", "a row of 'x' is a list of 4 lists of 2 numbers"),
        (_changed(2, 0, "1"), "#/inputs/2/0/1", "got a text"),
        (_changed(2, 0, True), "#/inputs/2/0/1", "got a boolean"),
        (_changed(0, 3, [1.0]), "#/inputs/0/3/1", "got a list"),
        (_changed(0, 3, 10**400), "#/inputs/0/3/1", "finite"),
        (_changed(0, 3, float("nan")), "#/inputs/0/3/1", "finite"),
        (_changed(0, 3, 1e300), "#/inputs/0/3/1", "too far"),
        ({"x": _changed(0, 3, 1e300)}, "#/inputs/x/0/3/1", "too far"),
        ([{"x": row} for row in _changed(1, 2, None)], "#/inputs/1/x/2/1", "got null"),
        ({"x": _changed(1, 2, {})}, "#/inputs/x/1/2/1", "got an object"),
    ],
)
def test_the_first_thing_wrong_is_pointed_at(inputs: Any, pointer: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        _encoding().encode_records(inputs)
    assert caught.value.pointer == pointer
    assert says in caught.value.detail


@pytest.mark.parametrize(
    ("inputs", "pointer", "says"),
    [
        (ROWS, "#/inputs/0", "a row is an object of 'x', 'age'"),
        ([{"x": ROWS[0]}], "#/inputs/0/age", "'age' is missing"),
        ([{"age": 3}], "#/inputs/0/x", "'x' is missing"),
        ([{"x": ROWS[0], "age": "3"}], "#/inputs/0/age", "got a text"),
        ({"x": ROWS, "age": [1, 2]}, "#/inputs/age", "'age' has 2 values, 'x' has 3 rows"),
        ({"x": ROWS, "age": [1, 2, None]}, "#/inputs/age/2", "got null"),
    ],
)
def test_what_stands_beside_an_array_is_pointed_at_too(
    inputs: Any, pointer: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        _encoding(Scaled(name="age")).encode_records(inputs)
    assert caught.value.pointer == pointer
    assert says in caught.value.detail


def test_several_arrays_have_the_same_number_of_rows() -> None:
    fields = tuple(
        ScaledArray(name=name, shape=(2, 1), mean=(0.0,), scale=(1.0,)) for name in ("a", "b")
    )
    encoding = Encoding(kind="arrays", form="regressor", inputs=fields)
    row = [[1.0], [2.0]]
    assert only(encoding.encode_records({"a": [row], "b": [row]})).shape == (1, 2, 2)
    with pytest.raises(DataError, match="'b' has 1 rows, 'a' has 2") as caught:
        encoding.encode_records({"a": [row, row], "b": [row]})
    assert caught.value.pointer == "#/inputs/b"
