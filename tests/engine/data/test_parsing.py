"""What the formats say is what the data set holds."""

from __future__ import annotations

import datetime
import io
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from engine.data.formats import MEDIA_TYPES, Data, Limits, parse
from engine.errors import DataError
from tests.engine.data.conftest import Parse, npz

PARQUET = "application/vnd.apache.parquet"
STREAM = "application/vnd.apache.arrow.stream"
JSON = "application/json"
NDJSON = "application/x-ndjson"
NPZ = "application/x-npz"


def _parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    return file.getvalue()


def _stream(table: pa.Table, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_stream(file, table.schema, options=options) as writer:
        writer.write_table(table)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2.5\n3,4.5\n",
        b"\xef\xbb\xbfa,b\r\n1,2.5\r\n3,4.5\r\n",
        b"a;b\n1;2.5\n3;4.5",
        b"a\tb\n1\t2.5\n\n3\t4.5\n\n",
        b'\n"a","b"\n"1","2.5"\n"3","4.5"\n',
        b'" a", b\n1, 2.5\n3,4.5\n',
        b"a,b\r1,2.5\r3,4.5\r",
    ],
)
def test_csv_is_read_whatever_its_dialect(parsed: Parse, content: bytes) -> None:
    data = parsed(content)

    assert data.names == ("a", "b")
    assert data.column("a").tolist() == [1, 3]
    assert data.column("b").tolist() == [2.5, 4.5]


def test_csv_types_follow_the_values(parsed: Parse) -> None:
    data = parsed(
        b"i,n,b,t,d,c\n"
        b'1,1.5,true,"x, ""y""",2020-01-02,12:30\n'
        b"2,NaN,false,,2020-01-03,09:15\n"
        b",,,NA,,\n"
    )

    assert [data.type_of(name) for name in data.names] == [
        "integer", "number", "boolean", "text", "datetime", "text",
    ]  # fmt: skip
    assert data.table is not None
    assert data.table.column("n").null_count == 2  # NaN and empty
    assert data.table.column("t").to_pylist() == ['x, "y"', None, "NA"]
    assert data.table.column("c").to_pylist() == ["12:30", "09:15", None]


