"""A data set is the same after it was stored, and after it was written and read again."""

from __future__ import annotations

import datetime
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from engine.data.dataset import DATETIME
from engine.data.formats import Data, load, parse, save, write
from engine.data.npz import write_npz, write_npz_pieces
from engine.data.writing import CSV, JSON, NDJSON, NPZ, PARQUET, STREAM
from engine.errors import DataError
from tests.engine.data.conftest import Parse, npz

_quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
# Half: an integer would be read from CSV as one. Letters: a text of digits would become a number.
_numbers = st.none() | st.integers(-(2**40), 2**40).map(lambda value: value + 0.5)
_texts = st.none() | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), max_size=8
).map("t".__add__)
_times = st.none() | st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)).map(
    lambda value: value.replace(microsecond=0)
)


@st.composite
def tables(draw: st.DrawFn) -> Data:
    rows = draw(st.integers(1, 6))

    def column(values: st.SearchStrategy[Any], kind: pa.DataType) -> pa.Array:
        return pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), type=kind)

    kinds: list[tuple[st.SearchStrategy[Any], pa.DataType]] = [
        (_numbers, pa.float64()),
        (st.none() | st.integers(-(2**63), 2**63 - 1), pa.int64()),
        (st.none() | st.booleans(), pa.bool_()),
        (_texts, pa.large_string()),
        (_times, DATETIME),
    ]
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6))
    names = [f"c{index}" for index in range(len(chosen))]
    return Data(table=pa.table([column(*kind) for kind in chosen], names=names))


def _stored(data: Data, path: Path) -> bytes:
    save(data, path)
    return path.read_bytes()


@given(data=tables())
@_quick
def test_a_table_is_the_same_after_storing(data: Data, tmp_path: Path) -> None:
    first = _stored(data, tmp_path / "a")
    again = load(tmp_path / "a", "table")

    assert again.table == data.table
    assert _stored(again, tmp_path / "b") == first


@given(data=tables(), cut=st.integers(0, 5))
@_quick
def test_stored_bytes_depend_on_the_content_alone(data: Data, cut: int, tmp_path: Path) -> None:
    assert data.table is not None
    pieces = pa.concat_tables([data.table.slice(0, cut), data.table.slice(cut)])
    # The same values at another offset, with other values beneath the missing ones.
    shifted = pa.concat_tables([data.table.slice(0, 1), data.table]).combine_chunks().slice(1)

    first = _stored(data, tmp_path / "a")
    assert _stored(Data(table=pieces), tmp_path / "b") == first
    assert _stored(Data(table=shifted), tmp_path / "c") == first


@pytest.mark.parametrize("media_type", [PARQUET, STREAM])
@given(data=tables())
@_quick
def test_a_table_is_the_same_after_writing_and_reading(
    media_type: str, data: Data, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(write(data, media_type)))

    assert parse(path, media_type).table == data.table


@pytest.mark.parametrize("media_type", [CSV, JSON, NDJSON])
@given(data=tables())
@_quick
def test_text_formats_keep_every_value(media_type: str, data: Data, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(write(data, media_type)))
    assert data.table is not None

    table = parse(path, media_type).table

    assert table is not None
    for name, column in zip(data.names, data.table.columns, strict=True):
        if column.null_count < len(column):  # else its type cannot be told
            assert table.column(name).to_pylist() == column.to_pylist()
        else:
            assert table.column(name).null_count == len(column)


@given(
    x=npst.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_]),
        npst.array_shapes(min_dims=1, max_dims=4, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False},
    )
)
@_quick
def test_arrays_are_the_same_after_storing_and_writing(x: Any, tmp_path: Path) -> None:
    labels = np.array([f"é{row}" for row in range(len(x))])
    data = Data(arrays={"x": x, "a": labels})
    first = _stored(data, tmp_path / "a")
    mapped = load(tmp_path / "a", "arrays")
    (tmp_path / "b").write_bytes(b"".join(write(data, NPZ)))
    read = parse(tmp_path / "b", NPZ)

    for again in (mapped, read):
        assert again.names == ("x", "a")
        assert again.arrays is not None
        assert again.arrays["x"].dtype == x.dtype
        assert np.array_equal(again.arrays["x"], x)
        assert again.arrays["a"].tolist() == labels.tolist()
    assert _stored(Data(arrays={"x": np.asfortranarray(x), "a": labels}), tmp_path / "c") == first


