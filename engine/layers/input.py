"""Input layers: where rows enter the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from engine.layers.layer import Layer, LayerRequest, shown

__all__ = ["Input"]


@dataclass(frozen=True, kw_only=True)
class Input(Layer):
    """An input layer: its `out` is what it is given."""

    takes: ClassVar[frozenset[str]] = frozenset({"columns", "shape"})

    @classmethod
    def build(cls, request: LayerRequest) -> Input:
        """Take the shape that the data have, or the one given."""
        size, given = request.spec.size, request.spec.shape
        shape = request.expected
        if given is not None:
            if shape is not None and tuple(given) != shape:
                raise request.error(
                    f"`shape` is {shown(tuple(given))}, but a row of the data is {shown(shape)}",
                    "shape",
                )
            shape = tuple(given)
        if shape is None:
            shape = (request.agreed_size(size, None, what="inputs"),)
        width = shape[0] if len(shape) == 3 else shape[-1]
        request.agreed_size(size, width, what="inputs")
        return cls(name=request.name, form="input", shape=shape, spec=request.spec)

    def compute(
        self, _inputs: Sequence[Tensor], _weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        raise ValueError(f"the values of {self.out!r} are not given")
