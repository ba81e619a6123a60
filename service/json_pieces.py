"""Long answers as JSON, written piece by piece.

Whoever writes JSON holds the interpreter until all of it is written: a million numbers would keep
every other request waiting, whatever thread they are written in. Between two pieces others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

__all__ = ["PIECE", "json_pieces"]

PIECE = 2**13
"""Numbers of a piece, which take about a millisecond."""


def json_pieces(value: Any) -> Iterator[bytes]:
    """Yield the bytes that orjson would write at once.

    Arrays are C-contiguous, and written straight from memory; keys are texts. NaN and infinities
    are null.
    """
    if isinstance(value, Mapping):
        yield b"{"
        for index, (key, member) in enumerate(value.items()):
            yield (b"," if index else b"") + orjson.dumps(key) + b":"
            yield from json_pieces(member)
        yield b"}"
    elif isinstance(value, np.ndarray) and value.size > PIECE:
        yield from _elements(value, max(1, PIECE * len(value) // value.size))
    elif isinstance(value, list) and len(value) > PIECE:
        yield from _elements(value, PIECE)
    else:
        yield orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _elements(values: Any, count: int) -> Iterator[bytes]:
    """Yield a long list, `count` of its elements at a time."""
    yield b"["
    for start in range(0, len(values), count):
        part = values[start : start + count]
        if start:
            yield b","
        if count == 1:  # one may be long itself
            yield from json_pieces(part[0])
        else:
            yield orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"
