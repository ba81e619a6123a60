"""The `inputs` of a request to a model of sequences or images: nested lists to arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.arrays import ScaledArray
from engine.errors import DataError

__all__ = ["read_array_records"]

Doubles = npt.NDArray[np.float64]


def read_array_records(
    inputs: Any, fields: Sequence[ScaledArray], *, spare: Collection[str]
) -> dict[str, Doubles]:
    """Return each array as (rows, *shape), in its own units.

    Takes a list of rows, where the model reads one array; a list of objects, or an object of
    arrays. Keys in `spare` may be there and are passed over; others are refused.
    """
    if isinstance(inputs, dict):
        return _checked({name: inputs.get(name) for name in _names(inputs, fields, spare)}, fields)
    if not isinstance(inputs, list | tuple) or not inputs:
        raise DataError(
            "inputs are a non-empty list of rows or an object of arrays", pointer="#/inputs"
        )
    if all(isinstance(row, dict) for row in inputs):
        for row in inputs:
            _names(row, fields, spare)
        return _checked({f.name: [row.get(f.name) for row in inputs] for f in fields}, fields)
    if len(fields) > 1:
        raise DataError(
            f"a row is an object of {', '.join(repr(field.name) for field in fields)}",
            pointer="#/inputs",
        )
    return _checked({fields[0].name: inputs}, fields, where="#/inputs")


def _names(row: dict[str, Any], fields: Sequence[ScaledArray], spare: Collection[str]) -> list[str]:
    known = [field.name for field in fields]
    unknown = [key for key in row if key not in known and key not in spare]
    if unknown:
        raise DataError(
            f"the model does not know {str(unknown[0])[:256]!r}; it reads {', '.join(known)}",
            pointer="#/inputs",
        )
    return known


def _checked(
    given: dict[str, Any], fields: Sequence[ScaledArray], *, where: str | None = None
) -> dict[str, Doubles]:
    arrays: dict[str, Doubles] = {}
    for field in fields:
        pointer = where or f"#/inputs/{field.name}"
        try:
            array = np.asarray(given[field.name], dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            array = np.empty(0)
        if array.shape[1:] != field.shape or not np.isfinite(array).all():
            raise DataError(
                f"expected finite numbers of shape {list(field.shape)} for each row of "
                f"{field.name!r}",
                pointer=pointer,
            )
        arrays[field.name] = array
    if len({len(array) for array in arrays.values()}) > 1:
        raise DataError("all arrays have the same number of rows", pointer="#/inputs")
    return arrays