def test_a_newline_within_quotes_belongs_to_the_value(parsed: Parse) -> None:
    data = parsed(b'a,b\n"x\ny",1\n')

    assert data.column("a").tolist() == ["x\ny"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf\n\n", "empty"),
        (b"a,b\n", "no rows"),
        (b"a,b", "no rows"),
        (b'\xef\xbb\xbf"a\n",b\r\n\r\n', "no rows"),
        (b"a,a,b,b\n1,2,3,4\n", "'a', 'b'"),
        (b"a,,c\n1,2,3\n", "column 2 has no name"),
        (b"a,b\n1,2\n3\n", "row 3 (the header is row 1) has 1 values; the header names 2"),
        (b"a,b\n1,2,3\n", "row 2 (the header is row 1) has 3 values"),
        (b"a,b\n1,inf\n2,3\n", "'b' is infinite at row 0"),
        (b"a,b\n1,2\n1,-Infinity\n", "'b' is infinite at row 1"),
        (b"a,b\n1,\xff\xfe\n", "not UTF-8 text at line 2"),
        (b"a,\xff\n1,2\n", "not UTF-8 text at line 1"),
        (b"a\0,b\n1,2\n", "null bytes"),
        (b"a,b\n1,x\0y\n", "null"),
        (b'a,b\n1,"x\n2,y\n', "not closed"),
        (b'"a,b\n1,2\n', "quotation"),
        (b"a,b\x07\n1,2\n", "cannot be printed"),
        (b"a," + b"b" * 300 + b"\n1,2\n", "at most 256"),
        (b"a" * 200_000 + b",b\n1,2\n", "too long"),
    ],
)
def test_a_broken_csv_is_refused_with_the_place(parsed: Parse, content: bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        parsed(content)

    assert says in caught.value.detail


def test_records_may_come_as_json_or_ndjson(parsed: Parse) -> None:
    lines = b'{"a": 1, "b": "x"}\n\n{"a": 2.5, "c": true}\n'
    listed = b'[{"a": 1, "b": "x"}, {"a": 2.5, "c": true}]'
    columns = b'{"a": [1, 2.5], "b": ["x", null], "c": [null, true]}'

    tables = [parsed(lines, NDJSON).table, parsed(listed, JSON).table, parsed(columns, JSON).table]

    assert tables[0] == tables[1] == tables[2]
    assert tables[0] is not None
    assert tables[0].to_pydict() == {"a": [1.0, 2.5], "b": ["x", None], "c": [None, True]}


def test_json_times_are_read_as_csv_times_are(parsed: Parse) -> None:
    data = parsed(
        b'{"d": ["2020-01-02", null], "z": ["2020-01-02T03:00:00+02:00", "2020-01-02T01:00:00Z"],'
        b'"t": ["2020-01-02", "soon"], "n": ["2020-02-31", null]}',
        JSON,
    )

    assert [data.type_of(name) for name in "dztn"] == ["datetime", "datetime", "text", "text"]
    assert len(set(data.column("z").tolist())) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"[1", "line 1, column"),
        (b"3", "list of records"),
        (b"[]", "no rows"),
        (b"{}", "no columns"),
        (b"[{}]", "no columns"),
        (b"[[1, 2]]", "row 0 is not an object"),
        (b'{"a": 1}', "not a list"),
        (b'{"a": [1], "b": [1, 2]}', "'b' has 2 values"),
        (b'[{"a": 1}, {"a": "x"}]', "holds a number, but a text at row 1"),
        (b'[{"a": true}, {"a": 1}]', "holds a boolean, but a number at row 1"),
        (b'[{"a": 1}, {"a": [1]}]', "holds a list at row 1"),
        (b'[{"a": {"b": 1}}]', "holds an object at row 0"),
        (b'[{"a": NaN}]', "not JSON"),
        (b'[{"a": "\\u0000"}]', "null character"),
        (b'[{"": 1}]', "no name"),
        (b"[" * 5000, "not JSON"),
    ],
)
def test_broken_json_is_refused_with_the_place(parsed: Parse, content: bytes, says: str) -> None:
    with pytest.raises(DataError) as caught:
        parsed(content, JSON)

    assert says in caught.value.detail


def test_a_broken_ndjson_line_is_named(parsed: Parse) -> None:
    with pytest.raises(DataError, match="line 3"):
        parsed(b'{"a": 1}\n\n{"a": \n', NDJSON)


def _not_unicode() -> pa.Array:
    offsets = pa.py_buffer(np.array([0, 1], dtype=np.int32))
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])


def _varied() -> pa.Table:
    when = datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC)
    return pa.table(
        {
            "half": pa.array(np.array([1.5, np.nan], dtype=np.float16)),
            "small": pa.array([1, None], type=pa.int8()),
            "huge": pa.array([2**64 - 1, 0], type=pa.uint64()),
            "price": pa.array([Decimal("1.25"), None], type=pa.decimal128(5, 2)),
            "day": pa.array([datetime.date(2020, 1, 2), None]),
            "zoned": pa.array([when, None], type=pa.timestamp("ns", tz="+02:00")),
            "word": pa.array(["x", None]).dictionary_encode(),
            "flag": pa.array([True, None]),
            "a.b": pa.array([1, 2]),
        }
    )


