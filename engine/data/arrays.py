"""Arrays of sequences (rows, steps, features) and images (rows, channels, height, width)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data.dataset import Data
from engine.errors import DataError
from engine.spec import Spec

__all__ = ["ScaledArray", "encode_array", "fit_array", "read_array"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_BLOCK = 2**22
"""Numbers held at a time in double precision, while an array is read."""


class ScaledArray(Spec):
    """An array of sequences or images that is read as (value - mean) / scale.

    Means and scales are those of each feature over rows and steps, or of each channel over rows
    and pixels.
    """

    name: str
    type: Literal["array"] = "array"
    shape: Annotated[tuple[int, ...], Field(min_length=2, max_length=3)]
    """Of one row: (steps, features) or (channels, height, width)."""
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    """Standard deviation (divisor n); 1 where all values are the same."""
    low: tuple[float, ...] | None = None
    """The smallest values of the training rows; null where nobody looked."""
    high: tuple[float, ...] | None = None
    """The largest values of the training rows."""

    @property
    def axis(self) -> int:
        """The axis of a row along which features (channels) stand."""
        return 0 if len(self.shape) == 3 else 1

    @property
    def size(self) -> int:
        """How many features or channels it has."""
        return self.shape[self.axis]

    @property
    def width(self) -> int:
        """How many features or channels of the network's input it comes to."""
        return self.size

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each feature or channel: ``x[0]``, ``x[1]``, …, or `x` for the only one."""
        if self.size == 1:
            return (self.name,)
        return tuple(f"{self.name}[{index}]" for index in range(self.size))

    def along(self, values: npt.ArrayLike) -> Doubles:
        """Return a number for each feature (channel) so that it broadcasts against a row."""
        column = np.asarray(values, dtype=np.float64)
        return column.reshape(-1, 1, 1) if self.axis == 0 else column

    def encode(self, values: Doubles) -> Floats:
        """Return (rows, *shape) as the network reads it; infinite where 32 bits do not reach."""
        with np.errstate(over="ignore"):
            scaled = (values - self.along(self.mean)) / self.along(self.scale)
            return scaled.astype(np.float32)

    def of_steps(self, steps: int) -> ScaledArray:
        """Return the field of sequences of another number of steps, scaled alike."""
        return self.model_copy(update={"shape": (steps, *self.shape[1:])})


def fit_array(
    data: Data, name: str, rows: Rows, role: str, *, shape: tuple[int, ...] | None = None
) -> ScaledArray:
    """Learn means and standard deviations on the given rows.

    `shape` (steps, 1) takes an array (rows, steps) for a sequence of single numbers.
    """
    shape = shape or data.column(name).shape[1:]
    axis = 0 if len(shape) == 3 else 1
    others = tuple(i for i in range(len(shape) + 1) if i != axis + 1)
    count = len(rows) * int(np.prod(shape)) // shape[axis]
    blank = ScaledArray(
        name=name, shape=shape, mean=(0.0,) * shape[axis], scale=(1.0,) * shape[axis]
    )
    low, high, total = np.inf, -np.inf, np.zeros(shape[axis])
    for block in _blocks(data, blank, rows, role):
        low = np.minimum(low, block.min(axis=others))
        high = np.maximum(high, block.max(axis=others))
        total = total + block.sum(axis=others)
    if not np.isfinite(total).all():
        raise DataError(f"{name!r} has values too large to be added up", pointer=f"#/{role}")
    mean = np.clip(total / count, low, high)
    squares = np.zeros(shape[axis])
    for block in _blocks(data, blank, rows, role):
        squares += np.square(block - blank.along(mean)).sum(axis=others)
    deviation = np.sqrt(squares / count)
    if not np.isfinite(deviation).all():
        raise DataError(f"{name!r} has values too far apart to be scaled", pointer=f"#/{role}")
    # Compared, since a rounded mean of equal values would leave a tiny deviation.
    constant = (low == high) | (deviation < np.finfo(np.float64).tiny * 2)
    return ScaledArray(
        name=name,
        shape=shape,
        mean=tuple(np.where(constant, low, mean).tolist()),
        scale=tuple(np.where(constant, 1.0, deviation).tolist()),
        low=tuple(np.broadcast_to(low, mean.shape).tolist()),
        high=tuple(np.broadcast_to(high, mean.shape).tolist()),
    )


def encode_array(data: Data, field: ScaledArray, rows: Rows | None, role: str) -> Floats:
    """Return rows of a data set as (rows, *shape), as the network reads them."""
    count = data.rows if rows is None else len(rows)
    encoded = np.empty((count, *field.shape), dtype=np.float32)
    start = 0
    for block in _blocks(data, field, rows, role):
        part = encoded[start : start + len(block)]
        part[:] = field.encode(block)
        if not np.isfinite(part).all():
            raise DataError(
                f"{field.name!r} has values too far from those of the training rows to be "
                "represented in 32 bits",
                pointer=f"#/{role}",
            )
        start += len(block)
    return encoded


def read_array(data: Data, field: ScaledArray, rows: Rows | None, role: str) -> Doubles:
    """Return rows of a data set as (rows, *shape), in their own units."""
    return np.concatenate(list(_blocks(data, field, rows, role)))


def _blocks(data: Data, field: ScaledArray, rows: Rows | None, role: str) -> Iterator[Doubles]:
    """Yield the array as float64 blocks (rows, *shape); missing values are refused."""
    pointer = f"#/{role}"
    source: npt.NDArray[Any] = data.column(field.name)
    known = [field.shape]
    if len(field.shape) <= 2 and field.shape[-1] == 1:
        known.append(field.shape[:-1])  # one number a row, or a step, needs no axis of its own
    fits = source.shape[1:] in known
    if not fits or source.dtype.kind not in "biuf":
        raise DataError(
            f"{field.name!r} has rows of shape {list(source.shape[1:])}; numbers of shape "
            f"{list(field.shape)} are needed",
            pointer=pointer,
        )
    count = len(source) if rows is None else len(rows)
    step = max(1, _BLOCK // int(np.prod(field.shape)))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        block = np.asarray(source[part] if rows is None else source[rows[part]], dtype=np.float64)
        if not np.isfinite(block).all():
            raise DataError(
                f"{field.name!r} has missing or infinite values; fill them before you send the "
                "data",
                pointer=pointer,
            )
        yield block.reshape(len(block), *field.shape)
        data.release()
