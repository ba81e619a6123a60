"""Uploads: what their content type says, and their bytes on the way to a file."""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from service.errors import Invalid, UnsupportedMedia
from service.store.room import Room

__all__ = ["ContentType", "Upload"]

_PIECE = 2**20
"""Bytes of an upload that are written at a time."""
_TEXT = ("text/csv", "text/plain", "application/json", "application/x-ndjson")
# Read as something else by encodings in which ASCII bytes do not always stand for themselves.
_ASCII = (
    b"\\n \\u0041 +AGE- ~{VPND~}",
    b"xn--bcher-kva",
    b"\x1b$B0!\x1b(B",
    bytes(range(128)),
)


@dataclass(frozen=True)
class ContentType:
    """A media type, and the encoding of its text where that is not UTF-8."""

    media_type: str
    charset: str | None = None
    """Python's name of the encoding; None for UTF-8 and for what is no text."""

    @classmethod
    def parse(cls, header: str) -> ContentType:
        """Read a `Content-Type`; UnsupportedMedia for parameters that cannot be honoured.

        Text may be in any encoding that Python knows and that leaves ASCII as it is; JSON is
        UTF-8 (RFC 8259). A CSV file has a header (RFC 4180 leaves the choice).
        """
        name, found = parse_options_header(header)
        media_type = name.decode("latin-1").strip().lower()
        parameters = {
            key.decode("latin-1"): value.decode("latin-1")
            for key, value in found.items()
            if key  # none after a last semicolon
        }
        if media_type not in _TEXT:
            return cls(media_type)
        charset = _encoding(parameters.pop("charset", "utf-8"))
        if media_type == "text/plain":
            return cls(media_type, charset)
        if media_type != "text/csv":
            if charset is not None:
                raise UnsupportedMedia(f"{media_type} is read as UTF-8, not as {charset}")
            return cls(media_type)
        wanted = parameters.pop("header", "present")
        if wanted.lower() != "present":
            raise UnsupportedMedia(
                f"the content type says header={wanted[:40]!r}; a CSV file is read with its first "
                "row as column names: add that row, and leave `header` out or say `header=present`"
            )
        if parameters:
            raise UnsupportedMedia(
                "text/csv takes the parameters `charset` and `header`, "
                f"not {min(parameters)[:40]!r}"
            )
        return cls(media_type, charset)

    def __str__(self) -> str:
        return self.media_type + ("" if self.charset is None else f"; charset={self.charset}")


def _encoding(charset: str) -> str | None:
    """Return Python's name of an encoding, None for UTF-8."""
    name = ""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,39}", charset):
        try:
            name = codecs.lookup(charset).name
            if all(sample.decode(name) == sample.decode("ascii") for sample in _ASCII):
                return None if name == "utf-8" else name
        except (LookupError, UnicodeError):  # also for what is no encoding of text
            pass
    raise UnsupportedMedia(
        f"the content type says charset={charset[:40]!r}, which is "
        + ("not known" if not name else "not read, since it does not leave ASCII as it is")
        + "; send UTF-8, or an encoding such as iso-8859-1 or windows-1252"
    )


class Upload:
    """A file that is being received: hashed and counted as it comes, written as UTF-8.

    To be used as a context; Invalid where the bytes are not text of the encoding they claim.
    """

    def __init__(self, path: Path, charset: str | None = None) -> None:
        self.bytes = 0
        """How many have come."""
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._charset = charset
        self._decoder = None if charset is None else codecs.getincrementaldecoder(charset)()
        self._lines = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if kind is None:
                self._write(b"", final=True)

    @property
    def sha256(self) -> str:
        """Hash of what has come, as it came."""
        return self._digest.hexdigest()

    async def receive(self, chunks: AsyncIterator[bytes], room: Room) -> None:
        """Write all of a body, each piece in a thread while the next one comes.

        Raises StorageFull where `room` has none left.
        """
        writing: asyncio.Future[None] | None = None
        try:
            async for piece in _gathered(chunks):
                room.require(len(piece))
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(self.write, piece))
        finally:
            if writing is not None:  # the file is closed then
                await writing

    def write(self, piece: bytes) -> None:
        """Add what has come next."""
        self.bytes += len(piece)
        self._digest.update(piece)
        self._write(piece, final=False)

    def _write(self, piece: bytes, *, final: bool) -> None:
        if self._decoder is None:
            self._file.write(piece)
            return
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            line = self._lines + error.object[: error.start].count(b"\n")
            raise Invalid(f"the file is not {self._charset} text at line {line}") from error
        self._lines += text.count("\n")
        self._file.write(text.encode())


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body in larger pieces: a thread is asked to write each of them."""
    waiting: list[bytes] = []
    size = 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
