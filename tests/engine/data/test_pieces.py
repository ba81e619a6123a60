"""Tables that are read piece by piece: whatever the pieces are, the same as those read at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.data import formats
from engine.data.columnar import ArrowStream, ParquetFile
from engine.data.columns import Widened
from engine.data.dataset import Limits
from engine.data.delimited import CsvFile
from engine.data.pieces import Source, read_pieces, store_pieces
from engine.data.row_ends import first_row_end, last_row_end
from engine.data.stored_table import TableWriter
from engine.errors import DataError

LIMITS = Limits()

# Of every kind that Arrow finds in a column, values that are of several, and texts of few sorts.
FIELDS = [
    *("", "NA", "0", "1", "7", "-3", "2020", "true", "false", "1.5", "1e400", "9" * 20),
    *("2020-01-02", "0001-01-01", "12:30", "2020-01-02 10:00:00", "2020-01-02T10:00:00.25"),
    *("2020-01-02T10:00:00Z", "2020-01-02T10:00:00.5+01:00", "x", '"a\nb"', '"a ""b"" c"', '""'),
    *('5" pipe', '"q"r', "\ufeff", 'x""y'),
]


def written(rows: Sequence[Sequence[str]], end: str) -> bytes:
    names = ",".join(f"c{number}" for number in range(len(rows[0])))
    return (end.join([names, *map(",".join, rows)]) + end).encode()


def of_arrow(content: bytes) -> pa.Table:
    """Return what Arrow finds in a file that it reads at once."""
    missing = ["", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null"]
    return pyarrow.csv.read_csv(
        pa.BufferReader(content),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(null_values=missing, strings_can_be_null=False),
    )


def in_pieces(source: Source) -> tuple[list[pa.Table], int]:
    """Return the pieces, and how often they had to be read."""
    for times in range(1, 40):
        pieces: list[pa.Table] = []
        try:
            pieces.extend(
                pa.table(list(columns), names=list(source.names)) for columns in source.pieces()
            )
        except Widened:
            continue
        return pieces, times
    raise AssertionError("the types never settle")


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 3).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from(FIELDS), min_size=width, max_size=width), min_size=1
        )
    ),
    block=st.integers(1, 60),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
@example(rows=[["5"], ["true"], ["x"]], block=1, end="\n")
@example(rows=[["2020-01-02"], ["12:30"]], block=2, end="\n")
@example(rows=[["12:30"], ["13:30"]], block=2, end="\n")
@example(rows=[["1"], ["true"], ["1.5"]], block=1, end="\r\n")
def test_csv_in_blocks_is_what_arrow_makes_of_it_at_once(
    rows: list[list[str]],
    block: int,
    end: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    content = written(rows, end)
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    path.write_bytes(content)
    try:
        whole = of_arrow(content)
    except pa.ArrowException:  # an unpaired quote has joined rows
        return
    if not whole.num_rows:
        return
    quotes = content.count(b'"') % 2
    try:
        pieces, _ = in_pieces(CsvFile(path, LIMITS, block_bytes=block))
    except DataError:
        assert quotes
        return
    found = pa.concat_tables(pieces)
    for number, name in enumerate(whole.column_names):
        column, kind = whole.column(number), whole.schema.field(number).type
        if pa.types.is_string(kind) or pa.types.is_time(kind):
            texts = pyarrow.csv.read_csv(
                pa.BufferReader(content),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(column_types={name: pa.string()}),
            )
            wanted = [text or None for text in texts.column(name).to_pylist()]
            assert found.column(number).to_pylist() == wanted
        else:
            assert found.column(number).type == kind
            assert found.column(number).to_pylist() == column.to_pylist()


def test_a_type_is_widened_by_reading_the_file_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = ["a,b,c", *("1,true,2020-01-02",) * 50, "2.5,0,2020-01-02 10:00:00"]
    path.write_text("\n".join(lines))
    source = CsvFile(path, LIMITS, block_bytes=100)
    with pytest.raises(Widened):
        list(source.pieces())
    pieces, times = in_pieces(source)
    assert times == 1
    assert len(pieces) > 5
    for piece in pieces:
        assert piece.schema.types == [pa.float64(), pa.bool_(), pa.timestamp("s")]


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        (b"1,2,3", "row 202 (the header is row 1) has 3 values; the header names 2"),
        (b"1", "row 202 (the header is row 1) has 1 values"),
        (b'1,"x\n2,y\n', "not closed"),
        (b"1,\xff", "not UTF-8 text at line 202"),
        (b"1,\0", "null bytes"),
        (b"1,inf", "'b' is infinite at row 200"),
    ],
)
def test_what_is_wrong_in_a_later_block_is_told_as_in_the_first(
    tmp_path: Path, row: bytes, detail: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 200 + row)
    with pytest.raises(DataError) as refused:
        read_pieces(CsvFile(path, LIMITS, block_bytes=50), LIMITS)
    assert detail in refused.value.detail


def line_breaks(text: str) -> list[int]:
    """Return where lines break outside of quotations, one character after the other."""
    breaks = []
    state = "begin"
    for place, character in enumerate(text):
        if state == "inside":
            state = "after" if character == '"' else "inside"
        elif character == '"' and state in ("begin", "after"):
            state = "inside"
        elif character in "\r\n":
            breaks.append(place)
            state = "begin"
        else:
            state = "begin" if character == "," else "plain"
    return breaks


@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.sampled_from(['"', '"', ",", "\n", "\r", "x"]), max_size=30).map("".join))
def test_rows_end_at_line_breaks_outside_of_quotations(text: str) -> None:
    breaks = line_breaks(text)
    first = breaks[0] + 1 if breaks else 0
    if breaks and text[first - 1 : first + 1] == "\r\n":
        first += 1
    whole = [place for place in breaks if text[place:] != "\r"]
    assert first_row_end(text.encode(), ",") == first
    assert last_row_end(text.encode(), ",") == (whole[-1] + 1 if whole else 0)


# -- Parquet and Arrow streams ---------------------------------------------------------------------


def table_of(rows: int) -> pa.Table:
    draw = np.random.default_rng(rows)
    gaps = draw.random(rows) < 0.2
    words = np.array(["a", "bb", "a word", ""])[draw.integers(4, size=rows)]
    return pa.table(
        {
            "f": pa.array(draw.standard_normal(rows), mask=gaps),
            "i": pa.array(draw.integers(99, size=rows), pa.int16()),
            "t": pa.array(words.tolist(), mask=gaps),
            "d": pa.array(words.tolist()).dictionary_encode(),
            "w": pa.array(draw.integers(9, size=rows), pa.timestamp("ms", "Europe/Paris")),
            "u": pa.array([1] * (rows - 1) + [2**64 - 1], pa.uint64()),
            "n": pa.nulls(rows),
        }
    )


def stream_of(table: pa.Table, rows: int) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return sink.getvalue()


def sources(folder: Path, table: pa.Table) -> Iterator[Source]:
    path = folder / "rows"
    for rows in (7, 300):
        pyarrow.parquet.write_table(table, path, row_group_size=rows)
        for piece in (5, 10_000):
            yield ParquetFile(path, LIMITS, piece_rows=piece)
    for rows in (7, 300):
        path.write_bytes(stream_of(table, rows))
        for piece in (5, 10_000):
            yield ArrowStream(path, LIMITS, piece_rows=piece)


@pytest.mark.parametrize("rows", [1, 300])
def test_a_table_is_stored_in_the_same_bytes_however_it_is_cut(tmp_path: Path, rows: int) -> None:
    table = table_of(rows)
    stored = set()
    for source in sources(tmp_path, table):
        store_pieces(source, LIMITS, tmp_path / "stored")
        stored.add((tmp_path / "stored").read_bytes())
        formats.save(read_pieces(source, LIMITS), tmp_path / "stored")
        stored.add((tmp_path / "stored").read_bytes())
    assert len(stored) == 1
    found = formats.load(tmp_path / "stored", "table")
    assert found.column("i").tolist() == table.column("i").to_pylist()
    assert found.column("u")[-1] == 2.0**64
    assert [found.type_of(name) for name in found.names] == [
        *("number", "integer", "text", "text", "datetime", "number", "number")
    ]


@given(cuts=st.lists(st.integers(1, 150_000), max_size=5))
@settings(max_examples=10, deadline=None)
def test_stored_batches_do_not_tell_of_pieces(
    cuts: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    table = pa.table({"x": np.arange(200_000.0), "y": np.arange(200_000)})
    bounds = sorted({0, 200_000, *cuts})
    with TableWriter(folder / "cut") as writer:
        for start, stop in pairwise(bounds):
            writer.write(table.slice(start, stop - start))
    formats.save(formats.Data(table=table), folder / "whole")
    assert (folder / "cut").read_bytes() == (folder / "whole").read_bytes()


@pytest.mark.parametrize("media_type", ["text/csv", "application/vnd.apache.arrow.stream"])
def test_files_are_converted_to_what_is_saved_of_them(tmp_path: Path, media_type: str) -> None:
    table = pa.table({"a": [1, 2], "b": [0.5, None]})
    content = b"a,b\n1,0.5\n2,\n" if media_type == "text/csv" else stream_of(table, 1)
    (tmp_path / "upload").write_bytes(content)
    kind = formats.convert(tmp_path / "upload", media_type, tmp_path / "stored")
    formats.save(formats.parse(tmp_path / "upload", media_type), tmp_path / "saved")
    assert kind == "table"
    assert (tmp_path / "stored").read_bytes() == (tmp_path / "saved").read_bytes()


def test_lists_are_converted_to_arrays(tmp_path: Path) -> None:
    table = pa.table({"x": [[1.0, 2.0], [3.0, 4.0]], "y": [1, 2]})
    (tmp_path / "upload").write_bytes(stream_of(table, 1))
    media_type = "application/vnd.apache.arrow.stream"
    assert formats.convert(tmp_path / "upload", media_type, tmp_path / "stored") == "arrays"
    assert formats.load(tmp_path / "stored", "arrays").column("x").tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("block", range(4, 16))
def test_a_character_that_blocks_cut_is_one_and_a_broken_one_is_told(
    tmp_path: Path, block: int
) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes("t,x\né€😀,1\nb,2\n".encode())
    table = read_pieces(CsvFile(path, LIMITS, block_bytes=block), LIMITS).table
    assert table is not None
    assert table.column("t").to_pylist() == ["é€😀", "b"]
    path.write_bytes("t,x\naaaa,1\né".encode()[:-1] + b",2\nbbbb,3\n")
    with pytest.raises(DataError, match="not UTF-8 text at line 3"):
        read_pieces(CsvFile(path, LIMITS, block_bytes=block), LIMITS)


@pytest.mark.parametrize("quoted", [False, True])
def test_a_header_is_read_however_long_it_is_within_the_limit(tmp_path: Path, quoted: bool) -> None:
    names = [f"column {number:07}" for number in range(8000)]  # more than is read at first
    given = [f'"{name}"' if quoted else name for name in names]
    path = tmp_path / "file.csv"
    path.write_text(";".join(given) + "\n" + ";".join("1" * len(names)) + "\n")
    source = CsvFile(path, LIMITS)
    assert list(source.names) == names
    (columns,) = source.pieces()
    assert [column.to_pylist() for column in columns] == [[1]] * len(names)
    path.write_text(";".join(given) + "\n")
    with pytest.raises(DataError, match="there are no rows"):
        CsvFile(path, LIMITS)
