"""Columns of text: one input for each category that the training rows have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.dataset import TEXT, Data, pieces_of
from engine.data.options import OptionError
from engine.errors import DataError, SpecError
from engine.spec import ColumnSpec, Spec

__all__ = ["MAX_CATEGORIES", "Categories", "fit_categories", "read_codes", "spelled"]

MAX_CATEGORIES = 1000
"""Of one column; a column with more is a key or prose, of which a network learns nothing."""
_MAX_LENGTH = 256
_HELD = 2**18
"""Texts held at a time, while categories are learnt."""
_SHOWN = 20
_SHOWN_LENGTH = 60
UNSEEN = -1.0

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class Categories(Spec):
    """A column that is read one-hot: 1 for the row's category, 0 for all others."""

    name: str
    type: Literal["text"] = "text"
    of: Literal["text", "integer", "number", "boolean"] = "text"
    """What the column holds; values that are no texts are spelled as JSON does: `3`, `true`."""
    categories: tuple[str, ...]
    """The distinct values of the training rows, sorted; one input for each."""
    fill: str | None = None
    """Read in place of a missing value: the most frequent category of the training rows (of equally
    frequent ones the first). Null where the training rows have no value at all."""
    indicator: bool = False
    """Whether one more input, `NAME is missing`, is 1 where the value was missing, else 0; so where
    the training rows have missing values."""
    unknown: bool = False
    """Whether one more input, `NAME is unknown`, is 1 where the value is none of the categories;
    else such values are refused."""
    refuses_missing: bool = False

    @property
    def size(self) -> int:
        """How many values a row has."""
        return 1

    @property
    def width(self) -> int:
        """How many inputs of the network it comes to."""
        return len(self.categories) + self.unknown + self.indicator

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each input: `city=Paris`, `city is missing`."""
        named = tuple(f"{self.name}={category}" for category in self.categories)
        named = (*named, f"{self.name} is unknown") if self.unknown else named
        return (*named, f"{self.name} is missing") if self.indicator else named

    @property
    def takes_missing(self) -> bool:
        return not self.refuses_missing

    @cached_property
    def codes(self) -> dict[str, float]:
        """The number of each category."""
        return {category: float(code) for code, category in enumerate(self.categories)}

    def code_of(self, value: object) -> float | None:
        """Return the number of a value's category, -1 for an unknown one that is taken.

        None where such values are refused.
        """
        return self.codes.get(spelled(value), UNSEEN if self.unknown else None)

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
        if self.unknown:
            out[:, len(self.categories)] = numbers < 0
        if self.indicator:
            out[:, -1] = missing


def spelled(value: object) -> str:
    """Return a value as a category: numbers and booleans as JSON spells them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def fit_categories(
    data: Data, name: str, rows: Rows, options: ColumnSpec | None = None
) -> Categories:
    """Learn a column's categories on the given rows."""
    options = options or ColumnSpec()
    of = data.type_of(name)
    counts, first_missing = _counted(data, name, rows, of)
    if options.fill is not None:
        counts[spelled(options.fill)] += 1
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
    categories = tuple(sorted(counts, key=_order(of)))
    gaps = first_missing is not None
    refuses = options.missing == "refuse"
    if refuses and first_missing is not None:
        raise OptionError(
            f"row {rows[first_missing]}: {name!r} is missing, and its `missing` is 'refuse'",
            column=name,
            key="missing",
        )
    most = max(categories, key=counts.__getitem__, default=None)
    return Categories(
        name=name,
        of=of,
        categories=categories,
        fill=most if options.fill is None else spelled(options.fill),
        indicator=not refuses and (gaps if options.indicator is None else options.indicator),
        unknown=options.unknown == "column",
        refuses_missing=refuses,
    )


def _counted(data: Data, name: str, rows: Rows, of: str) -> tuple[Counter[str], int | None]:
    """Count a column's values; return which of `rows` is the first without one as well."""
    counts: Counter[str] = Counter()
    first_missing: int | None = None
    for part, numbers in pieces_of(len(rows), rows, _HELD):
        texts = _values(data, name, numbers, of)
        if texts.null_count and first_missing is None:
            first_missing = part.start + pc.index(texts.is_null(), True).as_py()
        for found in texts.drop_null().value_counts().to_pylist():
            counts[found["values"]] += found["counts"]
        data.release()
    return counts, first_missing


def _order(of: str) -> Callable[[str], Any]:
    """Return by what categories are sorted: numbers by their size."""

    def by_size(category: str) -> tuple[bool, float, str]:
        try:
            return False, float(category), category
        except ValueError:
            return True, 0.0, category

    return by_size if of in ("integer", "number") else str


def read_codes(field: Categories, data: Data, rows: Rows | None, *, refuse_unseen: bool) -> Doubles:
    """Return the number of each row's category (rows, 1), NaN where it is missing.

    A category that is not known is refused, or is -1.
    """
    texts = _values(data, field.name, rows, field.of)
    missing = texts.is_null().to_numpy() if texts.null_count else None
    if field.refuses_missing and missing is not None:
        at = int(np.argmax(missing))
        row = at if rows is None else int(rows[at])
        raise DataError(
            f"row {row}: {field.name!r} is missing, and the model takes no missing values for it",
            pointer="#/inputs",
        )
    known = pa.array(field.categories, type=TEXT)
    codes: Doubles = (
        pc.fill_null(pc.index_in(texts, value_set=known), int(UNSEEN)).to_numpy().astype(np.float64)
    )
    if missing is not None:
        codes[missing] = np.nan
    if refuse_unseen and not field.unknown and (codes == UNSEEN).any():
        at = int(np.argmax(codes == UNSEEN))
        row = at if rows is None else int(rows[at])
        raise DataError(f"row {row}: {field.unseen(texts[at].as_py())}", pointer="#/inputs")
    return codes[:, np.newaxis]


def _values(data: Data, name: str, rows: Rows | None, of: str) -> pa.ChunkedArray:
    """Return a column's values as texts, null where missing."""
    if data.table is not None and of == "text" and data.type_of(name) == "text":
        return data.values(name, rows)
    return pa.chunked_array([pa.array(_texts(data, name, rows, of), type=TEXT)])


def _texts(data: Data, name: str, rows: Rows | None, of: str = "text") -> Sequence[str | None]:
    """Return a column's values as texts, None where missing."""
    values = data.column(name, rows)
    kind = data.type_of(name)
    if values.ndim != 1:
        raise DataError(f"{name!r} does not hold one text a row", pointer="#/inputs")
    if of != "text" and kind in ("integer", "number", "boolean"):
        return [
            None if value is None or value != value else spelled(value) for value in values.tolist()
        ]
    if kind != "text" or of != "text":
        # A column of nothing has no type of its own.
        if kind == "number" and data.kind == "table" and np.isnan(values).all():
            return [None] * len(values)
        needed = "texts" if of == "text" else f"values of type {of}"
        raise DataError(f"{name!r} holds {kind}; {needed} are needed", pointer="#/inputs")
    texts: list[str | None] = values.tolist()
    return texts
