"""Long JSON, written and read piece by piece.

Whoever writes or reads JSON holds the interpreter until all of it is done: a million numbers would
keep every other request waiting, whatever thread they are in. Between two pieces others go on.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson

__all__ = ["PIECE", "json_pieces", "read_pieces"]

PIECE = 2**13
"""Numbers of a piece, which take about a millisecond."""
_PIECE_BYTES = 2**17
_MOST_BESIDES = 2**16
"""Bytes of a body beside its list; they are read several times."""
_ENDS_TRIED = 64
_ELEMENT = re.compile(rb"\s*(\[+|\{)")


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
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for index, member in enumerate(value):
            yield b"," if index else b"["
            yield from json_pieces(member)
        yield b"]"
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


def read_pieces(content: bytes, key: str, parse: Callable[[bytes], Any]) -> dict[str, Any] | None:
    """Return what `parse` would of an object whose member `key` is a long list of lists or objects.

    None where the body is not seen to be such a one; `parse`, which raises json.JSONDecodeError,
    then has to read it whole. No list is taken that the whole would not have: where `[a]` and `[b]`
    are JSON, and neither is empty, `[a,b]` is the two lists one after the other.
    """
    found = re.search(rb'"' + re.escape(key.encode()) + rb'"\s*:\s*\[', content[:_MOST_BESIDES])
    element = _ELEMENT.match(content, found.end()) if found else None
    if found is None or element is None:
        return None
    first = element.group(1)
    mark = (b"}" if first == b"{" else b"]" * len(first)) + b","
    end = len(content)
    for _ in range(_ENDS_TRIED):
        end = content.rfind(b"]", found.end(), end)
        if end < 0 or found.end() + len(content) - end > _MOST_BESIDES:
            return None
        last = content.rfind(mark, found.end(), end)
        if last < 0:
            return None
        try:
            parse(b"[" + content[last + len(mark) : end] + b"]")
            besides = _besides(content, found.end() - 1, end, key, parse)
        except json.JSONDecodeError:
            continue
        if besides is None:
            return None
        try:
            pieces = list(_rows(content, found.end(), end, mark, parse))
        except json.JSONDecodeError:
            return None
        return besides | {key: [row for piece in pieces for row in piece]}
    return None


def _besides(
    content: bytes, start: int, end: int, key: str, parse: Callable[[bytes], Any]
) -> dict[str, Any] | None:
    """Return the object with something else for the list from `start` to `end`, None for none."""
    nonce = secrets.token_hex(16)
    whole = parse(content[:start] + b'"' + nonce.encode() + b'"' + content[end + 1 :])
    return whole if isinstance(whole, dict) and whole.get(key) == nonce else None


def _rows(
    content: bytes, start: int, end: int, mark: bytes, parse: Callable[[bytes], Any]
) -> Iterator[list[Any]]:
    """Yield the elements of a list, many at a time; `mark` is the end of one and its comma."""
    while start <= end:
        cut = content.find(mark, start + _PIECE_BYTES, end)
        stop = end if cut < 0 else cut + len(mark) - 1
        # Two brackets, as the list stands in an object: `parse` counts how deep values are.
        pieces = parse(b"[[" + content[start:stop] + b"]]")
        if len(pieces) > 1 or not pieces[0]:
            raise json.JSONDecodeError("no elements of one list", "", start)
        yield pieces[0]
        start = stop + 1
