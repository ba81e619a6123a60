"""CSV: with or without a byte-order mark, separated by commas, semicolons, tabs or bars.

A file is cut into blocks of whole rows, each of which Arrow reads by itself. What a column holds is
what Arrow would find if it read the file as a whole: the first of `_KINDS` that all of its values
are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from engine.data.columns import Widened, check_names
from engine.data.csv_survey import MARK, Survey, read_header
from engine.data.dataset import TEXT, Limits
from engine.data.row_ends import first_row_end, last_row_end
from engine.errors import DataError

__all__ = ["CsvFile", "Dialect"]

_MISSING = ["", "NA", "N/A", "#N/A", "n/a", "NaN", "nan", "-nan", "NULL", "null"]
_BLOCK = 4 * 2**20
_Block = bytes | memoryview
_CLOCK = pa.time32("s")
_TEXTS = pa.string()
# In the order in which Arrow tries them.
_KINDS = (
    pa.null(),
    pa.int64(),
    pa.bool_(),
    pa.date32(),
    _CLOCK,
    pa.timestamp("s"),
    pa.timestamp("s", "UTC"),
    pa.timestamp("ns"),
    pa.timestamp("ns", "UTC"),
    pa.float64(),
    _TEXTS,
)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is written, where the caller says so."""

    delimiter: str | None = None
    """Between fields: a comma, semicolon, tab or bar; by default the header tells."""
    decimal: str = "."
    """What stands before the decimals of a number: a point, or a comma."""


