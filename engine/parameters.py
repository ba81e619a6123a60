"""Parameters in one flat buffer, with named views into it.

One buffer makes the optimizer one call, a checkpoint one copy and a gradient norm one reduction.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Parameters"]

_ALIGNMENT = 16  # floats: each parameter starts on a cache line of 64 bytes


class Parameters:
    """The parameters of one network: `flat`, `gradient` and named views of both."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, device: torch.device) -> None:
        offsets: dict[str, int] = {}
        end = 0
        self._shapes = dict(shapes)
        for name, shape in shapes.items():
            offsets[name] = end
            end += -(-int(np.prod(shape)) // _ALIGNMENT) * _ALIGNMENT
        self.flat = torch.zeros(end, dtype=torch.float32, device=device)
        self.gradient = torch.zeros_like(self.flat)
        self._offsets = offsets
        self.views: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            view = self._view(self.flat, offsets[name], shape).requires_grad_()
            # Autograd adds in place to a gradient that exists, so all of them land in one buffer.
            view.grad = self._view(self.gradient, offsets[name], shape)
            self.views[name] = view

    @staticmethod
    def _view(flat: Tensor, offset: int, shape: tuple[int, ...]) -> Tensor:
        return flat[offset : offset + int(np.prod(shape))].view(shape).detach()

    def offset(self, name: str) -> int:
        """Return where a parameter begins in the flat buffers."""
        return self._offsets[name]

    def like(self, buffer: Tensor) -> list[Tensor]:
        """Return views of another flat buffer, one for each of `views`, in their order."""
        return [self._view(buffer, self._offsets[n], shape) for n, shape in self._shapes.items()]

    def __getitem__(self, name: str) -> Tensor:
        return self.views[name]

    def assign(self, values: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Copy values, by name, into the buffer."""
        with torch.no_grad():
            for name, view in self.views.items():
                view.copy_(torch.from_numpy(np.array(values[name], dtype=np.float32)))

    def to_numpy(self) -> dict[str, npt.NDArray[np.float32]]:
        """Return a copy of every parameter, by name."""
        return {
            name: view.detach().cpu().numpy().copy() for name, view in sorted(self.views.items())
        }
