"""The process that parses uploads: reads one question a line, writes one answer a line.

Started by `service.parsing` as ``python -m service.executors.parser_process``. It loads the
libraries and parses nothing itself: each file has a copy of it to itself, made in milliseconds, so
that what a file does to them does not meet the next one, and what it took of memory is given back.
A copy holds nothing that a crash could harm.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import select
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from engine.data import formats
from engine.data.dataset import Limits
from engine.data.delimited import Dialect
from engine.data.profile import profile
from engine.errors import DataError
from service.executors.parent import die_with

LIMITS = Limits(max_unpacked_bytes=2**31)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Parse, store and profile one file; tell its schema and hash, or what is wrong with it."""
    content = Path(question["content"])
    try:
        dialect = question.get("dialect")
        kind = formats.convert(
            Path(question["upload"]),
            question["media_type"],
            content,
            limits=LIMITS,
            dialect=None if dialect is None else Dialect(**dialect),
        )
        with ThreadPoolExecutor(1) as thread:
            hashing = thread.submit(_sha256, content)
            schema = profile(formats.load(content, kind))
            sha256 = hashing.result()
    except DataError as error:
        return {"kind": "data", "detail": error.detail, "pointer": error.pointer}
    except MemoryError:
        detail = "the file needs more memory to unpack than there is"
        return {"kind": "data", "detail": detail, "pointer": "#"}
    except OSError as error:
        if error.errno in _FULL:
            return {"kind": "storage"}
        raise
    return {"schema": schema.model_dump(mode="json"), "sha256": sha256}


def _sha256(content: Path) -> str:
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse_apart(line: bytes, answers: int) -> int:
    """Have a copy of this process, which has parsed nothing yet, write its answer; return its end.

    The copy ends with this process, and this one with its parent, whose end of the pipe closes.
    """
    me = os.getpid()
    copy = os.fork()
    if copy == 0:
        die_with(me)
        os.write(answers, orjson.dumps(answer(orjson.loads(line))) + b"\n")
        os._exit(0)
    ending = os.pidfd_open(copy)
    waiting = select.poll()
    waiting.register(ending, select.POLLIN)
    waiting.register(sys.stdin.fileno(), 0)  # tells of nothing but the end of the pipe
    if all(file != ending for file, _ in waiting.poll()):
        os._exit(1)
    os.close(ending)
    return os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])


def main() -> None:
    """Answer until the pipe ends; end as a copy does that does not answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Answers go where only answers go, whatever a library prints.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        code = _parse_apart(line, answers)
        if code < 0:
            os.kill(os.getpid(), -code)
        elif code > 0:
            sys.exit(code)


if __name__ == "__main__":
    main()
