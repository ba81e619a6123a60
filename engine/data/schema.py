"""What a data set looks like from outside: its columns or arrays, and what they hold."""

from __future__ import annotations

from typing import Literal

from engine.spec import Spec

__all__ = ["Array", "Column", "ColumnType", "Kind", "Schema"]

Kind = Literal["table", "arrays"]
ColumnType = Literal["number", "integer", "boolean", "text", "datetime"]


class Column(Spec):
    """One column of a table, with the statistics of its values that are not missing."""

    name: str
    type: ColumnType
    nulls: int
    """Number of missing values."""
    min: float | None = None
    """Smallest value; null unless the column holds numbers."""
    max: float | None = None
    """Largest value; null unless the column holds numbers."""
    mean: float | None = None
    """Mean of the values; null unless the column holds numbers."""
    std: float | None = None
    """Sample standard deviation of the values (divisor n - 1); null for fewer than two."""
    categories: tuple[str, ...] | None = None
    """For text: the distinct values of at most 256 characters in order of first appearance, the
    first 1000 of them. Null for the other types."""


class Array(Spec):
    """One array of a data set of arrays."""

    name: str
    shape: tuple[int, ...]
    """The first dimension counts the rows."""
    dtype: str
    """As NumPy names it: `float32`, `int64`, `bool`; `text` for labels."""


class Schema(Spec):
    """The outside of a data set: enough to validate a training request against."""

    kind: Kind
    rows: int
    columns: tuple[Column, ...] = ()
    """The columns of a table in their order; empty for arrays."""
    arrays: tuple[Array, ...] = ()
    """The arrays in their order; empty for a table."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns (arrays), in order."""
        if self.kind == "table":
            return tuple(column.name for column in self.columns)
        return tuple(array.name for array in self.arrays)
