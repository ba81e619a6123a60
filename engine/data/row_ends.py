"""Where the rows of a CSV file end: at line breaks outside of quotations, as Arrow reads them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["first_row_end", "last_row_end"]

_LF, _CR, _QUOTE = 10, 13, 34

Places = npt.NDArray[np.int64]
Units = npt.NDArray[np.uint8]


def first_row_end(block: bytes, delimiter: str) -> int:
    """Return where the row after the first one begins; 0 where the first one does not end."""
    ends = _line_breaks(block, delimiter)
    if not len(ends):
        return 0
    end = int(ends[0]) + 1
    return end + (block[end - 1 : end + 1] == b"\r\n")


def last_row_end(block: bytes, delimiter: str) -> int:
    """Return how much of a block that begins with a row is whole rows; 0 where none is whole."""
    if b'"' not in block:
        end = 1 + max(block.rfind(b"\n"), block.rfind(b"\r", 0, -1))
    else:
        ends = _line_breaks(block, delimiter)
        # A carriage return at the end may be the first half of a line break.
        if len(ends) and ends[-1] == len(block) - 1 and block.endswith(b"\r"):
            ends = ends[:-1]
        end = int(ends[-1]) + 1 if len(ends) else 0
    return end


def _line_breaks(block: bytes, delimiter: str) -> Places:
    """Return the places of line breaks outside of quotations."""
    units = np.frombuffer(block, dtype=np.uint8)
    breaks = np.flatnonzero((units == _LF) | (units == _CR))
    quotes = np.flatnonzero(units == _QUOTE)
    if not len(quotes) or not len(breaks):
        return breaks
    begins = _begins_field(units, quotes, ord(delimiter))
    # Usually quotes come in pairs: one that begins a field, or follows one that might have ended it
    # and so doubles it, and one that ends it.
    opening = quotes[::2]
    if not (begins[::2] | (units[np.maximum(opening, 1) - 1] == _QUOTE)).all():
        quotes = _turning(quotes, begins)
    outside: Places = breaks[np.searchsorted(quotes, breaks) % 2 == 0]
    return outside


def _begins_field(units: Units, places: Places, delimiter: int) -> npt.NDArray[np.bool_]:
    before = units[np.maximum(places, 1) - 1]
    begins: npt.NDArray[np.bool_] = (before == delimiter) | (before == _LF) | (before == _CR)
    begins |= places == 0
    return begins


def _turning(quotes: Places, begins: npt.NDArray[np.bool_]) -> Places:
    """Return the quotes that begin or end a quotation, where others are text as they are."""
    turning = []
    places = quotes.tolist()
    inside = False
    at = 0
    for place, is_begin, after in zip(places, begins.tolist(), [*places[1:], -1], strict=True):
        if place < at:
            continue
        if inside and after == place + 1:
            at = after + 1  # a doubled quote stands for one
        elif inside or is_begin:
            turning.append(place)
            inside = not inside
    return np.array(turning, dtype=np.int64)
