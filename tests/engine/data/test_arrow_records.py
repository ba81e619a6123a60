"""Rows of a request as an Arrow stream: what JSON would have given, to the bit and to the error."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.data.arrow_records import ArrowRecords, DamagedStreamError, read_arrow_records
from engine.data.encoding import Encoding
from engine.data.formats import Data
from engine.data.selection import Selection
from engine.errors import DataError
from tests.engine.data.conftest import Parse
from tests.engine.networks import only

CSV = b"""age,grade,smoker,city,seen,y
1.5,1,true,Oslo,2021-01-01T08:00:00Z,1
3.25,2,false,Rome,2021-01-02T09:30:00.25Z,2
,3,true,,2021-01-03T00:00:00Z,3
100,4,false,Oslo,2021-01-04T00:00:00Z,4
"""
NAMES = ("age", "grade", "smoker", "city", "seen")
TIMES = [datetime(2022, 5, 17, 8, 30, 1, 250_000, UTC), datetime(1969, 1, 1, tzinfo=UTC)]
JSON: dict[str, list[Any]] = {
    "age": [0.1, 1e9],
    "grade": [7, -3],
    "smoker": [True, False],
    "city": ["Rome", "Oslo"],
    "seen": ["2022-05-17T08:30:01.250000+00:00", "1969-01-01T00:00:00+00:00"],
}
COLUMNS: dict[str, Any] = {
    "age": pa.array([0.1, 1e9]),
    "grade": pa.array([7, -3], pa.int16()),
    "smoker": pa.array([True, False]),
    "city": pa.array(["Rome", "Oslo"]),
    "seen": pa.array(TIMES, pa.timestamp("ms", "Europe/Oslo")),
}


def stream(columns: dict[str, Any], *, pieces: int = 1, **options: Any) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    writing = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, table.schema, options=writing) as writer:
        writer.write_table(table, max_chunksize=-(-max(1, table.num_rows) // pieces))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def read(content: bytes, *, max_bytes: int = 2**20, max_cells: int = 2**18) -> ArrowRecords:
    return read_arrow_records(content, max_bytes=max_bytes, max_cells=max_cells)


def columns_of(columns: dict[str, Any], **options: Any) -> dict[str, Any]:
    return read(stream(columns, **options)).columns


@pytest.fixture
def encoding(parsed: Parse) -> Encoding:
    data = parsed(CSV)
    selection = Selection(kind="table", form="regressor", inputs=NAMES, targets=("y",))
    return Encoding.fit(data, selection, np.arange(4))


def array_encoding(values: np.ndarray[Any, Any]) -> Encoding:
    data = Data(arrays={"x": values, "y": np.arange(float(len(values)))})
    selection = Selection(kind="arrays", form="regressor", inputs=("x",), targets=("y",))
    return Encoding.fit(data, selection, np.arange(len(values)))


@pytest.mark.parametrize("pieces", [1, 2])
def test_columns_give_the_bits_of_json(encoding: Encoding, pieces: int) -> None:
    columns = columns_of(COLUMNS, pieces=pieces)
    found, expected = only(encoding.encode_records(columns)), only(encoding.encode_records(JSON))
    assert found.tobytes() == expected.tobytes()


def test_gaps_are_nulls(encoding: Encoding) -> None:
    gaps: dict[str, list[Any]] = {name: [None, *JSON[name][1:]] for name in NAMES}
    arrow = {name: pa.array(values) for name, values in gaps.items() if name != "seen"}
    arrow["seen"] = pa.array([None, TIMES[1]], pa.timestamp("us"))
    arrow_of_nan = arrow | {"age": pa.array([np.nan, 1e9])}
    expected = only(encoding.encode_records(JSON | gaps)).tobytes()
    for columns in (arrow, arrow_of_nan):
        encoded = only(encoding.encode_records(columns_of(COLUMNS | columns)))
        assert encoded.tobytes() == expected


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("age", pa.array([1.0, 2.0], pa.float32())),
        ("age", pa.array([1.0, 2.0], pa.float16())),
        ("age", pa.array([1, 2], pa.uint64())),
        ("age", pa.array(["1.50", "2.25"]).cast(pa.decimal128(9, 2))),
        ("city", pa.array(["Rome", "Oslo"]).dictionary_encode()),
        ("city", pa.array(["Rome", "Oslo"], pa.large_string())),
        ("city", pa.array(["Rome", "Oslo"], pa.string_view())),
        ("smoker", pa.array([1, 0], pa.int8())),
        ("age", pa.array([1.0, 2.0]).dictionary_encode()),
    ],
)
def test_other_types_of_the_same_values_are_taken(
    encoding: Encoding, name: str, values: Any
) -> None:
    plain = [float(v) if name == "age" else v for v in values.to_pylist()]
    found = only(encoding.encode_records(columns_of(COLUMNS | {name: values})))
    assert found.tobytes() == only(encoding.encode_records(JSON | {name: plain})).tobytes()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("age", ["a", "b"]),
        ("age", [True, False]),
        ("smoker", [0.0, 0.5]),
        ("city", ["Rome", "Nowhere"]),
        ("city", [1.0, 2.0]),
        ("seen", [1, 2]),
        ("height", [1.0, 2.0]),
        ("age", [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_what_is_wrong_is_told_as_of_json(encoding: Encoding, name: str, values: list[Any]) -> None:
    with pytest.raises(DataError) as of_json:
        encoding.encode_records(JSON | {name: values})
    with pytest.raises(DataError) as of_arrow:
        encoding.encode_records(columns_of(COLUMNS | {name: pa.array(values)}))
    assert of_arrow.value.pointer == of_json.value.pointer
    assert of_arrow.value.detail == of_json.value.detail


def test_infinite_numbers_are_pointed_at(encoding: Encoding) -> None:
    with pytest.raises(DataError, match="finite") as raised:
        encoding.encode_records(columns_of(COLUMNS | {"age": pa.array([1.0, np.inf])}))
    assert raised.value.pointer == "#/inputs/age/1"


def test_times_are_no_numbers(encoding: Encoding) -> None:
    with pytest.raises(DataError, match="expected a number, got a text") as raised:
        encoding.encode_records(columns_of(COLUMNS | {"age": pa.array(TIMES)}))
    assert raised.value.pointer == "#/inputs/age/0"


def fixed(values: np.ndarray[Any, Any]) -> pa.Array:
    """Lists of fixed sizes, one level for each axis of a row."""
    column = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def tensors(values: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(values)


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 2), (6, 1, 3, 2)])
def test_arrays_come_as_lists_or_tensors(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape)
    encoding = array_encoding(values)
    expected = only(encoding.encode_records({"x": values.tolist()}))
    ways = [fixed(values), pa.array(values.tolist()), tensors(values)]
    for column in ways:
        for pieces in (1, 2):
            found = only(encoding.encode_records(columns_of({"x": column}, pieces=pieces)))
            assert found.tobytes() == expected.tobytes()


def test_a_column_for_each_feature_is_an_array() -> None:
    values = np.random.default_rng(1).standard_normal((5, 3))
    encoding = array_encoding(values)
    expected = only(encoding.encode_records(values.tolist())).tobytes()
    by_place = {name: pa.array(values[:, i]) for i, name in enumerate("cba")}
    by_name = {f"x[{i}]": pa.array(values[:, i]) for i in (2, 0, 1)}
    for columns in (by_place, by_name):
        assert only(encoding.encode_records(columns_of(columns))).tobytes() == expected
    with pytest.raises(DataError, match="does not know"):
        encoding.encode_records(columns_of(by_place | {"d": pa.array(values[:, 0])}))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_arrays_have_no_gaps(bad: float) -> None:
    values = np.ones((3, 4, 2))
    encoding = array_encoding(values)
    values[1, 2, 0] = bad
    with pytest.raises(DataError) as raised:
        encoding.encode_records(columns_of({"x": tensors(values)}))
    assert raised.value.pointer == "#/inputs/x/1/2/0"


def test_lists_of_several_lengths_are_pointed_at() -> None:
    encoding = array_encoding(np.ones((3, 2)))
    with pytest.raises(DataError) as raised:
        encoding.encode_records(columns_of({"x": pa.array([[1.0, 2.0], [3.0]])}))
    assert raised.value.pointer == "#/inputs/x/1"


def test_texts_of_sequences_are_lists() -> None:
    words = [["a", "b"], ["b", "a"]]
    assert columns_of({"w": pa.array(words)}) == {"w": words}


def test_views_are_texts_of_any_length() -> None:
    texts = ["", "Zürich", None, "more than twelve bytes", "x" * 5000, "twelve bytes"]
    column = pa.array(texts, pa.string_view())
    assert columns_of({"t": column}, pieces=2) == {"t": texts}
    assert columns_of({"t": column[2:]}) == {"t": texts[2:]}


def test_metadata_of_the_schema_are_kept() -> None:
    table = pa.table({"a": [1.0]}).replace_schema_metadata({"key": "value"})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert read(sink.getvalue().to_pybytes()).metadata == {b"key": b"value"}


def test_a_stream_cut_anywhere_is_damaged() -> None:
    content = stream(COLUMNS, pieces=2)
    for end in range(len(content)):
        with pytest.raises(DamagedStreamError):
            read(content[:end])
    with pytest.raises(DamagedStreamError, match="behind"):
        read(content + content)


def test_broken_bytes_are_refused_or_read() -> None:
    draw = random.Random(5)
    x = np.random.default_rng(2).standard_normal((6, 2, 2))
    many = {"t": tensors(x), "f": fixed(x), "l": pa.array(x.tolist()), "n": pa.nulls(6)}
    others = {
        "d": pa.array(["a", "b"] * 3).dictionary_encode(),
        "s": pa.array(["x", None] * 3, pa.string_view()),
        "m": pa.array([1.5, 2.5, 3.5] * 2).cast(pa.decimal128(9, 2)),
        "w": pa.array([["a"], ["b", "c"], []] * 2),
    }
    contents = [stream(COLUMNS), stream(many, pieces=2), stream(others)]
    for content in contents:
        for _ in range(500):
            broken = bytearray(content)
            for _ in range(draw.randint(1, 4)):
                broken[draw.randrange(len(broken))] = draw.choice([0, 1, 127, 128, 255])
            with suppress(DataError):
                lengths = {len(values) for values in read(bytes(broken)).columns.values()}
                assert len(lengths) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": pa.nulls(2**20)}, "rows are too many"),
        ({"a": fixed(np.ones((1024, 2048), np.int8))}, "take more than|more than .* values"),
        ({"a": pa.array(np.ones(2**19, bool))}, "rows are too many"),
        (
            {"a": pa.DictionaryArray.from_arrays(np.zeros(4096, np.int8), ["x" * 2**16])},
            "more than .* bytes",
        ),
        ({f"c{i}": pa.nulls(1000) for i in range(300)}, "too many values"),
        ({"a": pa.array([], pa.float64())}, "no rows"),
        ({"a": pa.array([{"b": 1}])}, "not taken"),
        ({"a": pa.array([[{"b": 1}]])}, "not taken"),
        ({"a": pa.array([[1]], pa.list_view(pa.int8()))}, "not taken"),
        ({"a": pa.array([b"x"])}, "not taken"),
        ({"a": pa.array([1], pa.duration("s"))}, "not taken"),
    ],
)
def test_bombs_and_other_types_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        columns_of(columns)
    assert raised.value.pointer == "#/inputs"


def test_rows_of_no_size_are_counted() -> None:
    kind = pa.list_(pa.int8(), 0)
    batch = pa.Array.from_buffers(kind, 2**30, [None], children=[pa.array([], pa.int8())])
    with pytest.raises(DataError, match="rows are too many"):
        columns_of({"a": batch})


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_streams_are_refused(codec: str) -> None:
    with pytest.raises(DataError, match="uncompressed") as raised:
        columns_of({"a": pa.array(np.zeros(1000))}, compression=codec)
    assert raised.value.pointer == "#/inputs"


def test_permuted_tensors_are_refused() -> None:
    kind = pa.fixed_shape_tensor(pa.float64(), [2, 3], permutation=[1, 0])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(6)), 6)
    with pytest.raises(DataError, match="permuted"):
        columns_of({"a": pa.ExtensionArray.from_storage(kind, storage)})


def test_names_come_once() -> None:
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="unique"):
        read(sink.getvalue().to_pybytes())