@pytest.mark.parametrize(("media_type", "encode"), [(PARQUET, _parquet), (STREAM, _stream)])
def test_columnar_types_become_ours(parsed: Parse, media_type: str, encode: object) -> None:
    assert callable(encode)
    data = parsed(encode(_varied()), media_type)

    assert data.table is not None
    assert [data.type_of(name) for name in data.names] == [
        "number", "integer", "number", "number",
        "datetime", "datetime", "text", "boolean", "integer",
    ]  # fmt: skip
    assert data.table.column("half").to_pylist() == [1.5, None]
    assert data.table.column("huge").to_pylist() == [2.0**64, 0.0]
    assert data.table.column("price").to_pylist() == [1.25, None]
    assert data.table.column("day").to_pylist() == [datetime.datetime(2020, 1, 2), None]
    assert data.table.column("zoned").to_pylist() == [datetime.datetime(2020, 1, 2, 3), None]
    assert data.table.column("word").to_pylist() == ["x", None]
    assert data.table.column("a.b").to_pylist() == [1, 2]


@pytest.mark.parametrize(("media_type", "encode"), [(PARQUET, _parquet), (STREAM, _stream)])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a"], ["b"]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([b"a", b"b"]),
        pa.array([datetime.time(12), datetime.time(13)]),
    ],
)
def test_columns_of_other_types_are_refused_by_name(
    parsed: Parse, media_type: str, encode: object, column: pa.Array
) -> None:
    assert callable(encode)
    with pytest.raises(DataError, match="'odd'"):
        parsed(encode(pa.table({"odd": column})), media_type)


def test_a_compressed_arrow_stream_is_refused(parsed: Parse) -> None:
    table = pa.table({"a": np.zeros(1000)})
    for codec in ("lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with pytest.raises(DataError, match="uncompressed"):
            parsed(_stream(table, options), STREAM)
    assert parsed(_stream(table), STREAM).rows == 1000


def test_texts_of_views_are_read(parsed: Parse) -> None:
    words = ["x", None, "a text that is longer than a view"]
    data = parsed(_stream(pa.table({"t": pa.array(words, type=pa.string_view())})), STREAM)

    assert data.table is not None
    assert data.table.column("t").to_pylist() == words


def test_npz_arrays_keep_order_shape_and_type(parsed: Parse) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    data = parsed(
        npz(
            y=np.array([1, 0, 1], dtype=">i4"),
            x=np.asfortranarray(x),
            name=np.array(["a", "b", "é"]),
        ),
        NPZ,
    )

    assert data.names == ("y", "x", "name")
    assert data.arrays is not None
    assert data.rows == 3
    assert data.arrays["x"].dtype == np.float32
    assert data.arrays["x"].tolist() == x.tolist()
    assert data.arrays["y"].dtype == np.int32
    assert [data.type_of(name) for name in data.names] == ["integer", "number", "text"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npz(x=np.zeros((3, 1)), y=np.zeros(2)), "'y' has 2 rows, 'x' has 3"),
        (npz(x=np.float64(1)), "0 dimensions"),
        (npz(x=np.zeros((0, 3))), "empty"),
        (npz(x=np.zeros((1,) * 5)), "5 dimensions"),
        (npz(x=np.array([1.0, np.nan])), "not finite at [1]"),
        (npz(x=np.array([[1.0], [np.inf]])), "not finite at [1, 0]"),
        (npz(x=np.array([1 + 2j])), "'x' has no readable head"),
        (npz(x=np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")])), "'x' has no readable head"),
        (npz(x=np.array([object()], dtype=object)), "'x' has no readable head"),
        (npz(x=np.array([b"a"])), "'x' has no readable head"),
        (npz(x=np.array(["2020-01-01"], dtype="M8[D]")), "'x' has no readable head"),
        (npz(**{"a b": np.zeros(1)}), "member 1"),
        (npz(**{"../x": np.zeros(1)}), "member 1"),
        (npz(), "npz"),
        (b"PK\x03\x04 and no more", "breaks off"),
        (b"", "breaks off"),
    ],
)
def test_arrays_that_no_network_could_take_are_refused(
    parsed: Parse, content: bytes, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        parsed(content, NPZ)

    assert says in caught.value.detail


def test_an_unknown_media_type_is_refused_with_those_that_are_taken(parsed: Parse) -> None:
    with pytest.raises(DataError) as caught:
        parsed(b"", "text/html")

    assert all(media_type in caught.value.detail for media_type in MEDIA_TYPES)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (Limits(max_rows=1), "rows"),
        (Limits(max_columns=1), "columns"),
        (Limits(max_cells=3), "values"),
        (Limits(max_unpacked_bytes=10), "bytes"),
        (Limits(max_text_bytes=2), "text of 3 bytes"),
    ],
)
@pytest.mark.parametrize("media_type", ["text/csv", PARQUET, STREAM, JSON])
def test_limits_hold_in_every_format(
    parsed: Parse, media_type: str, limits: Limits, says: str
) -> None:
    content = {
        "text/csv": b"a,b\nabc,2\nx,4\n",
        PARQUET: _parquet(pa.table({"a": ["abc", "x"], "b": [2, 4]})),
        STREAM: _stream(pa.table({"a": ["abc", "x"], "b": [2, 4]})),
        JSON: b'{"a": ["abc", "x"], "b": [2, 4]}',
    }[media_type]
    with pytest.raises(DataError) as caught:
        parsed(content, media_type, limits)

    assert says in caught.value.detail


