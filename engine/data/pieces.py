"""Tables that are read piece by piece: never held as a whole, unless that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from engine.data.columns import Conversion, Widened, no_rows
from engine.data.dataset import Data, Limits
from engine.data.stored_table import TableWriter

__all__ = ["Source", "read_pieces", "store_pieces"]


class Source(Protocol):
    """A file with a table in it, which may be read more than once."""

    @property
    def names(self) -> Sequence[str]:
        """Of its columns."""

    def pieces(self) -> Iterator[Sequence[pa.ChunkedArray]]:
        """Yield the columns of some rows at a time, of the same types in all pieces.

        Raises Widened where a later piece has shown that earlier ones were read too narrowly: they
        are right when they are read again.
        """


def store_pieces(source: Source, limits: Limits, path: Path) -> None:
    """Store a table in the form of `TableWriter`, a piece at a time."""
    convert = Conversion(source.names, limits)
    is_done = False
    while not is_done:
        with suppress(Widened), TableWriter(path) as writer:
            _each(source, convert, writer.write)
            is_done = True


def read_pieces(source: Source, limits: Limits) -> Data:
    """Return a table, held in memory."""
    convert = Conversion(source.names, limits)
    while True:
        tables: list[pa.Table] = []
        with suppress(Widened):
            _each(source, convert, tables.append)
            return Data(table=pa.concat_tables(tables))


def _each(source: Source, convert: Conversion, take: Callable[[pa.Table], None]) -> None:
    convert.begin()
    for columns in source.pieces():
        take(convert(columns))
    if not convert.rows:
        raise no_rows()
