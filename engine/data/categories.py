"""Columns of text: one input for each category that the training rows have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.data.dataset import Data
from engine.errors import DataError, SpecError
from engine.spec import Spec

__all__ = ["MAX_CATEGORIES", "Categories", "fit_categories", "read_codes"]

MAX_CATEGORIES = 1000
"""Of one column; a column with more is a key or prose, of which a network learns nothing."""
_MAX_LENGTH = 256
_SHOWN = 20
_SHOWN_LENGTH = 60
UNSEEN = -1.0

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Categories(Spec):
    """A column of text that is read one-hot: 1 for the row's category, 0 for all others."""

    name: str
    type: Literal["text"] = "text"
    categories: tuple[str, ...]
    """The distinct texts of the training rows, sorted; one input for each."""
    fill: str | None = None
    """Read in place of a missing value: the most frequent category of the training rows (of equally
    frequent ones the first). Null where the training rows have no value at all."""
    indicator: bool = False
    """Whether one more input, `NAME is missing`, is 1 where the value was missing, else 0; so where
    the training rows have missing values."""

    @property
    def size(self) -> int:
        """How many values a row has."""
        return 1

    @property
    def width(self) -> int:
        """How many inputs of the network it comes to."""
        return len(self.categories) + self.indicator

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each input: `city=Paris`, `city is missing`."""
        named = tuple(f"{self.name}={category}" for category in self.categories)
        return (*named, f"{self.name} is missing") if self.indicator else named

    @property
    def takes_missing(self) -> bool:
        return True

    @cached_property
    def codes(self) -> dict[str, float]:
        """The number of each category."""
        return {category: float(code) for code, category in enumerate(self.categories)}

    def unseen(self, value: str) -> str:
        """Say that a value is none of the categories, and which ones are known."""
        shown = value if len(value) <= _SHOWN_LENGTH else f"{value[:_SHOWN_LENGTH]}…"
        known = ", ".join(repr(category[:_SHOWN_LENGTH]) for category in self.categories[:_SHOWN])
        more = len(self.categories) - _SHOWN
        return (
            f"{shown!r} is not a category of {self.name!r} that the training rows have; known are: "
            + (known or "none, as no training row has a value")
            + (f", … ({more} more)" if more > 0 else "")
        )

    def write(self, codes: Doubles, out: npt.NDArray[np.float32]) -> None:
        """Write category numbers (rows, 1), NaN where missing, as inputs (rows, width)."""
        column = codes[:, 0]
        missing = np.isnan(column)
        fill = UNSEEN if self.fill is None else self.codes[self.fill]
        numbers = np.where(missing, fill, column).astype(np.int64)
        known = np.flatnonzero(numbers >= 0)
        out[:] = 0
        out[known, numbers[known]] = 1
        if self.indicator:
            out[:, -1] = missing


def fit_categories(data: Data, name: str, rows: Rows) -> Categories:
    """Learn a column's categories on the given rows."""
    texts = _texts(data, name, rows)
    there = [text for text in texts if text is not None]
    counts: dict[str, int] = {}
    for text in there:
        counts[text] = counts.get(text, 0) + 1
    if len(counts) > MAX_CATEGORIES:
        raise SpecError(
            f"{name!r} has {len(counts)} different texts in the training rows; at most "
            f"{MAX_CATEGORIES} categories a column are taken: choose other columns by `inputs`, or "
            "send it in fewer categories",
            pointer="#/inputs",
        )
    longest = max(map(len, counts), default=0)
    if longest > _MAX_LENGTH:
        raise SpecError(
            f"{name!r} has a text of {longest} characters; a category has at most {_MAX_LENGTH}: "
            "choose other columns by `inputs`, or send it in shorter texts",
            pointer="#/inputs",
        )
    categories = tuple(sorted(counts))
    return Categories(
        name=name,
        categories=categories,
        fill=max(categories, key=counts.__getitem__, default=None),
        indicator=len(there) < len(texts),
    )


def read_codes(field: Categories, data: Data, rows: Rows | None, *, refuse_unseen: bool) -> Doubles:
    """Return the number of each row's category (rows, 1), NaN where it is missing.

    A category that is not known is refused, or is -1.
    """
    texts = _texts(data, field.name, rows)
    known: dict[Any, float] = {**field.codes, None: np.nan}
    codes = np.array([known.get(text, UNSEEN) for text in texts], dtype=np.float64)
    if refuse_unseen and (codes == UNSEEN).any():
        at = int(np.argmax(codes == UNSEEN))
        row = at if rows is None else int(rows[at])
        raise DataError(f"row {row}: {field.unseen(str(texts[at]))}", pointer="#/inputs")
    return codes[:, np.newaxis]


def _texts(data: Data, name: str, rows: Rows | None) -> Sequence[str | None]:
    values = data.column(name, rows)
    kind = data.type_of(name)
    if values.ndim != 1:
        raise DataError(f"{name!r} does not hold one text a row", pointer="#/inputs")
    if kind != "text":
        # A column of nothing has no type of its own.
        if kind == "number" and data.kind == "table" and np.isnan(values).all():
            return [None] * len(values)
        raise DataError(f"{name!r} holds {kind}; texts are needed", pointer="#/inputs")
    texts: list[str | None] = values.tolist()
    return texts