def test_numpy_reads_what_is_stored_and_written(tmp_path: Path) -> None:
    data = Data(arrays={"x": np.arange(6.0).reshape(3, 2)})
    save(data, tmp_path / "a")

    for file in (tmp_path / "a", io.BytesIO(b"".join(write(data, NPZ)))):
        assert np.load(file)["x"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_slice_of_rows_is_written_alone(parsed: Parse) -> None:
    table = parsed(b"a,b\n1,x\n2,\n3,z\n")
    arrays = parsed(npz(x=np.arange(6.0).reshape(3, 2), y=np.array(["a", "b", "c"])), NPZ)

    assert b"".join(write(table, JSON, rows=slice(1, 9))) == b'[{"a":2,"b":null},{"a":3,"b":"z"}]'
    assert b"".join(write(table, CSV, rows=slice(0, 1))) == b'"a","b"\n1,"x"\n'
    assert b"".join(write(table, JSON, rows=slice(3, 3))) == b"[]"
    assert b"".join(write(arrays, JSON, rows=slice(1, 2))) == b'{"x":[[2.0,3.0]],"y":["b"]}'


def test_a_kind_is_written_in_its_own_formats_only(parsed: Parse) -> None:
    with pytest.raises(DataError, match="text/csv"):
        write(parsed(b"a,b\n1,2\n"), NPZ)
    with pytest.raises(DataError, match="application/x-npz"):
        write(parsed(npz(x=np.zeros(1)), NPZ), CSV)


@pytest.mark.parametrize("kind", ["table", "arrays"])
def test_a_damaged_store_is_a_data_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"not what was stored")

    with pytest.raises(DataError, match="damaged"):
        load(tmp_path / "a", kind)


def test_a_large_table_is_stored_in_batches(tmp_path: Path) -> None:
    rows = 150_001
    table = pa.table({"i": np.arange(rows), "t": pa.array(["x"] * rows, type=pa.large_string())})
    save(Data(table=table), tmp_path / "a")
    data = load(tmp_path / "a", "table")

    assert data.table == table
    assert data.column("i", np.array([0, 65_536, rows - 1])).tolist() == [0, 65_536, rows - 1]


def test_stored_arrays_that_were_changed_are_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        np.savez_compressed(file, x=np.zeros(9))
    with pytest.raises(DataError, match="damaged"):
        load(path, "arrays")

    save(Data(arrays={"x": np.zeros(9)}), path)
    path.write_bytes(path.read_bytes().replace(b"(9,)", b"(8,)"))
    with pytest.raises(DataError, match="damaged"):
        load(path, "arrays")


def test_a_table_of_many_rows_is_written_in_pieces() -> None:
    data = Data(table=pa.table({"i": np.arange(20_000)}))
    pieces = list(write(data, NDJSON))

    assert len(pieces) > 3
    assert b"".join(pieces).count(b"\n") == 20_000
    with pytest.raises(DataError, match="no step"):
        write(data, NDJSON, rows=slice(0, 9, 2))


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 9]])
def test_arrays_in_pieces_are_written_as_in_one(cuts: list[int]) -> None:
    rng = np.random.default_rng(0)
    labels = np.array(["a", "bcd", "", "ef"])[np.arange(12) % 4]
    arrays = {"x": rng.standard_normal((12, 3, 2)), "n": np.arange(12), "label": labels}
    whole, pieces = io.BytesIO(), io.BytesIO()
    np_pieces = {name: np.split(array, cuts) for name, array in arrays.items()}
    # Pieces may hold shorter texts than the whole.
    np_pieces["label"] = [np.array(piece.tolist()) for piece in np_pieces["label"]]
    write_npz(arrays, whole)
    write_npz_pieces(np_pieces, pieces)
    assert pieces.getvalue() == whole.getvalue()
    with np.load(io.BytesIO(pieces.getvalue())) as archive:
        np.testing.assert_array_equal(archive["x"], arrays["x"])
