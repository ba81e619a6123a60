"""How columns and arrays stand side by side in a row of what a network reads or gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.arrays import ScaledArray
from engine.data.categories import Categories
from engine.data.category_arrays import CategoryArray
from engine.data.scaling import Scaled
from engine.errors import DataError

__all__ = ["ArrayField", "Field", "Shape", "check_alike", "shape_of", "side_by_side", "unscaled"]

ArrayField = ScaledArray | CategoryArray
Field = Scaled | Categories | ArrayField
Shape = tuple[int, ...]


def unscaled(name: str, shape: Shape) -> Scaled | ScaledArray:
    """Return a field of that shape that is read as it is."""
    if len(shape) == 1:
        return Scaled(name=name, size=shape[0])
    size = shape[0] if len(shape) == 3 else shape[-1]
    return ScaledArray(name=name, shape=shape, mean=(0.0,) * size, scale=(1.0,) * size)


def check_alike(fields: Sequence[Field], pointer: str) -> None:
    """Refuse fields that cannot stand side by side: numbers, sequences and images do not mix."""
    kinds = {
        (len(f.shape), f.shape[1:] if f.axis == 0 else f.shape[:1])
        if isinstance(f, ArrayField)
        else (1, ())
        for f in fields
    }
    if len(kinds) > 1:
        shapes = ", ".join(f"{f.name!r} {list(shape_of([f]))}" for f in fields[:20])
        raise DataError(
            f"these have rows of different shapes, which do not stand side by side: {shapes}; "
            "give each its own input layer by `columns`, or choose some",
            pointer=pointer,
        )


def shape_of(fields: Sequence[Field]) -> Shape:
    """Return the shape of a row of fields side by side."""
    arrays = [field for field in fields if isinstance(field, ArrayField)]
    if not arrays:
        return (sum(f.width for f in fields if not isinstance(f, ArrayField)),)
    shape = list(arrays[0].shape)
    shape[arrays[0].axis] = sum(field.size for field in arrays)
    return tuple(shape)


def side_by_side(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Join arrays (rows, …) along the axis of their features or channels."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts, axis=1 if parts[0].ndim == 4 else -1)
