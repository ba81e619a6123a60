"""Bytes that are nearly a file: cut, flipped, spliced, and numbers replaced by others."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

__all__ = ["damaged"]

_NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
)
_WORDS = (
    b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"(1, 2)", b"|O8", b"<f8", b"<U1",
    b">i2",
    b"True", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"\r", b"\n", b",,,", b"PK\x05\x06",
    b"PAR1",
    b"\xff\xff\xff\xff", b"ARROW1", b"\x93NUMPY", b"{", b"[", b"\\ud800", b"../",
)  # fmt: skip
_TEXT_NUMBER = re.compile(rb"\d+")


def damaged(chance: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Return the bytes with one to four things wrong; `others` are what is spliced in."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if not found:
            break
        _spoil(chance, found, others)
    return bytes(found)


def _spoil(chance: random.Random, found: bytearray, others: Sequence[bytes]) -> None:
    """Do one thing wrong."""
    at = _place(chance, len(found))
    length = min(chance.choice((1, 2, 4, 8, 64, 1024)), len(found) - at)
    match chance.randrange(10):
        case 0:
            del found[at:]
        case 1:
            found[at] ^= 1 << chance.randrange(8)
        case 2:
            found[at : at + length] = chance.randbytes(length)
        case 3:
            del found[at : at + length]
        case 4:
            found[at:at] = chance.choice(_WORDS) * chance.choice((1, 1, 2, 50))
        case 5:
            found[at:at] = found[at : at + length]
        case 6:
            other = chance.choice(others)
            start = _place(chance, len(other))
            found[at:] = other[start:]
        case 7:
            form = chance.choice(("<H", "<I", "<Q", ">I"))
            limit = 2 ** (8 * struct.calcsize(form))
            number = struct.pack(form, chance.choice(_NUMBERS) % limit)
            found[at : at + len(number)] = number
        case 8:
            _replace_number(chance, found)
        case _:
            found[at : at + length] = bytes(length)


def _place(chance: random.Random, length: int) -> int:
    """Return a position: anywhere, or near an end, where heads and directories are."""
    near = min(length, 200)
    match chance.randrange(3):
        case 0:
            return chance.randrange(near)
        case 1:
            return length - 1 - chance.randrange(near)
    return chance.randrange(length)


def _replace_number(chance: random.Random, found: bytearray) -> None:
    """Put another number where one stands as text."""
    numbers = list(_TEXT_NUMBER.finditer(found[:4096]))
    if numbers:
        number = chance.choice(numbers)
        found[number.start() : number.end()] = str(chance.choice(_NUMBERS)).encode()
