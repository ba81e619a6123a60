"""Layers that arrange the numbers of a row in another shape, in the order in which they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from engine.layers.layer import Layer, LayerRequest, elements, shown

__all__ = ["Flatten", "Reshape"]


@dataclass(frozen=True, kw_only=True)
class Flatten(Layer):
    """All numbers of a row side by side: of an image channel by channel, row by row."""

    @classmethod
    def build(cls, request: LayerRequest) -> Flatten:
        """Take any shape to (size,)."""
        request.refuse_classifier()
        name, shape = request.only_input(dimensions=(1, 2, 3), what="one output")
        size = request.agreed_size(
            request.spec.size, elements(shape), what=f"numbers in {name!r}, {shown(shape)}"
        )
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
        return {self.out: inputs[0].flatten(1)}


@dataclass(frozen=True, kw_only=True)
class Reshape(Layer):
    """The numbers of a row in another shape: numbers, a sequence or an image."""

    takes: ClassVar[frozenset[str]] = frozenset({"shape"})

    @classmethod
    def build(cls, request: LayerRequest) -> Reshape:
        """Take the shape that is given, of a last layer by default the one that the data have."""
        request.refuse_classifier()
        name, read = request.only_input(dimensions=(1, 2, 3), what="one output")
        shape = request.spec.shape or request.expected
        if shape is None:
            raise request.error(
                f"layer {request.name!r} of form 'reshape' needs a `shape`, such as [steps, size] "
                "or [channels, height, width]",
                "shape",
            )
        if elements(shape) != elements(read):
            raise request.error(
                f"`shape` {shown(shape)} holds {elements(shape)} numbers, but {name!r} has "
                f"{elements(read)} ({shown(read)})",
                "shape",
            )
        width = shape[0] if len(shape) == 3 else shape[-1]
        request.agreed_size(request.spec.size, width, what=f"values in the shape {shown(shape)}")
        return cls(
            name=request.name,
            form=request.form,
            shape=shape,
            inputs=request.input_names,
            input_shapes=request.input_shapes,
            spec=request.spec.model_copy(update={"shape": shape}),
        )

    def compute(
        self, inputs: Sequence[Tensor], _weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        return {self.out: inputs[0].reshape(len(inputs[0]), *self.shape)}
