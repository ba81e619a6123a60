"""CSV: with or without a byte-order mark, separated by commas, semicolons, tabs or bars."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from engine.data.columns import check_names, make_table
from engine.data.dataset import TEXT, Data, Limits
from engine.errors import DataError

__all__ = ["Dialect", "parse_csv"]

_DELIMITERS = ",;\t|"
_MISSING = ["", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null"]
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is written, where the caller says so."""

    delimiter: str | None = None
    """Between fields: a comma, semicolon, tab or bar; by default the header tells."""
    decimal: str = "."
    """What stands before the decimals of a number: a point, or a comma."""


@dataclass(frozen=True)
class _Shape:
    """What one pass over the bytes tells about a file."""

    lines: int
    delimiters: int
    quotes: int


def parse_csv(path: Path, limits: Limits, dialect: Dialect | None = None) -> Data:
    """Read a CSV file whose first row names the columns.

    An empty field is a missing value, quoted or not; in columns of numbers, booleans and times so
    are NA, NaN and null.
    """
    dialect = dialect or Dialect()
    delimiter, names = _header(path, limits, dialect.delimiter)
    if dialect.decimal == delimiter:
        raise DataError(
            "commas stand between the fields, so they cannot be decimal commas; separate fields by "
            "';', or give another `delimiter`"
        )
    shape = _survey(path, delimiter)
    check_names(names, limits)
    cells = min(shape.lines * len(names), shape.delimiters + shape.lines)
    if cells > limits.max_cells:
        raise DataError(f"there are more values than the {limits.max_cells} that are taken")
    dialect = Dialect(delimiter=delimiter, decimal=dialect.decimal)
    table = _read(path, dialect, limits, {})
    # A time of day is not a point in time: kept as the text it was.
    clocks = [field.name for field in table.schema if pa.types.is_time(field.type)]
    if clocks:
        table = _read(path, dialect, limits, dict.fromkeys(clocks, pa.string()))
    _check_quotes(shape, table)
    columns = [_without_empty(column) for column in table.columns]
    return make_table(names, columns, limits)


def _header(path: Path, limits: Limits, given: str | None) -> tuple[str, list[str]]:
    """Return the delimiter and the names in the first row that is not empty."""
    with path.open("rb") as file:
        head = file.read(limits.max_row_bytes + 4)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if not start:
        raise DataError("the file is empty; a CSV file starts with a row of column names")
    # A cut at the end of what was read may fall within a character, never within the header.
    text = start.decode("utf-8", errors="replace")
    line = text.splitlines()[0]
    delimiter = given or _sniff(line)
    stream = io.StringIO(text, newline="")
    try:
        names = next(csv.reader(stream, delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration) as error:
        raise DataError(
            "the header cannot be read: a quotation is not closed, or a name is too long"
        ) from error
    if len(start) > limits.max_row_bytes and "\n" not in text and "\r" not in text:
        raise DataError(f"the header is longer than {limits.max_row_bytes} bytes")
    if len(start) <= limits.max_row_bytes and not stream.read().strip("\r\n"):
        raise DataError(
            "there are no rows: the first row names the columns, and no other follows; "
            "at least one row of values is needed"
        )
    return delimiter, [name.strip() for name in names]


def _sniff(line: str) -> str:
    """Return the delimiter that is most frequent outside quotations; a comma if there is none."""
    counts: Counter[str] = Counter()
    quoted = False
    for character in line:
        if character == '"':
            quoted = not quoted
        elif not quoted and character in _DELIMITERS:
            counts[character] += 1
    return max(_DELIMITERS, key=lambda delimiter: counts[delimiter])


def _survey(path: Path, delimiter: str) -> _Shape:
    """Count what bounds the number of values; refuse what is not UTF-8 text before it is parsed."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    lines = delimiters = 1
    quotes = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                line = lines + max(block.count(end, 0, error.start) for end in (b"\n", b"\r"))
                raise DataError(f"the file is not UTF-8 text at line {line}") from error
            if b"\0" in block:
                raise DataError("this is not a CSV file: it has null bytes; send UTF-8 text")
            lines += max(block.count(b"\n"), block.count(b"\r"))
            delimiters += block.count(delimiter.encode())
            quotes += block.count(b'"')
    if decoder.getstate()[0]:
        raise DataError("the file breaks off within a character")
    return _Shape(lines=lines, delimiters=delimiters, quotes=quotes)


def _read(path: Path, dialect: Dialect, limits: Limits, types: dict[str, pa.DataType]) -> pa.Table:
    ragged: list[pyarrow.csv.InvalidRow] = []

    def refuse(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        with pa.OSFile(str(path)) as file:
            return pyarrow.csv.read_csv(
                file,
                # In one thread, so that rows can be numbered.
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False, block_size=limits.max_row_bytes
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=refuse,
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    null_values=_MISSING,
                    strings_can_be_null=False,
                    column_types=types,
                    decimal_point=dialect.decimal,
                ),
            )
    except pa.ArrowException as error:
        if ragged:
            row = ragged[0]
            raise DataError(
                f"row {row.number} (the header is row 1) has {row.actual_columns} values; "
                f"the header names {row.expected_columns}"
            ) from error
        raise DataError(
            "the file cannot be read as CSV: a quotation is not closed, or a row is longer than "
            f"{limits.max_row_bytes} bytes"
        ) from error


def _check_quotes(shape: _Shape, table: pa.Table) -> None:
    """Refuse a quotation that runs to the end of the file and has swallowed its last rows."""
    if shape.quotes % 2 == 0 or table.num_rows == 0:
        return
    for column in table.columns:
        last = column[-1].as_py()
        if isinstance(last, str) and "\n" in last:
            raise DataError("a quotation in the last row is not closed")


def _without_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    column = column.cast(TEXT)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, type=TEXT), column)
