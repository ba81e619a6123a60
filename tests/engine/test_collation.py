"""Long answers as data sets: types, names, missing values, and bytes that no cut changes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.collation import MAX_COLUMNS, Layout, collate, passed_through
from engine.data import formats
from engine.data.dataset import DATETIME, TEXT, Data
from engine.errors import DataError
from engine.tabulation import Block

ROWS = 50


def blocks(rows: slice = slice(None), *, steps: bool = False) -> list[Block]:
    values = np.random.default_rng(1).standard_normal((ROWS, 3, 2))
    values[4] = np.nan
    values[5] = np.inf
    label = np.array(["yes", "no", "perhaps"], dtype=object)[np.arange(ROWS) % 3]
    mean = values if steps else values[:, 0]
    return [
        Block(name="mean", values=mean[rows], labels=("a", "b")),
        Block(name="label", values=label[rows]),
    ]


def key(rows: slice = slice(None)) -> dict[str, pa.Array]:
    return {"id": pa.array([f"n{row}" for row in range(ROWS)][rows], type=TEXT)}


def layout(**options: Any) -> Layout:
    rank = 2 if options.get("steps") else 1
    return Layout.of(blocks(**options), key(), rank=rank, classes=("no", "perhaps", "yes"))


def stored(folder: Path, cuts: list[int], **options: Any) -> tuple[bytes, Data]:
    """Collate rows that lie in parts of several pieces."""
    made = layout(**options)
    bounds = [0, *cuts, ROWS]
    pieces = [slice(*pair) for pair in itertools.pairwise(bounds)]
    parts = []
    for number in range(0, len(pieces), 2):
        parts.append(folder / f"part{number}")
        some = [made.rows(blocks(rows, **options), key(rows)) for rows in pieces[number:][:2]]
        with parts[-1].open("wb") as stream:
            made.write(some, stream)
    content = folder / f"content{len(cuts)}"
    schema = collate(made.kind, parts, content)
    assert (schema.kind, schema.rows) == (made.kind, ROWS)
    return content.read_bytes(), formats.load(content, made.kind)


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("cuts", [[1], [7, 20], [3, 4, 5, 30, 49]])
def test_no_cut_changes_a_byte(steps: bool, cuts: list[int], tmp_path: Path) -> None:
    options = {"steps": True} if steps else {}
    assert stored(tmp_path, cuts, **options)[0] == stored(tmp_path, [], **options)[0]


def test_a_table_has_the_numbers_and_what_is_not_finite_is_missing(tmp_path: Path) -> None:
    _, data = stored(tmp_path, [10])
    assert data.names == ("id", "mean.a", "mean.b", "label")
    mean, label = blocks()
    for index, name in enumerate(("mean.a", "mean.b")):
        expected = np.where(np.isfinite(mean.values[:, index]), mean.values[:, index], np.nan)
        np.testing.assert_array_equal(data.column(name), expected)
    assert data.column("label").tolist() == label.values.tolist()
    assert data.column("id").tolist() == key()["id"].to_pylist()


def test_arrays_have_the_numbers_and_the_longest_label(tmp_path: Path) -> None:
    _, data = stored(tmp_path, [2], steps=True)
    assert data.names == ("id", "mean", "label")
    assert data.column("label").tolist() == blocks()[1].values.tolist()
    np.testing.assert_array_equal(data.column("mean"), blocks(steps=True)[0].values)


@pytest.mark.parametrize(
    ("classes", "type_"),
    [((False, True), "boolean"), ((1, 5), "integer"), (("a",), "text"), ((1, 2**63), "number")],
)
def test_labels_keep_their_type(classes: tuple[Any, ...], type_: str, tmp_path: Path) -> None:
    block = Block(name="label", values=np.array(classes, dtype=object))
    made = Layout.of([block], {}, rank=1, classes=classes)
    with (tmp_path / "part").open("wb") as stream:
        made.write([made.rows([block], {})], stream)
    schema = collate("table", [tmp_path / "part"], tmp_path / "content")
    assert schema.columns[0].type == type_


def test_many_columns_become_one_array() -> None:
    wide = Block(name="hid1:out", values=np.zeros((2, MAX_COLUMNS + 1)))
    made = Layout.of([wide], {}, rank=1, classes=None)
    assert (made.kind, dict(made.arrays)) == ("arrays", {"hid1:out": "hid1.out"})


def test_arrays_leave_out_what_no_row_has() -> None:
    nothing = Block(name="std", values=np.full((2, 3, 1), np.nan))
    there = Block(name="mean", values=np.ones((2, 3, 1)))
    made = Layout.of([there, nothing], {}, rank=2, classes=None)
    assert list(made.rows([there, nothing], {})) == ["mean"]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ({"id": pa.array(["a", None], type=TEXT)}, "missing"),
        ({"id": pa.array(["a", "b" * 1025], type=TEXT)}, "longer"),
        ({"my id": pa.array([1, 2])}, "names are"),
        ({"id": pa.array([0, 1], type=DATETIME)}, "time"),
        ({"mean": pa.array([1, 2])}, "two columns"),
    ],
)
def test_a_key_that_arrays_cannot_hold_is_refused(column: dict[str, pa.Array], told: str) -> None:
    block = Block(name="mean", values=np.ones((2, 3, 1)))
    with pytest.raises(DataError, match=told) as caught:
        Layout.of([block], column, rank=2, classes=None)
    assert caught.value.pointer == "#/key"


def test_what_no_data_set_holds_is_refused() -> None:
    deep = Block(name="samples", values=np.ones((2, 3, 4, 5, 6)))
    with pytest.raises(DataError, match="5 dimensions") as caught:
        Layout.of([deep], {}, rank=3, classes=None)
    assert caught.value.pointer == "#/statistics"
    long = Block(name=f"{'h' * 64}:out", values=np.ones((2, 3, 1)))
    with pytest.raises(DataError, match="too long"):
        Layout.of([long], {}, rank=2, classes=None)


def test_a_key_of_arrays_is_one_value_a_row() -> None:
    ids = np.arange(6, dtype=np.uint64)
    data = Data(arrays={"id": ids, "flat": ids[:, None], "x": np.ones((6, 2))})
    rows = np.array([4, 1])
    assert passed_through(data, "id", rows, pointer="#/key").to_pylist() == [4, 1]
    assert passed_through(data, "flat", rows, pointer="#/key").to_pylist() == [4, 1]
    for name in ("x", "nobody"):
        with pytest.raises(DataError) as caught:
            passed_through(data, name, rows, pointer="#/key")
        assert caught.value.pointer == "#/key"
