"""The order of an epoch whose rows are read by blocks, and shuffled in pools of several.

The blocks (runs of rows that lie together) are put in random order, one after another; each
`pool_rows` rows of that stream are a pool, and the rows of a pool are put in random order. Both are
functions of seed and epoch alone, so that a run goes on from any step without any state to keep. A
row's place is within one pool of that of the rest of its block: rows that lie together are less
apart in an epoch than a full shuffle has them, and the closer the fewer blocks make a pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.streams import generator

__all__ = ["BlockOrder", "Blocking"]

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Blocking:
    """How many rows are read together, and how many are held and shuffled together."""

    block_rows: int
    pool_rows: int

    def in_batches(self, batch_size: int) -> int:
        """Return the rows of a pool of whole batches."""
        return max(1, self.pool_rows // batch_size) * batch_size


class BlockOrder:
    """The order of so many rows in each epoch."""

    def __init__(self, rows: int, *, block_rows: int, pool_rows: int, seed: int) -> None:
        self.pool_rows = pool_rows
        self.pools = -(-rows // pool_rows)
        """In an epoch; the last may be smaller."""
        self._rows = rows
        self._block_rows = block_rows
        self._seed = seed

    def pool(self, epoch: int, number: int) -> tuple[Places, Places]:
        """Return the rows of a pool, ascending, and the order in which they are taken.

        Where all rows are one pool, the order is that of rows which are held in memory.
        """
        places = self._places(epoch, number)
        address: tuple[int | str, ...] = (self._seed, "shuffle", epoch)
        order = generator(*address, *((number,) if number else ())).permutation(len(places))
        return places, order

    def _places(self, epoch: int, number: int) -> Places:
        """Return the rows of a stretch of the blocks' stream."""
        starts = np.arange(0, self._rows, self._block_rows, dtype=np.int64)
        starts = starts[generator(self._seed, "blocks", epoch).permutation(len(starts))]
        ends = np.cumsum(np.minimum(self._block_rows, self._rows - starts))
        begin = number * self.pool_rows
        stop = min(begin + self.pool_rows, self._rows)
        first, last = np.searchsorted(ends, [begin, stop - 1], side="right").tolist()
        pieces = []
        for block in range(first, last + 1):
            size = int(min(self._block_rows, self._rows - starts[block]))
            before = int(ends[block]) - size
            own = np.arange(max(begin - before, 0), min(stop - before, size), dtype=np.int64)
            pieces.append(starts[block] + own)
        return np.concatenate(sorted(pieces, key=lambda piece: int(piece[0])))
