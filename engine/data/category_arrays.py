"""Arrays of texts or integers (rows, steps): one input for each category at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data.categories import MAX_CATEGORIES
from engine.data.dataset import Data, pieces_of
from engine.data.records import kind_of
from engine.data.scaling import BLOCK
from engine.errors import DataError, SpecError
from engine.spec import Spec

__all__ = ["CategoryArray", "encode_categories", "fit_category_array"]

_SHOWN = 20
_SHOWN_LENGTH = 60

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class CategoryArray(Spec):
    """An array that is read one-hot, step by step: 1 for the step's category, 0 for all others."""

    name: str
    type: Literal["categories"] = "categories"
    of: Literal["text", "integer"] = "text"
    """What the array holds; integers are spelled as JSON does."""
    steps: Annotated[int, Field(ge=1)]
    """How many values a row has."""
    categories: tuple[str, ...]
    """The distinct values of the training rows, sorted; one input for each."""

    @property
    def axis(self) -> int:
        """The axis of a row along which the categories stand."""
        return 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row as the network reads it: (steps, categories)."""
        return (self.steps, len(self.categories))

    @property
    def size(self) -> int:
        """How many inputs of the network a step comes to."""
        return len(self.categories)

    @property
    def width(self) -> int:
        return len(self.categories)

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each input: `x=a`, `x=b`."""
        return tuple(f"{self.name}={category}" for category in self.categories)

    @cached_property
    def codes(self) -> dict[str, int]:
        """The number of each category."""
        return {category: code for code, category in enumerate(self.categories)}

    @cached_property
    def are_characters(self) -> bool:
        """Whether every category is one character, so that a text may stand for a row."""
        return self.of == "text" and all(len(category) == 1 for category in self.categories)

    def of_steps(self, steps: int) -> CategoryArray:
        """Return the field of rows of another number of steps."""
        return CategoryArray(name=self.name, of=self.of, steps=steps, categories=self.categories)

    def one_hot(self, codes: npt.NDArray[np.int64]) -> Floats:
        """Return category numbers (rows, steps), -1 for none, as (rows, steps, categories)."""
        encoded = np.zeros((*codes.shape, self.size), dtype=np.float32)
        known = codes >= 0
        encoded[(*np.nonzero(known), codes[known])] = 1
        return encoded

    def read(self, rows: Sequence[Any], where: Callable[[int], str]) -> Floats:
        """Return lists of values as (rows, steps, categories); a text of characters is a list."""
        codes = np.empty((len(rows), self.steps), dtype=np.int64)
        for index, row in enumerate(rows):
            is_list = isinstance(row, list | tuple) or (
                isinstance(row, str) and self.are_characters
            )
            if not is_list or len(row) != self.steps:
                got = f"{len(row)} of them" if is_list else kind_of(row)
                kind = " (or a text of as many characters)" if self.are_characters else ""
                raise DataError(
                    f"expected a list of {self.steps} categories of {self.name!r}{kind}, got {got}",
                    pointer=where(index),
                )
            found = [self._code(value) for value in row]
            if -1 in found:
                at = found.index(-1)
                pointer = where(index) if isinstance(row, str) else f"{where(index)}/{at}"
                raise DataError(self.unseen(row[at]), pointer=pointer)
            codes[index] = found
        return self.one_hot(codes)

    def _code(self, value: Any) -> int:
        is_one = type(value) is (str if self.of == "text" else int)
        return self.codes.get(str(value), -1) if is_one else -1

    def unseen(self, value: Any) -> str:
        """Say that a value is none of the categories, and which ones are known."""
        if self.of == "integer" and type(value) is int:
            value = str(value) if abs(value) < 2**63 else "a very large number"
        elif not isinstance(value, str) or self.of == "integer":
            what = "a text" if self.of == "text" else "an integer"
            return f"expected a category of {self.name!r} ({what}), got {kind_of(value)}"
        known = ", ".join(repr(category[:_SHOWN_LENGTH]) for category in self.categories[:_SHOWN])
        more = len(self.categories) - _SHOWN
        return (
            f"{value[:_SHOWN_LENGTH]!r} is not a category of {self.name!r} that the training rows "
            f"have; known are: {known}" + (f", … ({more} more)" if more > 0 else "")
        )


def fit_category_array(data: Data, name: str, rows: Rows) -> CategoryArray:
    """Learn an array's categories on the given rows."""
    values = data.column(name)
    distinct = values[:0]
    step = max(1, BLOCK // values.shape[1])
    for _, numbers in pieces_of(len(rows), rows, step):
        distinct = np.union1d(distinct, data.column(name, numbers))
        data.release()
    categories = list(map(str, distinct.tolist()))
    if len(categories) > MAX_CATEGORIES:
        raise SpecError(
            f"{name!r} has {len(categories)} different values in the training rows; at most "
            f"{MAX_CATEGORIES} categories are taken: send fewer, or numbers",
            pointer="#/inputs",
        )
    return CategoryArray(
        name=name,
        of="text" if values.dtype.kind == "U" else "integer",
        steps=values.shape[1],
        categories=tuple(categories),
    )


def encode_categories(
    data: Data, field: CategoryArray, rows: Rows | None, *, refuse_unseen: bool
) -> Floats:
    """Return rows of a data set as (rows, steps, categories); unseen ones are refused, or all 0."""
    texts = data.column(field.name, rows)
    if data.type_of(field.name) != field.of or texts.shape[1:] != (field.steps,):
        raise DataError(
            f"{field.name!r} holds {data.type_of(field.name)} in rows of shape "
            f"{list(texts.shape[1:])}; {field.steps} values of type {field.of} are needed",
            pointer="#/inputs",
        )
    distinct, inverse = np.unique(texts, return_inverse=True)
    known = np.array([field.codes.get(str(text), -1) for text in distinct.tolist()], dtype=np.int64)
    if refuse_unseen and (known < 0).any():
        raise DataError(field.unseen(distinct[int(np.argmin(known))].item()), pointer="#/inputs")
    return field.one_hot(known[inverse.reshape(texts.shape)])
