"""Columns of lists come as arrays, in every format that has lists; odd ones are refused."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.data.dataset import Data
from engine.data.formats import Limits, write
from engine.errors import DataError
from tests.engine.data.conftest import Parse
from tests.thoroughness import examples

X = np.arange(24.0).reshape(2, 4, 3)
STREAM = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
JSON = "application/json"


def as_stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return sink.getvalue()


def as_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return sink.getvalue()


def same(data: Data, **arrays: Any) -> None:
    assert data.arrays is not None
    assert list(data.arrays) == list(arrays)
    for name, expected in arrays.items():
        np.testing.assert_array_equal(data.arrays[name], expected)
        assert data.arrays[name].dtype.kind == np.asarray(expected).dtype.kind


def test_lists_of_json_are_arrays(parsed: Parse) -> None:
    arrays = {"x": X, "n": np.array([[1], [2]]), "b": np.array([True, False]), "t": ["u", "vw"]}
    columns = {name: np.asarray(array).tolist() for name, array in arrays.items()}
    records = [{name: values[i] for name, values in columns.items()} for i in range(2)]
    lines = "\n".join(map(json.dumps, records)).encode()
    same(parsed(json.dumps(columns).encode(), JSON), **arrays)
    same(parsed(json.dumps(records).encode(), JSON), **arrays)
    same(parsed(lines, "application/x-ndjson"), **arrays)
    same(parsed(b"".join(write(Data(arrays={"x": X}), JSON)), JSON), x=X)
    same(parsed(b'{"x": [["a", "b"], ["c", "d"]]}', JSON), x=np.array([["a", "b"], ["c", "d"]]))


def test_lists_of_arrow_are_arrays(parsed: Parse) -> None:
    inner = pa.list_(pa.float64(), 3)
    table = pa.table(
        {
            "x": pa.array(X.tolist(), pa.list_(inner, 4)),
            "v": pa.array(X.tolist(), pa.list_(pa.list_(pa.float32()))),
            "y": pa.array([[1, 2], [3, 4]], pa.large_list(pa.int32())),
            "b": pa.array([True, False]),
            "t": pa.array(["u", "vw"]),
        }
    )
    y = np.array([[1, 2], [3, 4]])
    same(parsed(as_stream(table), STREAM), x=X, v=X, y=y, b=[True, False], t=["u", "vw"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": [[1, 2], [3]]}, "several lengths"),
        ({"x": [[1, 2], 3]}, "several lengths"),
        ({"x": [[1], [None]]}, "missing"),
        ({"x": [[1], None]}, "several lengths"),
        ({"x": [[1], ["a"]]}, "several types"),
        ({"x": [[1], [True]]}, "several types"),
        ({"x": [[1], [{}]]}, "several types"),
        ({"x": [[1], [[1]]]}, "several types"),
        ({"x": [[]]}, "empty"),
        ({"x": [[[[[1]]]]]}, "dimensions"),
        ({"x": [[1]], "y": [1, 2]}, "2 rows"),
        ({"x y": [[1]]}, "does not name an array"),
        ({"x": [["a" * 2000]]}, "more than 1024"),
        ({"x": [[1]], "y": [None]}, "missing"),
    ],
    ids=str,
)
def test_lists_that_are_no_array_are_refused(parsed: Parse, content: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        parsed(json.dumps(content).encode(), JSON)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([[1], [1, 2]]), "several lengths"),
        (pa.array([[1], None]), "missing"),
        (pa.array([[1], [None]]), "missing"),
        (pa.array([[1.0], [float("nan")]]), "not finite"),
        (pa.array([["a"], ["b"]]), "nested"),
        (pa.array([[[[[1]]]], [[[[1]]]]]), "nested"),
        (pa.array([{"a": 1}, {"a": 2}]), "nested"),
    ],
)
def test_lists_of_arrow_that_are_no_array_are_refused(
    parsed: Parse, column: pa.Array, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        parsed(as_stream(pa.table({"x": column})), STREAM)
    with pytest.raises(DataError, match="send columns of lists as an Arrow stream or npz"):
        parsed(as_parquet(pa.table({"x": column})), PARQUET)
    times = pa.table({"x": pa.array([[1], [2]]), "t": pa.array([0, 1], pa.timestamp("us"))})
    with pytest.raises(DataError, match="timestamp"):
        parsed(as_stream(times), STREAM)


def test_texts_that_take_too_much_are_refused(parsed: Parse) -> None:
    content = json.dumps({"x": [[1]] * 99, "t": ["a" * 1000] + ["b"] * 98}).encode()
    with pytest.raises(DataError, match="take too much"):
        parsed(content, JSON, Limits(max_unpacked_bytes=100_000))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(document=st.dictionaries(st.text(min_size=1, max_size=3), st.lists(VALUES, max_size=3)))
@settings(
    max_examples=examples(100, 1000), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_is_read_or_refused(parsed: Parse, document: dict[str, Any]) -> None:
    try:
        data = parsed(json.dumps(document).encode(), JSON)
    except DataError:
        return
    assert data.rows > 0
