"""Data sets to bytes, a piece at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from engine.data.dataset import Data
from engine.data.npz import write_npz
from engine.errors import DataError

__all__ = ["CSV", "JSON", "NDJSON", "NPZ", "PARQUET", "PLAIN", "STREAM", "WRITABLE", "write"]

CSV = "text/csv"
NPZ = "application/x-npz"
PARQUET = "application/vnd.apache.parquet"
STREAM = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
JSON = "application/json"
PLAIN = "text/plain"

WRITABLE: Mapping[str, tuple[str, ...]] = {
    "table": (CSV, JSON, NDJSON, STREAM, PARQUET),
    "arrays": (NPZ, JSON),
}
"""The media types that a data set of each kind can be written as, the preferred one first."""

_BATCH_ROWS = 8_192


class _Drain(io.RawIOBase):
    """A file to write to whose content is taken away as it comes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, piece: Any) -> int:
        content = bytes(piece)
        self._pieces.append(content)
        self._position += len(content)
        return len(content)

    def take(self) -> bytes:
        content = b"".join(self._pieces)
        self._pieces.clear()
        return content


def write(data: Data, media_type: str, *, rows: slice | None = None) -> Iterator[bytes]:
    """Return the data set (or a slice of its rows) in a format, as pieces of bytes.

    JSON is a list of records for a table, an object of nested lists for arrays. Missing values are
    empty in CSV and null elsewhere.
    """
    if media_type not in WRITABLE[data.kind]:
        raise DataError(
            f"a data set of kind {data.kind!r} cannot be written as {media_type!r}; "
            f"take one of {', '.join(WRITABLE[data.kind])}"
        )
    start, stop, step = (rows or slice(None)).indices(data.rows)
    if step != 1:
        raise DataError("a slice of rows has no step")
    if data.table is None:
        arrays = {name: array[start:stop] for name, array in (data.arrays or {}).items()}
        return _npz(arrays) if media_type == NPZ else _json_arrays(arrays)
    table = data.table.slice(start, max(0, stop - start))
    return _TABLE_WRITERS[media_type](table)


def _npz(arrays: dict[str, npt.NDArray[Any]]) -> Iterator[bytes]:
    drain = _Drain()
    write_npz(arrays, drain)  # type: ignore[arg-type]
    yield drain.take()


def _json_arrays(arrays: dict[str, npt.NDArray[Any]]) -> Iterator[bytes]:
    yield b"{"
    for position, (name, array) in enumerate(arrays.items()):
        yield (b"," if position else b"") + orjson.dumps(name) + b":["
        for row in range(0, len(array), _BATCH_ROWS):
            piece = np.ascontiguousarray(array[row : row + _BATCH_ROWS])
            content = orjson.dumps(
                piece.tolist() if piece.dtype.kind == "U" else piece,
                option=orjson.OPT_SERIALIZE_NUMPY,
            )
            yield (b"," if row else b"") + content[1:-1]
        yield b"]"
    yield b"}"


def _csv(table: pa.Table) -> Iterator[bytes]:
    if table.num_columns == 1:
        yield from _csv_of_one(table)
        return
    drain = _Drain()
    with pyarrow.csv.CSVWriter(pa.PythonFile(drain, "w"), table.schema) as writer:
        for batch in table.to_batches(_BATCH_ROWS):
            writer.write_batch(batch)
            yield drain.take()
    yield drain.take()


def _csv_of_one(table: pa.Table) -> Iterator[bytes]:
    """A missing value alone on its line must be quoted: an empty line is no row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    for batch in table.to_batches(_BATCH_ROWS):
        writer.writerows([value] for value in batch.column(0).cast(pa.large_string()).to_pylist())
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def _records(table: pa.Table) -> Iterator[bytes]:
    for batch in table.to_batches(_BATCH_ROWS):
        for record in batch.to_pylist():
            yield orjson.dumps(record, option=orjson.OPT_NAIVE_UTC)


def _ndjson(table: pa.Table) -> Iterator[bytes]:
    yield from _joined(_records(table), b"", b"\n", b"\n")


def _json(table: pa.Table) -> Iterator[bytes]:
    yield from _joined(_records(table), b"[", b",", b"]")


def _joined(
    records: Iterator[bytes], before: bytes, between: bytes, after: bytes
) -> Iterator[bytes]:
    pieces: list[bytes] = []
    first = True
    yield before
    for record in records:
        pieces.append(record if first else between + record)
        first = False
        if len(pieces) == _BATCH_ROWS:
            yield b"".join(pieces)
            pieces.clear()
    yield b"".join(pieces)
    yield after


def _stream(table: pa.Table) -> Iterator[bytes]:
    drain = _Drain()
    with pa.ipc.new_stream(pa.PythonFile(drain, "w"), table.schema) as writer:
        for batch in table.to_batches(_BATCH_ROWS):
            writer.write_batch(batch)
            yield drain.take()
    yield drain.take()


def _parquet(table: pa.Table) -> Iterator[bytes]:
    drain = _Drain()
    with pyarrow.parquet.ParquetWriter(pa.PythonFile(drain, "w"), table.schema) as writer:
        for start in range(0, table.num_rows, 2**20):
            writer.write_table(table.slice(start, 2**20))
            yield drain.take()
    yield drain.take()


_TABLE_WRITERS = {
    CSV: _csv,
    JSON: _json,
    NDJSON: _ndjson,
    STREAM: _stream,
    PARQUET: _parquet,
}
