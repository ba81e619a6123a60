"""The door of the data: files of many formats in, one stored form, files of many formats out."""

from __future__ import annotations

import errno
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.columnar import parse_arrow_stream, parse_parquet
from engine.data.dataset import BOOLEAN, TEXT, Data, Limits
from engine.data.delimited import Dialect, parse_csv
from engine.data.json_records import parse_json, parse_ndjson
from engine.data.npz import map_npz, parse_npz, write_npz
from engine.data.plain_text import parse_text
from engine.data.writing import CSV, JSON, NDJSON, NPZ, PARQUET, PLAIN, STREAM, WRITABLE, write
from engine.errors import DataError

__all__ = ["MEDIA_TYPES", "WRITABLE", "Data", "Limits", "load", "parse", "save", "write"]

MEDIA_TYPES: Mapping[str, str] = {
    CSV: "csv",
    PARQUET: "parquet",
    STREAM: "arrow",
    NDJSON: "ndjson",
    JSON: "json",
    NPZ: "npz",
    PLAIN: "text",
}
"""The media types that `parse` takes, and what each format is called."""

_PARSERS: Mapping[str, Callable[[Path, Limits], Data]] = {
    "csv": parse_csv,
    "parquet": parse_parquet,
    "arrow": parse_arrow_stream,
    "ndjson": parse_ndjson,
    "json": parse_json,
    "npz": parse_npz,
    "text": parse_text,
}

# What the libraries raise over files that are not what they say. Arrow's own errors derive from
# ValueError, KeyError, MemoryError, NotImplementedError and others.
_BROKEN = (
    pa.ArrowException,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
_STORED_ROWS = 65_536
_RELEASED_BYTES = 64 * 2**20
"""Of the smallest file whose pages are let go of once they are read."""


def parse(
    path: Path,
    media_type: str,
    *,
    limits: Limits | None = None,
    dialect: Dialect | None = None,
) -> Data:
    """Read a file that a caller sent; DataError on anything that is broken, empty or too large.

    A `dialect` says how a CSV file is written; other formats have none.
    """
    name = MEDIA_TYPES.get(media_type)
    if name is None:
        raise DataError(
            f"the media type {media_type!r} is not taken; take one of {', '.join(MEDIA_TYPES)}"
        )
    try:
        if dialect is not None and name == "csv":
            return parse_csv(path, limits or Limits(), dialect)
        return _PARSERS[name](path, limits or Limits())
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(_broken(name)) from error
    except OSError as error:
        # The file's own errors have no number, or come of an offset that it claims; the rest are
        # the machine's.
        if error.errno not in (None, errno.EINVAL):
            raise
        raise DataError(_broken(name)) from error


def _keep() -> None:
    """Let go of nothing: reading a small file again would cost more than its memory."""


def _broken(name: str) -> str:
    return f"the file cannot be read as {name}: it is damaged, or of another format"


def save(data: Data, path: Path) -> None:
    """Store a data set for `load`; the same content always gives the same bytes."""
    if data.table is None:
        with path.open("wb") as file:
            write_npz(data.arrays or {}, file)
        return
    table = data.table
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for start in range(0, table.num_rows, _STORED_ROWS):
            piece = table.slice(start, _STORED_ROWS)
            columns = [_plain(column) for column in piece.columns]
            writer.write_batch(pa.record_batch(columns, schema=table.schema))


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return the column in one piece, with zeros (no accidental bits) beneath missing values."""
    missing = column.is_null().to_numpy()
    validity = None
    if missing.any():
        validity = pa.py_buffer(np.packbits(~missing, bitorder="little"))
        column = column.fill_null(pa.scalar(_ZEROS.get(column.type, 0), type=column.type))
    if column.type == TEXT:
        # Built from the lengths, so that the offsets start at 0 and the bytes hold nothing else.
        lengths = pc.binary_length(column).to_numpy()
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        content = b"".join(map(_text_bytes, column.chunks))
        buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(content)]
    elif column.type == BOOLEAN:
        buffers = [validity, pa.py_buffer(np.packbits(column.to_numpy(), bitorder="little"))]
    else:
        values = np.ascontiguousarray(column.to_numpy())
        buffers = [validity, pa.py_buffer(values)]
    return pa.Array.from_buffers(column.type, len(column), buffers)


_ZEROS: Mapping[pa.DataType, object] = {TEXT: "", BOOLEAN: False}


def _text_bytes(chunk: pa.Array) -> bytes:
    """Return the bytes of a chunk's texts, and of nothing before or after them."""
    _, offsets, content = chunk.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)
    start, stop = bounds[chunk.offset], bounds[chunk.offset + len(chunk)]
    return bytes(memoryview(content)[start:stop])


def load(path: Path, kind: str) -> Data:
    """Map a data set stored by `save` into memory, without reading it.

    `Data.release` lets go of what has been read of a large one.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        release: Callable[[], object] = partial(mapping.madvise, mmap.MADV_DONTNEED)
        if len(mapping) < _RELEASED_BYTES:
            release = _keep
        if kind == "arrays":
            return Data(arrays=map_npz(mapping), release=release)
        buffer = pa.py_buffer(mapping)
        return Data(table=pa.ipc.open_file(pa.BufferReader(buffer)).read_all(), release=release)
    except _BROKEN as error:
        raise DataError("the stored data set is damaged") from error
