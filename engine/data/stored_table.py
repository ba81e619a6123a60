"""The stored form of a table: an Arrow IPC file whose bytes are a function of the values alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.dataset import BOOLEAN, TEXT

__all__ = ["TableWriter"]

_STORED_ROWS = 65_536
_ZEROS: Mapping[pa.DataType, object] = {TEXT: "", BOOLEAN: False}


class TableWriter:
    """Writes a table that comes in pieces; however it is cut, the file is the same.

    To be used as a context, at whose end the file is whole.
    """

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer: pa.RecordBatchFileWriter | None = None
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._sink:
            if kind is None and self._writer is not None:
                self._write(0)
                self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows, of the same columns as those before."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._sink, table.schema)
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= _STORED_ROWS:
            self._write(self._rows % _STORED_ROWS)

    def _write(self, left: int) -> None:
        """Write what waits, but for so many rows."""
        assert self._writer is not None
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        for start in range(0, table.num_rows - left, _STORED_ROWS):
            piece = table.slice(start, min(_STORED_ROWS, table.num_rows - left - start))
            columns = [_plain(column) for column in piece.columns]
            self._writer.write_batch(pa.record_batch(columns, schema=table.schema))
        self._waiting = [table.slice(table.num_rows - left)] if left else []
        self._rows = left


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return the column in one piece, with zeros (no accidental bits) beneath missing values."""
    validity = None
    if column.null_count:
        missing = column.is_null().to_numpy()
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


def _text_bytes(chunk: pa.Array) -> bytes:
    """Return the bytes of a chunk's texts, and of nothing before or after them."""
    _, offsets, content = chunk.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)
    start, stop = bounds[chunk.offset], bounds[chunk.offset + len(chunk)]
    return bytes(memoryview(content)[start:stop])
