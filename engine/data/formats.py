"""The door of the data: files of many formats in, one stored form, files of many formats out."""

from __future__ import annotations

import errno
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from engine.data.columnar import ArrowStream, ParquetFile, parse_arrow_arrays
from engine.data.dataset import Data, Limits
from engine.data.delimited import CsvFile, Dialect
from engine.data.json_records import parse_json, parse_ndjson
from engine.data.npz import map_npz, parse_npz, write_npz
from engine.data.pieces import Source, read_pieces, store_pieces
from engine.data.plain_text import parse_text
from engine.data.schema import Kind
from engine.data.stored_table import TableWriter
from engine.data.writing import CSV, JSON, NDJSON, NPZ, PARQUET, PLAIN, STREAM, WRITABLE, write
from engine.errors import DataError

__all__ = ["MEDIA_TYPES", "WRITABLE", "Data", "Limits", "convert", "load", "parse", "save", "write"]

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
    "arrow": parse_arrow_arrays,
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
    limits = limits or Limits()
    name = _name_of(media_type)
    with _readable(name):
        source = _source(name, path, limits, dialect)
        return _PARSERS[name](path, limits) if source is None else read_pieces(source, limits)


def convert(
    path: Path,
    media_type: str,
    stored: Path,
    *,
    limits: Limits | None = None,
    dialect: Dialect | None = None,
) -> Kind:
    """Read a file like `parse`, and store it for `load` like `save`; return what it holds.

    A table that comes as CSV, Parquet or Arrow is never held as a whole.
    """
    limits = limits or Limits()
    name = _name_of(media_type)
    with _readable(name):
        source = _source(name, path, limits, dialect)
        if source is not None:
            store_pieces(source, limits, stored)
            return "table"
        data = _PARSERS[name](path, limits)
    save(data, stored)
    return data.kind


def _name_of(media_type: str) -> str:
    name = MEDIA_TYPES.get(media_type)
    if name is None:
        raise DataError(
            f"the media type {media_type!r} is not taken; take one of {', '.join(MEDIA_TYPES)}"
        )
    return name


def _source(name: str, path: Path, limits: Limits, dialect: Dialect | None) -> Source | None:
    """Return what reads the file piece by piece; None where it is read as a whole."""
    match name:
        case "csv":
            return CsvFile(path, limits, dialect)
        case "parquet":
            return ParquetFile(path, limits)
        case "arrow":
            stream = ArrowStream(path, limits)
            return None if stream.holds_arrays else stream
    return None


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn what libraries raise over a file into a DataError."""
    try:
        yield
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
    with TableWriter(path) as writer:
        writer.write(data.table)


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
