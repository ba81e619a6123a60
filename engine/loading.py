"""Whether a job's rows are held in memory, encoded, or read by blocks as they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.block_order import Blocking
from engine.data.encoding import Encoding
from engine.errors import SpecError
from engine.graph import Graph

__all__ = ["Loading", "plan_loading"]

POOL_BYTES = 128 * 2**20
"""Of the largest pool: more would shuffle rows no better that come from all over the data set."""
_POOL_SHARE = 4
"""Two pools and the pieces that measure are held at once, and each while it is being encoded."""
_BLOCKS = 32
"""Blocks in a pool: the more, the better it is shuffled, and the smaller are the reads."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a job's rows come to the network: a function of the data, the spec and the limit."""

    row_bytes: int
    """Of one row, encoded: inputs, targets and weights."""
    rows: int
    """Of training and validation."""
    resident_bytes: int | None
    """Most bytes of encoded rows to be held in memory; None for any number."""
    blocking: Blocking | None
    """How they are read by blocks; None where they are held in memory."""

    @property
    def encoded_bytes(self) -> int:
        """How much all rows come to."""
        return self.row_bytes * self.rows

    def held_bytes(self, batch_size: int) -> int:
        """Return how much of them is held at a time."""
        if self.blocking is None:
            return self.encoded_bytes
        return 3 * self.blocking.in_batches(batch_size) * self.row_bytes

    @property
    def told(self) -> str:
        """How rows are read, as the job's log says it."""
        size = f"{_shown(self.encoded_bytes)} of encoded rows"
        if self.blocking is None:
            return f"{size} held in memory"
        assert self.resident_bytes is not None
        return (
            f"{size}, more than the {_shown(self.resident_bytes)} to be held: read by blocks of "
            f"{self.blocking.block_rows} rows, shuffled in pools of {self.blocking.pool_rows}"
        )

    def describe(self) -> dict[str, Any]:
        """Return it as JSON."""
        blocking = self.blocking
        return {
            "form": "resident" if blocking is None else "blocks",
            "encoded_bytes": self.encoded_bytes,
            "resident_bytes": self.resident_bytes,
            "block_rows": None if blocking is None else blocking.block_rows,
            "pool_rows": None if blocking is None else blocking.pool_rows,
        }


def plan_loading(
    graph: Graph,
    encoding: Encoding,
    *,
    rows: int,
    weight_numbers: int,
    batch_size: int,
    resident_bytes: int | None,
) -> Loading:
    """Decide how so many rows are read; raises SpecError where they are too many for memory.

    `weight_numbers` are the weights of a row.
    """
    shapes = [layer.shape for layer in graph.inputs]
    targets = [_target_bytes(own) for own in (encoding, *encoding.auxiliary)]
    row_bytes = 4 * _numbers(shapes) + sum(targets) + 4 * weight_numbers
    sequence = encoding.sequence
    if sequence is not None and sequence.window is not None:
        # What overlapping windows share is held once.
        row_bytes = max(1, row_bytes * min(sequence.stride, sequence.window) // sequence.window)
    fits = resident_bytes is None or row_bytes * rows <= resident_bytes
    if not fits and sequence is not None:
        assert resident_bytes is not None
        raise SpecError(
            f"the rows of these sequences come to about {_shown(row_bytes * rows)} once they are "
            f"encoded; sequences made of a table's rows are held in memory as a whole, and at most "
            f"{_shown(resident_bytes)} are: choose fewer columns by `inputs` or fewer rows by "
            "`rows`, take a larger `stride`, allow more by `limits.resident_bytes`, or send the "
            "sequences as an array (rows, steps, features), which is read by blocks",
            pointer="#/sequence",
        )
    blocking = None
    if not fits:
        assert resident_bytes is not None
        pool = max(1, min(resident_bytes // _POOL_SHARE, POOL_BYTES) // row_bytes)
        pool = max(1, pool // batch_size) * batch_size
        blocking = Blocking(block_rows=-(-pool // _BLOCKS), pool_rows=pool)
    return Loading(row_bytes=row_bytes, rows=rows, resident_bytes=resident_bytes, blocking=blocking)


def _target_bytes(encoding: Encoding) -> int:
    if encoding.classes is None:
        return 4 * math.prod(encoding.output_shape)
    return 8 * math.prod(encoding.output_shape[:-1])


def _numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _shown(size: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size} bytes"
