"""What a CSV file says of itself before its values are read: its header, and that it is text."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.data.dataset import Limits
from engine.errors import DataError

__all__ = ["MARK", "Survey", "read_header"]

MARK = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t|"


def read_header(path: Path, limits: Limits, given: str | None) -> tuple[str, list[str]]:
    """Return the delimiter and the names in the first row that is not empty."""
    with path.open("rb") as file:
        head = file.read(limits.max_row_bytes + 4)
    start = head.removeprefix(MARK).lstrip(b"\r\n")
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


def _count(units: npt.NDArray[np.uint8], character: str) -> int:
    return int(np.count_nonzero(units == ord(character)))


class Survey:
    """Sees the bytes of a file as they come, and refuses what is no text or too much of it."""

    def __init__(self, delimiter: str, columns: int, limits: Limits) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._delimiter = delimiter
        self._columns = columns
        self._most = limits.max_cells
        self._lines = self._delimiters = 1
        self._quotes = 0

    def see(self, piece: bytes) -> None:
        try:
            self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            line = self._lines + max(piece.count(end, 0, error.start) for end in (b"\n", b"\r"))
            raise DataError(f"the file is not UTF-8 text at line {line}") from error
        units = np.frombuffer(piece, dtype=np.uint8)
        if (units == 0).any():
            raise DataError("this is not a CSV file: it has null bytes; send UTF-8 text")
        self._lines += max(_count(units, end) for end in "\n\r")
        self._delimiters += _count(units, self._delimiter)
        self._quotes += _count(units, '"')
        # What bounds the number of values, before any is read.
        if min(self._lines * self._columns, self._delimiters + self._lines) > self._most:
            raise DataError(f"there are more values than the {self._most} that are taken")

    def end(self) -> None:
        if self._decoder.getstate()[0]:
            raise DataError("the file breaks off within a character")

    def check_quotes(self, table: pa.Table) -> None:
        """Refuse a quotation that runs to the end of the file and has swallowed its last rows.

        `table` ends with the file's last row.
        """
        if self._quotes % 2 == 0:
            return
        for column in table.columns:
            last = column[-1].as_py()
            if isinstance(last, str) and "\n" in last:
                raise DataError("a quotation in the last row is not closed")
