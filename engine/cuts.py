"""How many rows are read, and how many computed, at a time: bounded in memory and in time."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["rows_at_once", "rows_of_piece"]

MOST_ROWS = 1 << 16
READ_NUMBERS = 1 << 22
"""Numbers that are encoded at a time."""
PIECE_NUMBERS = 1 << 20
"""Numbers that come of a piece."""
PIECE_FLOPS = 1e10
"""Operations of a piece, which is about half a second: whoever stops waits no longer."""


def rows_at_once(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return how many rows to read at once, of which each has arrays of these shapes."""
    width = sum(math.prod(shape) for shape in shapes)
    return max(1, min(MOST_ROWS, READ_NUMBERS // max(1, width)))


def rows_of_piece(*, flops: float, numbers: int) -> int:
    """Return how many rows to compute as one piece, each of so many operations and numbers."""
    fitting = min(PIECE_FLOPS / max(1.0, flops), PIECE_NUMBERS / max(1, numbers))
    return int(max(1, min(MOST_ROWS, fitting)))
