"""Parquet and Arrow IPC streams, read piece by piece so that no piece can outgrow the limits."""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from engine.data.columns import check_names
from engine.data.dataset import Data, Limits
from engine.data.nested import array_of_column, is_array_type, make_arrays
from engine.errors import DataError

__all__ = ["ArrowStream", "ParquetFile", "parse_arrow_arrays", "refuse_compressed"]

_PIECE_ROWS = 65_536
_PIECE_CELLS = 2**22
_BUFFER = 2**18
"""Bytes of each column of a Parquet file that are read at a time."""


class ParquetFile:
    """A Parquet file of scalar columns."""

    def __init__(self, path: Path, limits: Limits, *, piece_rows: int = _PIECE_ROWS) -> None:
        """`piece_rows` are the most rows of a piece; raises DataError where it is not fit."""
        self._path = path
        self._limits = limits
        with pa.OSFile(str(path)) as file:
            names, texts = _parquet_names(pyarrow.parquet.ParquetFile(file), limits)
        self.names: Sequence[str] = names
        self._texts = texts
        self._piece_rows = max(1, min(piece_rows, _PIECE_CELLS // len(names)))

    def pieces(self) -> Iterator[Sequence[pa.ChunkedArray]]:
        """Yield the columns of some rows at a time; see `Source`."""
        tally = _Tally(self._limits)
        with pa.OSFile(str(self._path)) as file:
            # Texts are read as dictionaries: one long text repeated a million times is small so,
            # and its size is known before it is unpacked.
            source = pyarrow.parquet.ParquetFile(
                file, read_dictionary=self._texts, buffer_size=_BUFFER
            )
            columns = [_Column(source, name, self._piece_rows, tally) for name in self.names]
            while True:
                # One column after the other: at most one damaged page is ever unpacked.
                piece = [column.take(self._piece_rows) for column in columns]
                if not any(len(column) for column in piece):
                    return
                yield piece


class _Tally:
    """Bytes of what has been unpacked."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._size = 0

    def add(self, size: int) -> None:
        self._size += size
        _check_size(self._size, self._limits)


class _Column:
    """A column of a Parquet file, which comes in batches of its own making."""

    def __init__(
        self, source: pyarrow.parquet.ParquetFile, name: str, rows: int, tally: _Tally
    ) -> None:
        self._batches = source.iter_batches(rows, columns=[name], use_threads=False)
        self._name = name
        self._type = source.schema_arrow.field(name).type
        self._tally = tally
        self._waiting: deque[pa.Array] = deque()
        self._rows = 0

    def take(self, rows: int) -> pa.ChunkedArray:
        """Return the next rows, fewer where no more are left."""
        while self._rows < rows and (batch := next(self._batches, None)) is not None:
            column = batch.column(batch.schema.get_field_index(self._name))
            self._tally.add(column.nbytes)
            self._waiting.append(column)
            self._rows += len(column)
        taken = []
        left = rows
        while left and self._waiting:
            chunk = self._waiting.popleft()
            taken.append(chunk.slice(0, left))
            if len(chunk) > left:
                self._waiting.appendleft(chunk.slice(left))
            left -= len(taken[-1])
        self._rows -= rows - left
        return pa.chunked_array(taken, type=taken[0].type if taken else self._type)


def _parquet_names(
    source: pyarrow.parquet.ParquetFile, limits: Limits
) -> tuple[list[str], list[str]]:
    """Return the names of all columns and of those of text, once the file is fit to be read."""
    metadata = source.metadata
    limits.check_table(metadata.num_rows, metadata.num_columns)
    schema = source.schema_arrow
    # Arrow's reader of lists in Parquet does not survive every damaged file.
    _check_flat(schema, "send columns of lists as an Arrow stream or npz")
    check_names(schema.names, limits)
    size = 0
    for group in range(metadata.num_row_groups):
        size += max(0, metadata.row_group(group).total_byte_size)
        _check_size(size, limits)
    text = [
        field.name
        for field in schema
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    ]
    return list(schema.names), text


class ArrowStream:
    """An uncompressed Arrow IPC stream of scalar columns."""

    def __init__(self, path: Path, limits: Limits, *, piece_rows: int = _PIECE_ROWS) -> None:
        """`piece_rows` are the most rows of a piece; raises DataError where it is not fit."""
        self._path = path
        self._limits = limits
        self._piece_rows = piece_rows
        with pa.OSFile(str(path)) as file:
            refuse_compressed(file)
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
            schema = reader.schema
        check_names(schema.names, limits)
        _check_flat(schema, "lists of numbers become arrays", arrays=True)
        self.names: Sequence[str] = schema.names
        self.holds_arrays = any(is_array_type(field.type) for field in schema)
        """Whether a column is of lists, which make all columns arrays."""

    def pieces(self) -> Iterator[Sequence[pa.ChunkedArray]]:
        """Yield the columns of some rows at a time; see `Source`."""
        with self._path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for batch in self.batches(pa.BufferReader(pa.py_buffer(mapping))):
            for start in range(0, batch.num_rows, self._piece_rows):
                piece = batch.slice(start, self._piece_rows)
                yield [pa.chunked_array([column]) for column in piece.columns]
                mapping.madvise(mmap.MADV_DONTNEED)  # what was read need not stay in memory

    def batches(self, stream: pa.NativeFile) -> Iterator[pa.RecordBatch]:
        """Yield the batches of the stream, whose sizes have been looked at."""
        rows = size = 0
        with pa.ipc.open_stream(stream) as reader:
            for batch in reader:
                rows += batch.num_rows
                self._limits.check_table(rows, len(self.names))
                batch.validate()  # of sizes; the rest is checked with the column
                size += batch.nbytes
                _check_size(size, self._limits)
                yield batch


def parse_arrow_arrays(path: Path, limits: Limits) -> Data:
    """Read an Arrow stream with columns of lists: all of its columns become arrays."""
    source = ArrowStream(path, limits)
    with pa.OSFile(str(path)) as file:
        batches = list(source.batches(file))
    arrays = {}
    for number, name in enumerate(source.names):
        chunks = [batch.column(number) for batch in batches]
        if not chunks:
            raise DataError("there are no rows; at least one is needed")
        arrays[name] = array_of_column(name, pa.chunked_array(chunks), limits)
    return make_arrays(arrays, limits)


def refuse_compressed(source: pa.NativeFile) -> None:
    """Refuse compressed bodies: a few bytes of them can stand for any number."""
    for message in pa.ipc.MessageReader.open_stream(source):
        if message.type in ("record batch", "dictionary") and _is_compressed(
            message.metadata.to_pybytes(), dictionary=message.type == "dictionary"
        ):
            raise DataError(
                "compressed Arrow streams are not taken; send the stream uncompressed, "
                "or send Parquet"
            )


def _is_compressed(metadata: bytes, *, dictionary: bool) -> bool:
    """Tell whether a message's RecordBatch has its `compression` field (Message.fbs, field 3)."""
    table = int.from_bytes(metadata[:4], "little")
    # Message.header, which for a dictionary holds the record batch as DictionaryBatch.data.
    for field in (2, 1) if dictionary else (2,):
        at = _flatbuffer_field(metadata, table, field)
        if at is None:
            return False
        table = at + int.from_bytes(metadata[at : at + 4], "little")
    return _flatbuffer_field(metadata, table, 3) is not None


def _flatbuffer_field(buffer: bytes, table: int, field: int) -> int | None:
    """Return where a table's field lies, or None if the table has not got it."""
    vtable = table - int.from_bytes(buffer[table : table + 4], "little", signed=True)
    size = int.from_bytes(buffer[vtable : vtable + 2], "little")
    slot = 4 + 2 * field
    if slot + 2 > size:
        return None
    offset = int.from_bytes(buffer[vtable + slot : vtable + slot + 2], "little")
    return table + offset if offset else None


def _check_flat(schema: pa.Schema, else_take: str, *, arrays: bool = False) -> None:
    for field in schema:
        if arrays and is_array_type(field.type):
            continue
        if pa.types.is_nested(field.type) or isinstance(field.type, pa.BaseExtensionType):
            raise DataError(
                f"column {field.name!r} is nested or of a type of its own; "
                f"take numbers, booleans, texts, dates or timestamps; {else_take}"
            )


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_unpacked_bytes:
        raise DataError(
            f"the data take more than {limits.max_unpacked_bytes} bytes once they are unpacked"
        )
