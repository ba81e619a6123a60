"""The process that parses uploads: reads one question a line, writes one answer a line.

Started by `service.parsing` as ``python -m service.executors.parser_process``; it holds nothing
that a crash could harm, and ends with its parent.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from engine.data import formats
from engine.data.dataset import Limits
from engine.data.delimited import Dialect
from engine.data.profile import profile
from engine.errors import DataError

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


def _end_with(parent: int) -> None:
    """Watch the parent. The kernel would signal the end of the thread that started this."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    _end_with(parser.parse_args().parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Answers go where only answers go, whatever a library prints.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        answers.write(orjson.dumps(answer(orjson.loads(line))) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
