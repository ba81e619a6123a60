"""Pooling: each window of a sequence's steps or an image's pixels becomes one number a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from engine.layers.layer import Layer, LayerRequest, shown
from engine.layers.windows import Pair, extent, pair, resized, windowed_input

__all__ = ["Pooling"]


@dataclass(frozen=True, kw_only=True)
class Pooling(Layer):
    """The largest value, the mean or the sum of every window."""

    pool_size: Pair
    stride: Pair
    mode: str
    ignore_border: bool

    takes: ClassVar[frozenset[str]] = frozenset({"pool_size", "stride", "mode", "ignore_border"})

    @classmethod
    def build(cls, request: LayerRequest) -> Pooling:
        """Size a layer of form `pool1` or `pool2`."""
        request.refuse_classifier()
        name, shape = windowed_input(request)
        there = extent(shape)
        pool_size = pair(request, "pool_size")
        if pool_size is None:
            raise request.error(
                f"layer {request.name!r} of form {request.form!r} needs a `pool_size`", "pool_size"
            )
        if pool_size[0] > there[0] or pool_size[1] > there[1]:
            raise request.error(
                f"`pool_size` is {shown(pool_size[: len(shape) - 1])}, but {name!r} has only "
                f"{shown(there[: len(shape) - 1])}; give at most that",
                "pool_size",
            )
        stride = pair(request, "stride") or pool_size
        ignore_border = bool(request.spec.ignore_border)
        counts = [
            _count(*numbers, ignore_border=ignore_border)
            for numbers in zip(there, pool_size, stride, strict=True)
        ]
        width = shape[-1] if len(shape) == 2 else shape[0]
        size = request.agreed_size(request.spec.size, width, what=f"values in {name!r}")
        return cls(
            name=request.name,
            form=request.form,
            shape=resized(shape, size, (counts[0], counts[1])),
            inputs=request.input_names,
            input_shapes=request.input_shapes,
            spec=request.spec,
            pool_size=pool_size,
            stride=stride,
            mode=request.spec.mode or "max",
            ignore_border=ignore_border,
        )

    def compute(
        self, inputs: Sequence[Tensor], _weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        is_image = len(self.shape) == 3
        # A window of one step's height and one number's width leaves a sequence's numbers apart.
        x = inputs[0].contiguous() if is_image else inputs[0].unsqueeze(1).contiguous()
        takes_partial = not self.ignore_border
        if self.mode == "max":
            pooled = functional.max_pool2d(x, self.pool_size, self.stride, ceil_mode=takes_partial)
        else:
            pooled = functional.avg_pool2d(
                x,
                self.pool_size,
                self.stride,
                ceil_mode=takes_partial,
                divisor_override=1 if self.mode == "sum" else None,
            )
        return {self.out: pooled if is_image else pooled.squeeze(1)}


def _count(there: int, wide: int, step: int, *, ignore_border: bool) -> int:
    """Return how many windows there are along an axis.

    Beside the whole ones, unless they are ignored, one that begins inside and ends beyond.
    """
    whole = (there - wide) // step + 1
    is_more = not ignore_border and (there - wide) % step != 0 and whole * step < there
    return whole + 1 if is_more else whole
