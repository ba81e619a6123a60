"""Class labels: integers, booleans and texts as they are in the data, numbered in sorted order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Strict

from engine.data.dataset import Data, pieces_of
from engine.errors import DataError

__all__ = ["Label", "distinct_labels", "fit_classes", "number_labels"]

MAX_CLASSES = 10_000
_EXACT = 2.0**53
_HELD = 2**20
"""Rows whose labels are held at a time, while they are learnt or numbered."""

Label = Annotated[bool, Strict()] | Annotated[int, Strict()] | Annotated[str, Strict()]
Rows = npt.NDArray[np.int64]


def fit_classes(data: Data, name: str, rows: Rows) -> tuple[Label, ...]:
    """Return the distinct labels of the given rows, sorted."""
    found: set[Label] = set()
    for _, numbers in pieces_of(len(rows), rows, _HELD):
        found.update(distinct_labels(data, name, numbers)[0])
        data.release()
    distinct = sorted(found)
    if len(distinct) < 2:
        raise DataError(
            f"all training rows have the same class {distinct[0]!r} in {name!r}; "
            "a classifier needs at least two",
            pointer="#/targets",
        )
    if len(distinct) > MAX_CLASSES:
        raise DataError(
            f"{name!r} has {len(distinct)} classes; at most {MAX_CLASSES} are taken "
            "(numbers that are no labels need the form `regressor`)",
            pointer="#/targets",
        )
    return tuple(distinct)


def number_labels(data: Data, name: str, rows: Rows | None, classes: Sequence[Label]) -> Rows:
    """Return for each row the number of its class."""
    if name not in data.names:
        raise DataError(f"the data set has no target {name!r}", pointer="#/targets")
    count = data.rows if rows is None else len(rows)
    parts = [
        _numbered(data, name, numbers, classes) for _, numbers in pieces_of(count, rows, _HELD)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _numbered(data: Data, name: str, rows: Rows | None, classes: Sequence[Label]) -> Rows:
    distinct, codes = distinct_labels(data, name, rows)
    data.release()
    # True equals 1 in Python, but is not the same label.
    known = {(type(label), label): number for number, label in enumerate(classes)}
    numbers = [known.get((type(label), label), -1) for label in distinct]
    if -1 in numbers:
        raise DataError(
            f"{distinct[numbers.index(-1)]!r} in {name!r} is not one of the {len(known)} classes "
            "that the training rows have",
            pointer="#/targets",
        )
    return np.asarray(numbers, dtype=np.int64)[codes].reshape(codes.shape)


def distinct_labels(data: Data, name: str, rows: Rows | None) -> tuple[list[Label], Rows]:
    """Return the distinct labels, sorted, and each one's number, (rows,) or (rows, steps)."""
    column = data.column(name, rows)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim > 2 or data.type_of(name) == "datetime":
        raise DataError(
            f"{name!r} does not hold one class label a row or step", pointer="#/targets"
        )
    if column.dtype == object and any(value is None for value in column.flat):
        raise DataError(f"{name!r} has missing values", pointer="#/targets")
    if column.dtype.kind == "f":
        column = _whole(name, column)
    distinct, codes = np.unique(column, return_inverse=True)
    return distinct.tolist(), codes.reshape(column.shape).astype(np.int64)


def _whole(name: str, column: npt.NDArray[Any]) -> Rows:
    if (np.abs(column) < _EXACT).all():  # false for NaN, too
        whole = column.astype(np.int64)
        if np.array_equal(whole, column):
            return whole
    raise DataError(
        f"{name!r} holds numbers that are not whole (or are missing), so no class labels; "
        "for numbers take the form `regressor`",
        pointer="#/targets",
    )
