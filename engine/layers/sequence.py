"""Layers between sequences and single rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from engine.layers.layer import Layer, LayerRequest

__all__ = ["Last"]


@dataclass(frozen=True, kw_only=True)
class Last(Layer):
    """The last step of a sequence: what a recurrent layer says once it has read all of it."""

    @classmethod
    def build(cls, request: LayerRequest) -> Last:
        """Take (steps, size) to (size,)."""
        request.refuse_classifier()
        name, shape = request.only_input(dimensions=(2,), what="a sequence (steps, size)")
        size = request.agreed_size(request.spec.size, shape[-1], what=f"values in {name!r}")
        return cls(
            name=request.name,
            form=request.form,
            shape=(size,),
            inputs=request.input_names,
            input_shapes=request.input_shapes,
            spec=request.spec,
        )

    def compute(
        self, inputs: Sequence[Tensor], _weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {self.out: inputs[0][:, -1]}
