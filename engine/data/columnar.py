"""Parquet and Arrow IPC streams, read piece by piece so that no piece can outgrow the limits."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from engine.data.columns import check_names, make_table
from engine.data.dataset import Data, Limits
from engine.data.nested import array_of_column, is_array_type, make_arrays
from engine.errors import DataError

__all__ = ["parse_arrow_stream", "parse_parquet", "refuse_compressed"]

_BATCH_ROWS = 65_536


def parse_parquet(path: Path, limits: Limits) -> Data:
    """Read a Parquet file of scalar columns."""
    with pa.OSFile(str(path)) as file:
        names, text = _parquet_names(pyarrow.parquet.ParquetFile(file), limits)
        # Texts are read as dictionaries: one long text repeated a million times is small so, and
        # its size is known before it is unpacked.
        source = pyarrow.parquet.ParquetFile(file, read_dictionary=text)
        size = 0
        columns = []
        for name in names:  # one column at a time: at most one damaged page is ever unpacked
            chunks = []
            for batch in source.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
                column = batch.column(batch.schema.get_field_index(name))
                size += column.nbytes
                _check_size(size, limits)
                chunks.append(column)
            if not chunks:
                raise DataError("there are no rows; at least one is needed")
            columns.append(pa.chunked_array(chunks))
    return make_table(names, columns, limits)


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


def parse_arrow_stream(path: Path, limits: Limits) -> Data:
    """Read an uncompressed Arrow IPC stream of scalar columns, or lists, which become arrays."""
    with pa.OSFile(str(path)) as file:
        refuse_compressed(file)
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        schema = reader.schema
        check_names(schema.names, limits)
        _check_flat(schema, "lists of numbers become arrays", arrays=True)
        chunks: list[list[pa.Array]] = [[] for _ in schema.names]
        rows = size = 0
        for batch in reader:
            rows += batch.num_rows
            limits.check_table(rows, len(schema.names))
            batch.validate()  # of sizes; the rest is checked with the column
            size += batch.nbytes
            _check_size(size, limits)
            for column, piece in zip(chunks, batch.columns, strict=True):
                column.append(piece)
    columns = [
        pa.chunked_array(column, type=field.type)
        for column, field in zip(chunks, schema, strict=True)
    ]
    if not any(is_array_type(field.type) for field in schema):
        return make_table(schema.names, columns, limits)
    arrays = {
        name: array_of_column(name, column, limits)
        for name, column in zip(schema.names, columns, strict=True)
    }
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