class CsvFile:
    """A CSV file whose first row names the columns.

    An empty field is a missing value, quoted or not; in columns of numbers, booleans and times so
    are NA, NaN and null.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        dialect: Dialect | None = None,
        *,
        block_bytes: int = _BLOCK,
    ) -> None:
        """`block_bytes` are read at a time; raises DataError where the header is no good."""
        dialect = dialect or Dialect()
        self._path = path
        self._limits = limits
        self._delimiter, self.names = read_header(path, limits, dialect.delimiter)
        self._decimal = dialect.decimal
        self._block_bytes = min(block_bytes, limits.max_row_bytes)
        if self._decimal == self._delimiter:
            raise DataError(
                "commas stand between the fields, so they cannot be decimal commas; separate "
                "fields by ';', or give another `delimiter`"
            )
        with path.open("rb") as file:  # what is no text has no names to speak of
            self._survey().see(file.read(self._block_bytes))
        check_names(self.names, limits)
        self._types: list[pa.DataType] | None = None
        """What the columns hold, as far as is known."""

    def pieces(self) -> Iterator[Sequence[pa.ChunkedArray]]:
        """Yield the columns of a block at a time; see `Source`."""
        survey = self._survey()
        is_begun = is_widened = False
        last: pa.Table | None = None
        for block, table in self._tables(survey):
            if not table.num_rows:
                continue
            known = self._types
            table = self._agreed(block, table)
            is_widened |= is_begun and known != self._types
            last = table
            # Once a block has shown more, all are read again; what is left shows all that there is.
            if not is_widened:
                is_begun = True
                yield [_without_empty(column) for column in table.columns]
        if last is not None:
            survey.check_quotes(last)
        if is_widened:
            raise Widened

    def _survey(self) -> Survey:
        return Survey(self._delimiter, len(self.names), self._limits)

    def _tables(self, survey: Survey) -> Iterator[tuple[_Block, pa.Table]]:
        """Yield the blocks, and what Arrow makes of them; it reads one block in advance."""
        with ThreadPoolExecutor(1) as parser:
            ahead: tuple[_Block, Future[pa.Table]] | None = None
            for block in self._blocks(survey):
                following = block, parser.submit(self._parse, block, self._types)
                if ahead is not None:
                    yield ahead[0], self._result(*ahead)
                ahead = following
            if ahead is not None:
                yield ahead[0], self._result(*ahead)

    def _result(self, block: _Block, parsed: Future[pa.Table]) -> pa.Table:
        try:
            return parsed.result()
        except pa.ArrowException:  # it holds something else than the blocks before
            pass
        try:
            return self._parse(block, None)
        except pa.ArrowException as error:
            self._refuse(error)

    def _blocks(self, survey: Survey) -> Iterator[_Block]:
        """Yield the rows after the header, whole ones, a block at a time."""
        rest = b""
        is_header = True
        with self._path.open("rb") as file:
            if file.read(len(MARK)) != MARK:
                file.seek(0)
            while piece := file.read(self._block_bytes):
                survey.see(piece)
                block = rest + piece
                if is_header:
                    block = block.lstrip(b"\r\n")
                    end = first_row_end(block, self._delimiter)
                    is_header = not end
                    block = block[end:]
                end = 0 if is_header else last_row_end(block, self._delimiter)
                rest = block[end:]
                if len(rest) > self._limits.max_row_bytes:
                    raise self._broken()
                if end:
                    yield memoryview(block)[:end]
        survey.end()
        if rest and not is_header:
            yield rest

    def _parse(
        self,
        block: _Block,
        types: Sequence[pa.DataType] | None,
        *,
        column: int | None = None,
    ) -> pa.Table:
        """Return a block's columns, of these types or those that Arrow finds; `column` is one."""
        names = [str(number) for number in range(len(self.names))]
        if block[: len(MARK)] == MARK:  # it is no mark here, and an empty line is no row
            block = b"\n" + bytes(block)
        return pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(
                column_names=names, block_size=len(block) + 1, use_threads=len(names) > 1
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                null_values=_MISSING,
                strings_can_be_null=False,
                column_types=None if types is None else dict(zip(names, types, strict=True)),
                decimal_point=self._decimal,
                include_columns=[] if column is None else [str(column)],
            ),
        )

    def _agreed(self, block: _Block, table: pa.Table) -> pa.Table:
        """Return a block's table of the types that it and all blocks before it are of."""
        found = table.schema.types
        known = self._types or found
        self._types = [
            own if own == before != _CLOCK else self._common(block, number, before, own)
            for number, (before, own) in enumerate(zip(known, found, strict=True))
        ]
        return table if found == self._types else self._parse(block, self._types)

    def _common(
        self, block: _Block, number: int, before: pa.DataType, own: pa.DataType
    ) -> pa.DataType:
        """Return the first kind that a column's values are of, those before and the block's own."""
        for kind in _KINDS[max(_KINDS.index(before), _KINDS.index(own)) :]:
            if kind == _CLOCK:
                return _TEXTS  # a time of day is not a point in time: kept as the text it was
            if self._holds(block, number, own, kind):
                return kind
        return _TEXTS

    def _holds(self, block: _Block, number: int, own: pa.DataType, kind: pa.DataType) -> bool:
        """Say whether a column's values in a block, which are of their own kind, are of another."""
        if kind in (own, _TEXTS) or own == pa.null():
            return True
        if (own, kind) == (pa.int64(), pa.float64()):
            return True
        types = [kind] * len(self.names)
        try:
            self._parse(block, types, column=number)
        except pa.ArrowException:
            return False
        return True

    def _refuse(self, error: pa.ArrowException) -> NoReturn:
        """Say what is wrong with the file; in one thread, so that its rows can be numbered."""
        ragged: list[pyarrow.csv.InvalidRow] = []

        def refuse(row: pyarrow.csv.InvalidRow) -> str:
            ragged.append(row)
            return "error"

        try:
            with pa.OSFile(str(self._path)) as file:
                reader = pyarrow.csv.open_csv(
                    file,
                    pyarrow.csv.ReadOptions(
                        use_threads=False, block_size=self._limits.max_row_bytes
                    ),
                    pyarrow.csv.ParseOptions(
                        delimiter=self._delimiter,
                        newlines_in_values=True,
                        invalid_row_handler=refuse,
                    ),
                    # Of no column: what they hold is of no concern.
                    pyarrow.csv.ConvertOptions(
                        include_columns=["\0"], include_missing_columns=True
                    ),
                )
                for _ in reader:
                    pass
        except pa.ArrowException:
            pass
        if ragged:
            row = ragged[0]
            raise DataError(
                f"row {row.number} (the header is row 1) has {row.actual_columns} values; "
                f"the header names {row.expected_columns}"
            ) from error
        raise self._broken() from error

    def _broken(self) -> DataError:
        return DataError(
            "the file cannot be read as CSV: a quotation is not closed, or a row is longer than "
            f"{self._limits.max_row_bytes} bytes"
        )


def _without_empty(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_string(column.type):
        return column
    column = column.cast(TEXT)
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, type=TEXT), column)
