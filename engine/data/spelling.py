"""What texts spell: numbers, and times as ISO 8601 has them or as the caller writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import DataError

__all__ = ["Reader", "expected_time", "number_in", "read_texts", "seconds_in", "writes_dates"]

_LONGEST_TIME = 80  # characters
_SHOWN = 60
_EPOCH = datetime(1970, 1, 1)

Reader = Callable[[str], float]
"""What a text stands for; raises DataError, without a pointer, where that is nothing."""


def number_in(text: str) -> float:
    """Return the number that a text spells; the error has no pointer."""
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"expected a number, or a text that spells one, got {text[:_SHOWN]!r}")
    return number


def seconds_in(text: str, written: str | None = None) -> float:
    """Return the seconds since 1970-01-01T00:00:00Z of the time that a text spells.

    `written` is a format of `strptime`, ISO 8601 without one; a time without a zone is in UTC. The
    error has no pointer.
    """
    try:
        text = text.strip()
        if len(text) > _LONGEST_TIME:
            raise ValueError
        time = datetime.strptime(text, written) if written else datetime.fromisoformat(text)
        if time.tzinfo is not None:
            time = time.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise DataError(f"expected {expected_time(written)}, got {text[:_SHOWN]!r}") from None
    # As many microseconds as a stored column of times counts, so that both give the same float.
    return ((time - _EPOCH) // timedelta(microseconds=1)) / 1e6


def expected_time(written: str | None) -> str:
    """Say what a time has to look like."""
    if written is not None:
        return f"a date or time written as {written!r}"
    return "a date or time as ISO 8601 has it (2021-05-17, 2021-05-17T08:30:00Z)"


def writes_dates(written: str) -> bool:
    """Say whether `strptime` knows a format, and whether it tells year, month and day."""
    moment = datetime(2001, 12, 23, 4, 5, 6, tzinfo=UTC)
    try:
        read = datetime.strptime(moment.strftime(written), written)
    except (ValueError, re.error):  # a directive that is not known, or comes twice
        return False
    return read.date() == moment.date()


def read_texts(
    texts: npt.NDArray[Any],
    read: Reader,
    name: str,
    rows: npt.NDArray[np.int64] | None,
    pointer: str,
) -> npt.NDArray[np.float64]:
    """Return what the texts of a column stand for, NaN where there is none."""
    known: dict[str, float] = {}  # of dates, most occur often
    numbers = np.full(len(texts), np.nan)
    for index, text in enumerate(texts.tolist()):
        if text is None or not text.strip():
            continue
        value = known.get(text)
        if value is None:
            try:
                value = known[text] = read(text)
            except DataError as error:
                row = index if rows is None else int(rows[index])
                raise DataError(f"row {row} of {name!r}: {error.detail}", pointer=pointer) from None
        numbers[index] = value
    return numbers
