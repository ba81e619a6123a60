"""Columns of a request's `inputs`: lists, as JSON has them, or NumPy arrays, as Arrow has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

__all__ = ["holds_arrays", "is_column", "listed", "side_by_side"]


def is_column(value: Any) -> TypeGuard[list[Any] | tuple[Any, ...] | npt.NDArray[Any]]:
    """Say whether a value can be a column: one value for each row."""
    return isinstance(value, list | tuple | np.ndarray)


def holds_arrays(inputs: Any) -> bool:
    """Say whether `inputs` are an object of columns some of which are arrays."""
    return isinstance(inputs, dict) and any(isinstance(v, np.ndarray) for v in inputs.values())


def listed(values: Any) -> Any:
    """Return a column as JSON would have it: missing numbers and times are None, times are texts.

    What is no array is returned as it is.
    """
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "M":
        missing = np.isnat(values)
        written = np.datetime_as_string(values, unit="us").astype(object)
        return np.where(missing, None, written).tolist()  # type: ignore[call-overload]
    if values.dtype.kind == "f" and np.isnan(values).any():
        return np.where(np.isnan(values), None, values.astype(object)).tolist()  # type: ignore[call-overload]
    return values.tolist()


def side_by_side(
    columns: Mapping[str, Any], name: str, elements: tuple[str, ...]
) -> Mapping[str, Any]:
    """Return the columns of a table as the array `name`, whose rows are lists of numbers.

    So where there is one column for each of its `elements`: under their names, in any order, or
    under other names, in order. Else the columns are returned as they are.
    """
    given = list(columns)
    if name in columns or len(given) != len(elements):
        return columns
    flat = [v for v in columns.values() if isinstance(v, np.ndarray) and v.ndim == 1]
    if len(flat) < len(given) or any(v.dtype.kind not in "iuf" for v in flat):
        return columns
    order = elements if set(given) == set(elements) else tuple(given)
    return {name: np.stack([columns[each] for each in order], axis=1)}
