"""Layer normalization: each row, step or pixel brought to one mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

from engine.layers.layer import Layer, LayerRequest, Shape
from engine.names import output_name

__all__ = ["EPSILON", "LayerNorm"]

EPSILON = 1e-5  # added to the variance, as is usual; keeps the norm of equal numbers finite


@dataclass(frozen=True, kw_only=True)
class LayerNorm(Layer):
    """``pre = g (x - mean) / sqrt(variance + 1e-5) + b`` and ``out = activation(pre)``.

    Mean and variance are over the units of a row or step, or the channels of a pixel (Ba, Kiros &
    Hinton 2016, equation 3); gains `g` and biases `b` are learnt, from 1 and 0.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"activation"})

    @classmethod
    def build(cls, request: LayerRequest) -> LayerNorm:
        """Take the shape of the one input."""
        request.refuse_classifier()
        name, shape = request.only_input(dimensions=(1, 2, 3), what="one output")
        width = shape[0] if len(shape) == 3 else shape[-1]
        request.agreed_size(request.spec.size, width, what=f"values in {name!r}")
        return cls(
            name=request.name,
            form=request.form,
            shape=shape,
            activation=request.spec.activation or "linear",
            inputs=request.input_names,
            input_shapes=request.input_shapes,
            spec=request.spec,
        )

    @property
    def pre(self) -> str:
        return output_name(self.name, "pre")

    @property
    def outputs(self) -> dict[str, Shape]:
        return {self.pre: self.shape, self.out: self.shape}

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {"g": (self.size,), "b": (self.size,), **self.activates.parameters}

    def initial_value(self, local: str, seed: int) -> npt.NDArray[np.float32] | None:
        if local == "g":
            return np.ones(self.size, dtype=np.float32)
        return super().initial_value(local, seed)

    def compute(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        gain, bias = weights["g"][: self.size], weights["b"][: self.size]
        is_image = len(self.shape) == 3
        x = inputs[0].movedim(1, -1) if is_image else inputs[0]
        pre = functional.layer_norm(x, (self.size,), gain, bias, EPSILON)
        pre = pre.movedim(-1, 1).contiguous() if is_image else pre
        return {self.pre: pre, self.out: self.activates(pre, weights)}
