"""Encoded rows as a network reads them: one array for each output that is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.data.windows import Windows

__all__ = ["Inputs"]


class Inputs:
    """Rows of several arrays (or tensors) at once, cut and counted together.

    `values` are (rows, *shape), float32, by the name of the output that they stand for, such as
    ``in:out``. They may be windows, which become arrays where rows are taken of them.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def __getitem__(self, rows: Any) -> Inputs:
        """Return these rows of every array: a slice, or an array of row numbers."""
        return Inputs({name: value[rows] for name, value in self.values.items()})

    def map(self, change: Callable[[Any], Any]) -> Inputs:
        """Return what `change` makes of every array."""
        return Inputs(
            {
                name: value.map(change) if isinstance(value, Windows) else change(value)
                for name, value in self.values.items()
            }
        )
