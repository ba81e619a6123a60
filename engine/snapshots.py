"""Snapshots: copies of all that changes in a run, taken at once and made into bytes later.

Taking one costs one copy of the flat buffers; making bytes of it costs several, and can be done by
another thread while the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import safetensors.torch
import torch
from torch import Tensor

__all__ = ["Snapshot", "copy_of"]


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a run was when the snapshot was taken; nothing in it is changed any more."""

    tensors: Mapping[str, Tensor]
    """Copies, on the host."""
    entry: str
    """The name that `told` has in the file."""
    told: str
    """Everything else, as JSON. One entry: the order of several is not defined, and equal states
    have equal bytes."""
    parts: Mapping[str, Snapshot]
    """Snapshots of runs within the run."""

    def to_bytes(self) -> bytes:
        """Return the snapshot as one safetensors file; those within are arrays of bytes in it."""
        tensors = dict(self.tensors)
        for name, part in self.parts.items():
            tensors[name] = torch.frombuffer(bytearray(part.to_bytes()), dtype=torch.uint8)
        return safetensors.torch.save(tensors, metadata={self.entry: self.told})

    def retold(self, told: str) -> Snapshot:
        """Return it with another `told`."""
        return replace(self, told=told)


def copy_of(tensor: Tensor) -> Tensor:
    """Return a copy on the host that nothing else refers to."""
    return tensor.detach().to("cpu", copy=True)
