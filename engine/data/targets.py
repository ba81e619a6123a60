"""What a network should say: targets and weights of rows, encoded and in their own units."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine.data import moments, scaling
from engine.data.arrays import ScaledArray, encode_array, fit_array, read_array
from engine.data.dataset import Data
from engine.data.scaling import Scaled
from engine.data.shapes import side_by_side, unscaled
from engine.errors import DataError

__all__ = [
    "encode_targets",
    "fit_target",
    "fit_targets",
    "label_steps",
    "read_targets",
    "read_weights",
    "unscaled_targets",
]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Targets = Sequence[Scaled | ScaledArray]


def fit_target(data: Data, name: str, rows: Rows) -> Scaled | ScaledArray:
    """Learn how a regressor's target is scaled."""
    if data.arrays is not None and data.arrays[name].ndim > 2:
        return fit_array(data, name, rows, "targets")
    return moments.fit(data, name, rows, "targets")


def fit_targets(
    data: Data, names: Sequence[str], rows: Rows, *, as_they_are: bool = False
) -> tuple[Scaled | ScaledArray, ...]:
    """Learn how targets are scaled; shares of distributions stay as they are."""
    fields = tuple(fit_target(data, name, rows) for name in names)
    return unscaled_targets(fields) if as_they_are else fields


def unscaled_targets(fields: Targets) -> tuple[Scaled | ScaledArray, ...]:
    """Return the same columns (arrays), read as they are."""
    shapes = (f.shape if isinstance(f, ScaledArray) else (f.size,) for f in fields)
    return tuple(unscaled(f.name, shape) for f, shape in zip(fields, shapes, strict=True))


def label_steps(data: Data, name: str) -> int | None:
    """Return how many labels a row of an array (rows, steps) has; None for one."""
    if data.arrays is None or data.arrays[name].ndim < 2:
        return None
    steps = data.arrays[name].shape[1]
    return steps if steps > 1 else None


def encode_targets(data: Data, targets: Targets, rows: Rows | None) -> Floats:
    """Return numbers that a network should say, (rows, *shape)."""
    scaling.require(data, [field.name for field in targets], "targets")
    arrays = [field for field in targets if isinstance(field, ScaledArray)]
    if arrays:
        return side_by_side([encode_array(data, f, rows, "targets") for f in arrays])
    plain = [field for field in targets if isinstance(field, Scaled)]
    return scaling.standardise(data, plain, rows, "targets")


def read_targets(data: Data, targets: Targets, rows: Rows | None) -> Doubles:
    """Return the numbers that were observed, in their own units, (rows, *shape)."""
    scaling.require(data, [field.name for field in targets], "targets")
    arrays = [field for field in targets if isinstance(field, ScaledArray)]
    if arrays:
        return side_by_side([read_array(data, f, rows, "targets") for f in arrays])
    plain = [field for field in targets if isinstance(field, Scaled)]
    return scaling.read(data, plain, rows, "targets")


def read_weights(data: Data, name: str, rows: Rows | None, *, some: bool = False) -> Floats:
    """Return the weights of rows (rows,) or of steps (rows, steps).

    Those of all rows are not all 0; those of `some` may be.
    """
    pointer = "#/sample_weight"
    if name not in data.names:
        raise DataError(f"the data set has no {name!r} to weight its rows by", pointer=pointer)
    steps = 1 if data.arrays is None else data.arrays[name][0].size
    values = scaling.read(data, (Scaled(name=name, size=steps),), rows, "sample_weight")
    with np.errstate(over="ignore"):
        weights = (values if steps > 1 else values[:, 0]).astype(np.float32)
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise DataError(f"weights in {name!r} must be finite and 0 or more", pointer=pointer)
    if not some and not weights.any():
        raise DataError(f"all weights in {name!r} of these rows are 0", pointer=pointer)
    return weights
