"""The `targets` of a request: the same numbers as those of a stored data set, or a pointer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.data.dataset import Data
from engine.data.encoding import Encoding
from engine.data.profile import profile
from engine.data.selection import select
from engine.data.truths import read_truths
from engine.errors import DataError
from engine.spec import TrainSpec

Y, Z, KIND = [1.5, -2.0, 1234567890.25], [10, 20, 30], ["cat", "dog", "cat"]
LABELS = pa.array(KIND, pa.large_string())
TABLE = Data(table=pa.table({"a": [1.0, 2.0, 3.0], "y": Y, "z": Z, "kind": LABELS}))


def encoding(data: Data, targets: list[str], **spec: Any) -> Encoding:
    asked = TrainSpec.model_validate(
        {"network": {"layers": [None, None]}, "targets": targets, **spec}
    )
    return Encoding.fit(data, select(profile(data), asked), np.arange(data.rows))


@pytest.mark.parametrize(
    "given",
    [
        {"y": Y, "z": Z},
        {"z": Z, "y": Y},
        [{"y": y, "z": z} for y, z in zip(Y, Z, strict=True)],
        [list(pair) for pair in zip(Y, Z, strict=True)],
    ],
)
def test_several_targets_are_those_of_a_table(given: Any) -> None:
    own = encoding(TABLE, ["y", "z"])
    assert read_truths(own, given, rows=3).tolist() == own.encode_truth(TABLE).tolist()


@pytest.mark.parametrize("given", [Y, {"y": Y}, [{"y": y} for y in Y]])
def test_one_target_is_its_values(given: Any) -> None:
    own = encoding(TABLE, ["y"])
    assert read_truths(own, given, rows=3).tolist() == [[y] for y in Y]


@pytest.mark.parametrize("given", [KIND, {"kind": KIND}, [{"kind": kind} for kind in KIND]])
def test_labels_are_numbered_as_the_model_numbers_them(given: Any) -> None:
    own = encoding(TABLE, ["kind"])
    assert read_truths(own, given, rows=3).tolist() == own.encode_truth(TABLE).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ((4, 3), (4, 2)),
        ((4, 5, 3), (4, 5, 2)),
        ((4, 5, 3), (4, 5)),
        ((4, 1, 4, 4), (4, 1, 4, 4)),
    ],
)
def test_arrays_are_nested_lists(x: tuple[int, ...], y: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    data = Data(arrays={"x": rng.random(x), "y": rng.random(y)})
    assert data.arrays is not None
    own = encoding(data, ["y"], inputs=["x"])
    given = data.arrays["y"].tolist()
    assert np.array_equal(read_truths(own, given, rows=4), own.encode_truth(data)[:])


def test_labels_of_steps_are_lists_or_texts() -> None:
    steps = [["a", "b", "a"], ["b", "b", "a"]]
    data = Data(arrays={"x": np.zeros((2, 3, 1)), "y": np.array(steps, dtype=object)})
    form = {"form": "classifier", "layers": [None, None]}
    own = encoding(data, ["y"], inputs=["x"], network=form)
    for given in (steps, ["aba", "bba"]):
        assert read_truths(own, given, rows=2).tolist() == [[0, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("targets", "given", "pointer", "words"),
    [
        (["y"], [1.0], "#/targets", "3 rows of inputs, and 1 value"),
        (["y"], [], "#/targets", "and 0 values"),
        (["y"], "text", "#/targets", "got a text"),
        (["y"], [1.0, None, 2.0], "#/targets/1", "got null"),
        (["y"], [1.0, 2.0, True], "#/targets/2", "got a boolean"),
        (["y"], [1.0, 2.0, 10**400], "#/targets/2", "finite"),
        (["y"], [[1.0], [2.0], [3.0]], "#/targets/0", "got a list"),
        (["y"], {"y": 3}, "#/targets/y", "got a number"),
        (["y"], {"y": [1, 2, "3"]}, "#/targets/y/2", "got a text"),
        (["y"], {"y": Y, "a": Y}, "#/targets", "does not predict 'a'"),
        (["y", "z"], {"y": Y}, "#/targets/z", "missing"),
        (["y", "z"], {"y": Y, "z": [1, 2]}, "#/targets", "2 values of 'z'"),
        (["y", "z"], [[1, 2], [1, 2, 3], [1, 2]], "#/targets/1", "a list of 2 targets"),
        (["y", "z"], [[1, 2], [1, 2], [1, "x"]], "#/targets/2/1", "got a text"),
        (["y", "z"], [{"y": 1, "z": 1}, 3, {}], "#/targets/1", "got a number"),
        (["y", "z"], [{"y": 1, "z": 1}, {"y": 1}, {}], "#/targets/1/z", "missing"),
        (["kind"], ["cat", "bird", "dog"], "#/targets/1", "'cat', 'dog'"),
        (["kind"], ["cat", None, "dog"], "#/targets/1", "got null"),
        (["kind"], ["cat", ["dog"], "dog"], "#/targets/1", "got a list"),
        (["z"], [10, 20, {}], "#/targets/2", "got an object"),
    ],
)
def test_what_is_no_truth_is_told_where_it_stands(
    targets: list[str], given: Any, pointer: str, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_truths(encoding(TABLE, targets), given, rows=3)
    assert caught.value.pointer == pointer


def test_true_is_not_the_class_one() -> None:
    data = Data(table=pa.table({"a": [1.0, 2.0], "y": [0, 1]}))
    form = {"form": "classifier", "layers": [None, None]}
    own = encoding(data, ["y"], network=form)
    assert read_truths(own, [1.0, 0], rows=2).tolist() == [1, 0]
    with pytest.raises(DataError, match="got True"):
        read_truths(own, [True, 0], rows=2)
