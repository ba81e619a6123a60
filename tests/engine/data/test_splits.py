"""A split is a function of the spec, and its parts have no row in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.splits import Divider, Split, divider, split
from engine.errors import SpecError
from engine.spec import TrainSpec


def _classes(labels: Any) -> Divider | None:
    return None if labels is None else Divider(way="stratify", values=np.asarray(labels))


def _spec(**fields: Any) -> TrainSpec:
    return TrainSpec.model_validate({"network": {"layers": [None, None]}, **fields})


def test_a_tenth_is_for_validation_by_default() -> None:
    parts = split(50, _spec())

    assert parts.valid is not None
    assert (len(parts.train), len(parts.valid)) == (45, 5)
    assert sorted([*parts.train, *parts.valid]) == list(range(50))


def test_the_draw_does_not_change_between_versions() -> None:
    parts = split(20, _spec(validation=0.2))

    assert parts.valid is not None
    assert parts.valid.tolist() == [1, 2, 4, 6]


def test_the_seed_decides_the_draw_and_validation_may_have_its_own() -> None:
    def drawn(**fields: Any) -> list[int]:
        valid = split(1000, _spec(**fields)).valid
        assert valid is not None
        return list(valid.tolist())

    assert drawn(seed=1) == drawn(seed=1) != drawn(seed=2)
    own = {"fraction": 0.1, "seed": 1}
    assert drawn(seed=2, validation=own) == drawn(seed=1)


@pytest.mark.parametrize("validation", [None, 0.0])
def test_no_validation_leaves_all_rows_to_training(validation: float | None) -> None:
    parts = split(3, _spec(validation=validation))

    assert parts.train.tolist() == [0, 1, 2]
    assert (parts.valid, parts.dataset) == (None, None)


def test_another_data_set_leaves_all_rows_to_training() -> None:
    parts = split(3, _spec(validation={"dataset": "ds_1"}, rows=[2, 0]))

    assert parts.train.tolist() == [0, 2]
    assert (parts.valid, parts.dataset) == (None, "ds_1")


def test_validation_rows_are_taken_out_of_the_training_rows() -> None:
    parts = split(6, _spec(rows=[5, 1, 2, 0], validation={"rows": [4, 1]}))

    assert parts.valid is not None
    assert parts.valid.tolist() == [1, 4]
    assert parts.train.tolist() == [0, 2, 5]


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"rows": [0, 1, 6]}, "#/rows/2", "row 6 does not exist; the data set has rows 0 to 5"),
        ({"rows": [0, 3, 1, 3]}, "#/rows/3", "row 3 is given twice"),
        ({"validation": {"rows": [9]}}, "#/validation/rows/0", "row 9"),
        ({"validation": {"rows": [1, 1]}}, "#/validation/rows/1", "twice"),
        ({"rows": [1], "validation": {"rows": [1]}}, "#/validation/rows", "none is left"),
        ({"rows": [1]}, "#/validation", "1 row cannot be divided"),
        ({"validation": 0.99}, "#/validation", "none to train on"),
        ({"validation": {"fraction": 0.99}}, "#/validation/fraction", "none to train on"),
    ],
)
def test_rows_that_cannot_be_used_are_pointed_at(
    fields: dict[str, Any], pointer: str, says: str
) -> None:
    with pytest.raises(SpecError) as caught:
        split(6, _spec(**fields))

    assert caught.value.pointer == pointer
    assert says in caught.value.detail


def test_every_class_gives_its_share() -> None:
    labels = np.array(["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"])
    parts = split(100, _spec(validation=0.2), by=_classes(labels))

    assert parts.valid is not None
    drawn = labels[parts.valid].tolist()
    # 12, 6, 1.8 and 0.2: whole parts make 19, the twentieth goes to the largest remainder.
    assert [drawn.count(label) for label in "abcd"] == [12, 6, 2, 0]


def test_a_class_of_one_row_stays_in_training() -> None:
    labels = np.array([0, 1, 2, 2])
    parts = split(4, _spec(validation=0.5), by=_classes(labels))

    assert set(labels[parts.train].tolist()) == {0, 1, 2}
    with pytest.raises(SpecError, match="every class has only one row"):
        split(3, _spec(), by=_classes(np.array([0, 1, 2])))


@given(
    rows=st.integers(2, 200),
    fraction=st.floats(0.001, 0.9),
    seed=st.integers(0, 2**53 - 1),
    classes=st.integers(1, 6) | st.none(),
)
def test_a_split_is_a_partition_of_the_right_size(
    rows: int, fraction: float, seed: int, classes: int | None
) -> None:
    labels = None if classes is None else np.arange(rows) % classes
    spec = _spec(validation=fraction, seed=seed)
    try:
        parts = split(rows, spec, by=_classes(labels))
    except SpecError:
        assert round(fraction * rows) >= rows or (classes is not None and rows <= classes)
        return
    assert parts.valid is not None
    assert np.array_equal(np.union1d(parts.train, parts.valid), np.arange(rows))
    assert len(parts.train) + len(parts.valid) == rows
    wanted = max(1, round(fraction * rows))
    if labels is None:
        assert len(parts.valid) == wanted
    else:
        assert 1 <= len(parts.valid) <= wanted
        assert set(labels[parts.train]) == set(labels)


def _by(rows: Any, spec: TrainSpec, **columns: Any) -> Split:
    values = {name: np.asarray(column) for name, column in columns.items()}
    return split(rows, spec, by=divider(spec, values.__getitem__, None))


@given(
    groups=st.lists(st.integers(0, 9), min_size=4, max_size=120).filter(lambda g: len(set(g)) > 1),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
)
def test_groups_stay_whole_and_no_side_is_empty(
    groups: list[int], fraction: float, seed: int
) -> None:
    spec = _spec(validation={"fraction": fraction, "group": "g", "seed": seed})
    parts = _by(len(groups), spec, g=groups)
    assert parts.valid is not None
    train = {groups[row] for row in parts.train}
    valid = {groups[row] for row in parts.valid}
    assert train
    assert valid
    assert not train & valid
    assert sorted([*parts.train, *parts.valid]) == list(range(len(groups)))
    wanted = max(1, round(fraction * len(groups)))
    largest = max(groups.count(group) for group in valid | train)
    assert abs(len(parts.valid) - wanted) <= largest


def test_many_small_groups_come_close_to_the_share() -> None:
    groups = np.arange(1000) // 4
    spec = _spec(validation={"fraction": 0.2, "group": "g"})
    parts = _by(1000, spec, g=groups)
    assert parts.valid is not None
    assert len(parts.valid) == 200
    other = _by(1000, _spec(validation={"fraction": 0.2, "group": "g", "seed": 5}), g=groups)
    assert other.valid is not None
    assert not np.array_equal(parts.valid, other.valid)


@pytest.mark.parametrize(
    ("times", "fraction", "valid"),
    [
        ([3, 1, 2, 5, 4], 0.4, [3, 4]),
        ([1, 1, 2, 2, 2], 0.2, [2, 3, 4]),
        ([1, 2, 2, 2, 2], 0.9, [1, 2, 3, 4]),
        (np.array(["2021-03-01", "2020-01-01", "2022-01-01"], "M8[us]"), 0.34, [2]),
        (["2021-03-01T00:30+02:00", "2021-02-28T23:00Z", "2021-03-01"], 0.5, [1, 2]),
    ],
)
def test_the_last_rows_are_kept_out_with_all_of_their_time(
    times: Any, fraction: float, valid: list[int]
) -> None:
    spec = _spec(validation={"fraction": fraction, "time": "t"})
    parts = _by(len(times), spec, t=times)
    assert parts.valid is not None
    assert parts.valid.tolist() == valid


def test_any_column_may_be_spread_evenly_or_none() -> None:
    column = np.repeat([0, 1], [90, 10])
    spec = _spec(validation={"fraction": 0.2, "stratify": "c"})
    parts = _by(100, spec, c=column)
    assert parts.valid is not None
    assert column[parts.valid].sum() == 2
    plain = _spec(validation={"fraction": 0.2, "stratify": False})
    assert divider(plain, lambda _: column, column) is None
    with pytest.raises(SpecError, match="column"):
        divider(_spec(validation={"fraction": 0.2, "stratify": True}), lambda _: column, None)


@pytest.mark.parametrize(
    ("way", "values", "words"),
    [
        ("group", [1, 1, 1], "one group"),
        ("time", [1.0, 1.0, 1.0], "one time"),
        ("time", [1.0, np.nan, 2.0], "1 rows have no value"),
        ("time", ["31.12.2020", "01.02.2021", "02.02.2021"], "row 0 of 'time'.*ISO 8601"),
        ("group", np.array(["a", None, None], object), "2 rows have no value"),
    ],
)
def test_what_cannot_be_divided_is_refused(way: str, values: Any, words: str) -> None:
    spec = _spec(validation={"fraction": 0.3, way: "c"})
    with pytest.raises(SpecError, match=words) as caught:
        _by(3, spec, c=values)
    assert caught.value.pointer == f"#/validation/{way}"
