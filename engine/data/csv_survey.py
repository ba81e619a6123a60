"""What a CSV file says of itself before its values are read: its header, and that it is text."""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.data.dataset import Limits
from engine.errors import DataError

__all__ = ["MARK", "Survey", "read_header"]

MARK = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t|"
_HEAD = 2**16
"""Bytes in which a header nearly always ends."""
_CACHED = 2**17
"""Bytes that a core keeps while they are counted several times."""


def read_header(path: Path, limits: Limits, given: str | None) -> tuple[str, list[str]]:
    """Return the delimiter and the names in the first row that is not empty."""
    with path.open("rb") as file:
        head = file.read(min(_HEAD, limits.max_row_bytes + 4))
        # Nearly always enough: a row ends in it, and another one begins.
        with suppress(DataError):
            return _header(head, given)
        head += file.read(limits.max_row_bytes + 4 - len(head))
    return _header(head, given, most=limits.max_row_bytes)


def _header(head: bytes, given: str | None, most: int | None = None) -> tuple[str, list[str]]:
    """Return the delimiter and the names in the first row of a file that begins so.

    `most` is the longest row, where the file is no longer than what is given or that row may be.
    """
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
    is_cut = most is not None and len(start) > most
    if is_cut and "\n" not in text and "\r" not in text:
        raise DataError(f"the header is longer than {most} bytes")
    if not is_cut and not stream.read().strip("\r\n"):
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


class _Tally:
    """Counts characters in bytes, a piece that stays in a core's cache at a time."""

    def __init__(self) -> None:
        self._equal = np.empty(_CACHED, dtype=np.bool_)

    def count(self, piece: bytes, characters: str) -> list[int]:
        """Return how often each of the characters, which are ASCII, occurs."""
        codes = [ord(character) for character in characters]
        counts = [0] * len(codes)
        present = [index for index, code in enumerate(codes) if code in piece]
        units = np.frombuffer(piece, dtype=np.uint8)
        for start in range(0, len(units), _CACHED):
            part = units[start : start + _CACHED]
            equal = self._equal[: len(part)]
            for index in present:
                np.equal(part, codes[index], out=equal)
                counts[index] += int(np.count_nonzero(equal))
        return counts


class Survey:
    """Sees the bytes of a file as they come, and refuses what is no text or too much of it."""

    def __init__(self, delimiter: str, columns: int, limits: Limits) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._delimiter = delimiter
        self._columns = columns
        self._most = limits.max_cells
        self._tally = _Tally()
        self._lines = self._delimiters = 1
        self._quotes = 0

    def see(self, piece: bytes) -> None:
        if not piece.isascii() or self._is_within_character:
            self._check_text(piece)
        if b"\0" in piece:
            raise DataError("this is not a CSV file: it has null bytes; send UTF-8 text")
        counts = self._tally.count(piece, f'\n\r{self._delimiter}"')
        self._lines += max(counts[:2])
        self._delimiters += counts[2]
        self._quotes += counts[3]
        # What bounds the number of values, before any is read.
        if min(self._lines * self._columns, self._delimiters + self._lines) > self._most:
            raise DataError(f"there are more values than the {self._most} that are taken")

    @property
    def _is_within_character(self) -> bool:
        return bool(self._decoder.getstate()[0])

    def _check_text(self, piece: bytes) -> None:
        try:
            self._decoder.decode(piece)
        except UnicodeDecodeError as error:
            line = self._lines + max(piece.count(end, 0, error.start) for end in (b"\n", b"\r"))
            raise DataError(f"the file is not UTF-8 text at line {line}") from error

    def end(self) -> None:
        if self._is_within_character:
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
