"""Logs: one JSON object a line on standard error."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import structlog

__all__ = ["configure_logs"]

_ROOTS = sorted({str(Path(place).resolve()) for place in sys.path if place}, key=len, reverse=True)


def configure_logs(level: str, *, process: str) -> None:
    """Send structlog's and the standard library's log lines to standard error as JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.ExceptionRenderer(_errors),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # The first would be a line a request; the second tells of itself at each migration.
    for name in ("uvicorn.access", "alembic.runtime.plugins"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _errors(exc_info: structlog.typing.ExcInfo) -> list[dict[str, Any]]:
    """Say of an error, and of those that led to it, what kind it is and where it was raised.

    Not what it says, nor what variables held: a caller's rows, or a key, may be in either.
    """
    found: list[dict[str, Any]] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(found) < 10:
        told: dict[str, Any] = {"type": f"{type(error).__module__}.{type(error).__qualname__}"}
        code = getattr(error, "sqlite_errorname", None)
        if isinstance(error, OSError) and error.errno is not None:
            code = errno.errorcode.get(error.errno, str(error.errno))
        if code is not None:
            told["code"] = code
        told["frames"] = [
            f"{_place(frame.filename)}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        found.append(told)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


def _place(filename: str) -> str:
    """Return a source file's path from where it is imported, not where that is on this machine."""
    for root in _ROOTS:
        if filename.startswith(f"{root}/"):
            return filename[len(root) + 1 :]
    return Path(filename).name