@pytest.mark.parametrize(
    ("media_type", "content", "says"),
    [
        ("text/csv", b"a,b\n1,2,3\n1,2,3\n", "row 2"),
        ("text/csv", b"a,b\n1,\xc3", "within a character"),
        (JSON, b'{"a": [1, []]}', "a list at row 1"),
        (STREAM, _stream(pa.table({"a": _not_unicode()})), "'a' is damaged"),
        (STREAM, _stream(pa.table({"a": pa.array([2**60], type=pa.timestamp("s"))})), "years"),
        (STREAM, _stream(pa.table({"a": pa.array([], type=pa.int8())})), "no rows"),
        (PARQUET, _parquet(pa.table({"a": pa.array([], type=pa.int8())})), "no rows"),
    ],
)
def test_other_broken_files_are_refused(
    parsed: Parse, media_type: str, content: bytes, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        parsed(content, media_type)

    assert says in caught.value.detail


def test_integers_beyond_64_bits_are_numbers(parsed: Parse) -> None:
    json = parsed(b'{"a": [18446744073709551615, 1]}', JSON)
    csv = parsed(b"a,b\n18446744073709551615,1\n1,1\n")

    for data in (json, csv):
        assert data.type_of("a") == "number"
        assert data.column("a").tolist() == [2.0**64, 1.0]


def test_times_with_and_without_a_zone_are_no_column_of_times(parsed: Parse) -> None:
    data = parsed(b'{"a": ["2020-01-02T03:00:00Z", "2020-01-02T03:00:00"]}', JSON)

    assert data.type_of("a") == "text"


@pytest.mark.parametrize(
    ("media_type", "content", "limits", "says"),
    [
        (JSON, b'{"a": [1]}', Limits(max_json_bytes=9), "10 bytes of JSON"),
        (NDJSON, b'{"a": 1}\n{"b": 1}\n', Limits(max_columns=1), "2 columns"),
        ("text/csv", b"a,b\n" + b"1,2\n" * 9, Limits(max_cells=9), "than the 9 that"),
        (NPZ, npz(x=np.zeros(1), y=np.zeros(1)), Limits(max_arrays=1), "2 arrays"),
        (NPZ, npz(x=np.zeros(2)), Limits(max_rows=1), "2 rows"),
    ],
)
def test_limits_of_one_format_hold(
    parsed: Parse, media_type: str, content: bytes, limits: Limits, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        parsed(content, media_type, limits)

    assert says in caught.value.detail


def test_a_file_that_is_not_there_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parse(tmp_path / "none", "text/csv")


def test_a_data_set_is_a_table_or_arrays() -> None:
    with pytest.raises(ValueError, match="either"):
        Data()
    with pytest.raises(KeyError):
        Data(arrays={"x": np.zeros(1)}).column("y")
