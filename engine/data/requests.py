"""The `inputs` of a request, as JSON has them, to what a network reads of each column or array."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data import features, given_columns, scaling
from engine.data.array_records import encode_array_records
from engine.data.records import FieldShape, pointer_token, read_records
from engine.data.scaling import Scaled
from engine.data.shapes import ArrayField, Field
from engine.errors import DataError

__all__ = ["RequestReader"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_NUMBERS = frozenset({int, float})
_LARGE = 1e38  # below the largest float of 32 bits
_FEW = 128


class RequestReader:
    """Reads rows that hold values of these fields; made once for a model."""

    def __init__(
        self, fields: Sequence[Field], *, spare: Collection[str], are_columns: bool = False
    ) -> None:
        """Keys in `spare` may be there and are passed over.

        `are_columns` says that the fields are of a table, a value of which is no list.
        """
        self._all = tuple(fields)
        self.arrays = tuple(field for field in fields if isinstance(field, ArrayField))
        self._plain = tuple(field for field in fields if not isinstance(field, ArrayField))
        self._cells = tuple(FieldShape(field, is_array=not are_columns) for field in self._plain)
        self._spare = frozenset(spare)
        self._moments = _moments(self._plain)
        self._halves: tuple[Doubles, Doubles] | None = None
        """Half of mean and scale, where all that is read is numbers."""
        self._pairs: tuple[tuple[float, float], ...] = ()
        """The same by input."""
        reads_numbers = all(cell.plain and not cell.boolean for cell in self._cells)
        if self._moments is not None and not self.arrays and reads_numbers:
            self._halves = self._moments[0] / 2, self._moments[1] / 2
            self._pairs = tuple(zip(*(half.tolist() for half in self._halves), strict=True))

    def encode(self, inputs: Any) -> dict[str, Floats]:
        """Return what the network reads of each field, (rows, width) or (rows, *shape).

        Takes lists of values, objects, or one object of columns (arrays); errors point below
        `#/inputs`. Null is a missing value.
        """
        if not self.arrays:
            return self._by_name(self.encode_cells(inputs))
        inputs = self._arranged(inputs)
        others = [field.name for field in self._plain]
        encoded = encode_array_records(inputs, self.arrays, others=others, spare=self._spare)
        if not self._plain:
            return encoded
        cells = read_records(inputs, self._cells, spare=self._spare | encoded.keys())
        first = self.arrays[0].name
        if len(cells) != len(encoded[first]):
            raise DataError(
                f"{others[0]!r} has {len(cells)} values, {first!r} has {len(encoded[first])} rows; "
                "all have the same number",
                pointer=f"#/inputs/{pointer_token(others[0])}",
            )
        return encoded | self._by_name(self._encode(cells))

    def encode_cells(self, inputs: Any) -> Floats:
        """Return all fields side by side, (rows, inputs), where none is an array."""
        numbers = self._encode_numbers(inputs)
        if numbers is not None:
            return numbers
        return self._encode(read_records(self._arranged(inputs), self._cells, spare=self._spare))

    def _arranged(self, inputs: Any) -> Any:
        """Put the columns of a table together where they are the features of the one array."""
        if not given_columns.holds_arrays(inputs) or len(self._all) > 1:
            return inputs
        field = self._all[0]
        is_wide = isinstance(field, Scaled) and field.size > 1
        return given_columns.side_by_side(inputs, field.name, field.names) if is_wide else inputs

    def _encode_numbers(self, inputs: Any) -> Floats | None:
        """Return what `_encode` does of lists of numbers alone, in a third of the time."""
        if self._halves is None or type(inputs) is not list or not inputs:
            return None
        mean, scale = self._halves
        for row in inputs:
            if (
                type(row) is not list
                or len(row) != len(mean)
                or not _NUMBERS.issuperset(map(type, row))
            ):
                return None
        try:
            few = self._encode_few(inputs) if len(inputs) * len(mean) <= _FEW else None
            if few is not None:
                return few
            cells = np.array(inputs, dtype=np.float64)
        except OverflowError:  # an integer beyond every float
            return None
        with np.errstate(over="ignore"):
            encoded: Floats = ((cells / 2 - mean) / scale).astype(np.float32)
        return encoded if np.isfinite(encoded).all() else None

    def _encode_few(self, rows: list[list[float]]) -> Floats | None:
        """Return the same of few numbers, which NumPy takes longer for; None if any is too far."""
        flat = [
            (value / 2 - mean) / scale
            for row in rows
            for value, (mean, scale) in zip(row, self._pairs, strict=True)
        ]
        if min(flat) < -_LARGE or max(flat) > _LARGE:
            return None
        return np.array(flat, dtype=np.float32).reshape(len(rows), -1)

    def _by_name(self, encoded: Floats) -> dict[str, Floats]:
        if len(self._plain) == 1:
            return {self._plain[0].name: encoded}
        ends = np.cumsum([field.width for field in self._plain]).tolist()
        return {
            field.name: encoded[:, end - field.width : end]
            for field, end in zip(self._plain, ends, strict=True)
        }

    def _encode(self, cells: Doubles) -> Floats:
        if self._moments is not None:
            mean, scale, fill = self._moments
            encoded = scaling.encode(np.where(np.isnan(cells), fill, cells), mean, scale)
            if np.isfinite(encoded).all():  # else the slow way tells what is wrong
                return encoded
        return features.encode_cells(cells, self._plain)


def _moments(fields: Sequence[Field]) -> tuple[Doubles, Doubles, Doubles] | None:
    """Return mean, scale and fill by input if all are numbers without indicators."""
    numbers = [field for field in fields if isinstance(field, Scaled)]
    if not numbers or len(numbers) < len(fields) or any(field.indicator for field in numbers):
        return None
    fills = [np.nan if field.fill is None else field.fill for field in numbers]
    fill = np.repeat(np.array(fills), [field.size for field in numbers])
    return scaling.joined(numbers, "mean"), scaling.joined(numbers, "scale"), fill
