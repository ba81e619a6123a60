"""Columns that are read piece by piece: what is learnt is that of the column as a whole."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data import formats, moments
from engine.data.dataset import Data, pieces_of
from engine.data.order_statistics import middle
from engine.data.scaling import BLOCK
from engine.spec import ColumnSpec

numbers = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1.0])


@settings(max_examples=80, deadline=None)
@given(values=st.lists(numbers, min_size=1, max_size=60), cut=st.integers(1, 20))
@pytest.mark.parametrize("held", [0, 3, 1000])
def test_the_middle_is_that_of_the_sorted_values(values: list[float], cut: int, held: int) -> None:
    column = np.array(values)
    blocks = [column[part] for part, _ in pieces_of(len(column), None, cut)]
    ordered = np.sort(column)
    found = middle(blocks, len(column), held=held)
    assert found == (ordered[(len(column) - 1) // 2], ordered[len(column) // 2])


@pytest.mark.parametrize("count", [2**16, 2**16 + 1, 100_003])
@pytest.mark.parametrize("kind", ["normal", "few", "same", "sorted", "periodic", "zeros"])
def test_the_middle_of_many_values_is_that_of_the_sorted_ones(count: int, kind: str) -> None:
    """Also where a sample of every so many misleads, since they come round."""
    draw = np.random.default_rng(count)
    column = draw.standard_normal(count)
    match kind:
        case "few":
            column = np.round(column)
        case "same":
            column = np.full(count, 3.0)
        case "sorted":
            column.sort()
        case "periodic":
            column[:: count // 2**12] += 1e6
        case "zeros":
            column = np.where(column > 0, 0.0, -0.0)
    ordered = np.sort(column)
    found = middle([column], count, held=count)
    assert found == (ordered[(count - 1) // 2], ordered[count // 2])
    assert not np.signbit(found[0]) or found[0] < 0


@pytest.mark.parametrize("held", [0, 10])
def test_the_middle_of_two_far_clusters_is_the_end_of_one_and_the_begin_of_the_other(
    held: int,
) -> None:
    column = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1e300, 1.1e300, 50)])
    assert middle([column[::2], column[1::2]], 100, held=held) == (-1.0, 1e300)


@pytest.fixture(scope="module")
def long() -> tuple[Data, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """A column of more than a block with gaps, the rows to learn on, and their values."""
    draw = np.random.default_rng(5)
    count = BLOCK + 300_000
    values = np.round(draw.standard_normal(count) * 3 + 10, 2)
    gaps = draw.random(count) < 0.01
    chunks = []
    for start in range(0, count, 1_000_000):
        part = slice(start, start + 1_000_000)
        chunks.append(pa.array(values[part], mask=gaps[part]))
    rows = np.flatnonzero(draw.random(count) < 0.99)
    return Data(table=pa.table({"x": pa.chunked_array(chunks)})), rows, values[rows][~gaps[rows]]


def test_a_long_column_is_learnt_as_a_whole(
    long: tuple[Data, npt.NDArray[np.int64], npt.NDArray[np.float64]],
) -> None:
    data, rows, there = long
    assert len(rows) > BLOCK
    median = moments.fit(data, "x", rows, "inputs", gaps=True)
    assert median.fill == np.median(there)
    assert median.indicator
    assert median.mean == pytest.approx(there.mean(), rel=1e-12)
    assert median.scale == pytest.approx(there.std(), rel=1e-12)
    mode = moments.fit(data, "x", rows, "inputs", gaps=True, options=ColumnSpec(missing="mode"))
    distinct, counts = np.unique(there, return_counts=True)
    assert mode.fill == distinct[counts.argmax()]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_a_column_in_chunks_are_those_of_the_whole(draw: st.DataObject) -> None:
    values = draw.draw(st.lists(st.none() | st.integers(-9, 9), min_size=1, max_size=30))
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(values)), max_size=4)))
    bounds = [0, *cuts, len(values)]
    chunks = [pa.array(values[start:stop], pa.int64()) for start, stop in pairwise(bounds)]
    numbers = np.array(
        draw.draw(st.lists(st.integers(0, len(values) - 1), max_size=20)), dtype=np.int64
    )
    if draw.draw(st.booleans()):
        numbers = np.sort(numbers)
    data = Data(table=pa.table({"x": pa.chunked_array(chunks)}))
    found = data.column("x", numbers).tolist()
    wanted = [values[number] for number in numbers.tolist()]
    assert [None if value != value else value for value in found] == wanted


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_many_columns_at_once_are_those_of_each(draw: st.DataObject) -> None:
    """Whether columns are cut alike or not, have gaps or none, hold numbers or integers."""
    count = draw.draw(st.integers(1, 30))
    columns = {}
    for name, kind in (("a", pa.float64()), ("b", pa.int64()), ("c", pa.float64())):
        gaps = draw.draw(st.booleans())
        values = st.integers(-99, 99) | st.none() if gaps else st.integers(-99, 99)
        found = draw.draw(st.lists(values, min_size=count, max_size=count))
        cuts = sorted(draw.draw(st.lists(st.integers(0, count), max_size=3)))
        columns[name] = pa.chunked_array(
            [pa.array(found[start:stop], kind) for start, stop in pairwise([0, *cuts, count])]
        )
    rows = np.array(draw.draw(st.lists(st.integers(0, count - 1), max_size=20)), dtype=np.int64)
    if draw.draw(st.booleans()):
        rows.sort()
    data = Data(table=pa.table(columns))
    gathered = np.zeros((3, len(rows)))
    data.gather(["a", "b", "c"], rows, gathered)
    wanted = [columns[name].to_numpy().astype(float)[rows] for name in "abc"]
    np.testing.assert_array_equal(gathered, wanted)


def test_rows_that_do_not_exist_are_no_rows() -> None:
    data = Data(table=pa.table({"x": pa.chunked_array([[1], [2, 3]])}))
    with pytest.raises(IndexError):
        data.column("x", np.array([0, 3]))
    with pytest.raises(IndexError):
        data.column("x", np.array([-1, 2]))


def _resident_pages() -> int:
    """Return the bytes of mapped files that this process has in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


@pytest.mark.parametrize("kind", ["table", "arrays"])
def test_a_mapped_file_that_was_read_can_be_let_go_of(tmp_path: Path, kind: str) -> None:
    values = np.arange(12_000_000, dtype=np.float64)  # 96 MB
    stored = Data(table=pa.table({"x": values})) if kind == "table" else Data(arrays={"x": values})
    formats.save(stored, tmp_path / "data")
    data = formats.load(tmp_path / "data", kind)
    before = _resident_pages()
    assert data.column("x").sum() == values.sum()
    assert _resident_pages() - before > 80e6
    data.release()
    assert _resident_pages() - before < 8e6
    assert data.column("x", np.array([5, 11_999_999])).tolist() == [5, 11_999_999]
