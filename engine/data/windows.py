"""Windows of rows, gathered when they are asked for: overlapping ones share what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Windows"]


class Windows:
    """Like an array (windows, steps, …): window i is `values[starts[i] : starts[i] + steps]`.

    `values` and `starts` are NumPy arrays, or tensors on one device. Indexing by a slice or by
    numbers of windows gives an array (tensor) of its own.
    """

    def __init__(self, values: Any, starts: Any, steps: int, *, offsets: Any = None) -> None:
        self.values = values
        self.starts = starts
        self.steps = steps
        self._offsets = np.arange(steps, dtype=np.int64) if offsets is None else offsets

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole: (windows, steps, …)."""
        return (len(self.starts), self.steps, *self.values.shape[1:])

    @property
    def device(self) -> Any:
        """Where the tensors lie."""
        return self.values.device

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, windows: Any) -> Any:
        return self.values[self.starts[windows][:, None] + self._offsets]

    def map(self, change: Callable[[Any], Any]) -> Windows:
        """Return the windows of changed values; `change` is applied to the positions, too."""
        return Windows(
            change(self.values),
            change(self.starts),
            self.steps,
            offsets=change(self._offsets),
        )
