"""Layers that join several inputs without weights: product, concatenation, sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.layers.layer import Layer, LayerRequest, Shape, shown

__all__ = ["Combination"]


@dataclass(frozen=True, kw_only=True)
class Combination(Layer):
    """The elementwise product or sum of its inputs, or these side by side.

    Side by side are numbers of a row or step, or channels of images.
    """

    @classmethod
    def build(cls, request: LayerRequest) -> Combination:
        """Size a layer of form `product`, `concatenate` or `add`."""
        request.refuse_classifier()
        shapes = request.input_shapes
        joins = request.form == "concatenate"
        if len({_rest(shape) if joins else shape for shape in shapes}) > 1:
            alike = "of one number of steps" if joins else "of one size"
            raise request.error(
                f"layer {request.name!r} of form {request.form!r} reads outputs {alike}, not of "
                + ", ".join(f"{shown(s)} ({n})" for n, s in request.inputs.items()),
                "inputs",
            )
        axis = _axis(shapes[0])
        width = sum(shape[axis] for shape in shapes) if joins else shapes[0][axis]
        size = request.agreed_size(request.spec.size, width, what="values in its inputs")
        shape = list(shapes[0])
        shape[axis] = size
        return cls(
            name=request.name,
            form=request.form,
            shape=tuple(shape),
            inputs=request.input_names,
            input_shapes=shapes,
            spec=request.spec,
        )

    def compute(
        self, inputs: Sequence[Tensor], _weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.form == "concatenate":
            axis = _axis(self.shape)
            return {self.out: torch.cat(list(inputs), dim=axis + 1 if axis >= 0 else axis)}
        joined = inputs[0]
        for x in inputs[1:]:
            joined = joined * x if self.form == "product" else joined + x
        return {self.out: joined}


def _axis(shape: Shape) -> int:
    """Return the axis of a row along which its size is counted."""
    return 0 if len(shape) == 3 else -1


def _rest(shape: Shape) -> Shape:
    return shape[1:] if len(shape) == 3 else (len(shape), *shape[:-1])
