"""Plain text: a table of its characters, a row for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.data.dataset import INTEGER, TEXT, Data, Limits
from engine.errors import DataError

__all__ = ["parse_text"]

_MARK = b"\xef\xbb\xbf"


def parse_text(path: Path, limits: Limits) -> Data:
    """Read UTF-8 text as the columns `position`, from 0, and `character`, in order.

    Every character is a row, spaces and the ends of lines included; a byte-order mark is none.
    """
    # A character takes a byte of the file at least, and 16 more in the table.
    most = min(limits.max_rows, limits.max_cells // 2, limits.max_unpacked_bytes // 20)
    if path.stat().st_size > 4 * most + len(_MARK):
        raise _too_long(most)
    content = path.read_bytes().removeprefix(_MARK)
    if not content:
        raise DataError("the text is empty")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"the file is not UTF-8 text at line {line}") from error
    if b"\0" in content:
        raise DataError("this is not text: it has null bytes; send UTF-8 text")
    units = np.frombuffer(content, dtype=np.uint8)
    begins = np.flatnonzero((units & 0xC0) != 0x80).astype(np.int64)
    if len(begins) > most:
        raise _too_long(most)
    buffers = [None, pa.py_buffer(np.append(begins, len(content))), pa.py_buffer(content)]
    characters = pa.Array.from_buffers(TEXT, len(begins), buffers)
    positions = pa.array(np.arange(len(begins)), type=INTEGER)
    return Data(table=pa.table({"position": positions, "character": characters}))


def _too_long(most: int) -> DataError:
    return DataError(f"the text is too long; at most {most} characters are taken")
