"""Convolutions: one affine map of every window of a sequence's steps or an image's pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from engine.layers.layer import Layer, LayerRequest, Shape, affine, shown
from engine.layers.windows import Pair, extent, pair, resized, windowed_input
from engine.names import output_name

__all__ = ["Convolution"]

_PIECE_NUMBERS = 1 << 20
"""Numbers of all windows that are laid side by side at once: what caches hold."""


@dataclass(frozen=True, kw_only=True)
class Convolution(Layer):
    """``pre = b + sum x w`` over every window, and ``out = activation(pre)``.

    Filters `w` are (size, channels, width) for sequences and (size, channels, height, width) for
    images. They are not mirrored: output (i, j) of a filter sums up x[c, i + r, j + s] w[c, r, s].
    """

    filter_size: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    """Zeros before and behind, along height and along width."""

    takes: ClassVar[frozenset[str]] = frozenset(
        {"activation", "mean", "std", "sparsity", "filter_size", "stride", "border_mode"}
    )

    @classmethod
    def build(cls, request: LayerRequest) -> Convolution:
        """Size a layer of form `conv1` or `conv2`."""
        request.refuse_classifier()
        name, shape = windowed_input(request)
        filter_size, stride = pair(request, "filter_size"), pair(request, "stride") or (1, 1)
        if filter_size is None:
            raise request.error(
                f"layer {request.name!r} of form {request.form!r} needs a `filter_size`",
                "filter_size",
            )
        border_mode = request.spec.border_mode or "valid"
        is_wider = any(a > b for a, b in zip(filter_size, extent(shape), strict=True))
        if is_wider and border_mode == "valid":
            raise request.error(
                f"`filter_size` is {shown(filter_size[: len(shape) - 1])}, but {name!r} has only "
                f"{_places(shape)}; give at most that, or the `border_mode` 'same'",
                "filter_size",
            )
        padding = _padding(filter_size, border_mode)
        counts = tuple(
            (there + sum(added) - wide) // step + 1
            for there, added, wide, step in zip(
                extent(shape), padding, filter_size, stride, strict=True
            )
        )
        return cls(
            name=request.name,
            form=request.form,
            shape=resized(shape, _size(request, shape), (counts[0], counts[1])),
            activation=request.resolved_activation(),
            inputs=request.input_names,
            input_shapes=request.input_shapes,
            spec=request.spec,
            filter_size=filter_size,
            stride=stride,
            padding=padding,
        )

    @property
    def channels(self) -> int:
        """How many numbers each step or pixel of its input has."""
        (shape,) = self.input_shapes
        return shape[-1] if len(shape) == 2 else shape[0]

    @property
    def pre(self) -> str:
        return output_name(self.name, "pre")

    @property
    def outputs(self) -> dict[str, Shape]:
        return {self.pre: self.shape, self.out: self.shape}

    @property
    def own_parameters(self) -> dict[str, Shape]:
        window = self.filter_size[: len(self.shape) - 1]
        weights = {"w": (self.size, self.channels, *window), "b": (self.size,)}
        return {**weights, **self.activates.parameters}

    def fans(self, _local: str) -> tuple[int, int]:
        window = math.prod(self.filter_size)
        return self.channels * window, self.size * window

    @property
    def flops_per_row(self) -> int:
        return 2 * math.prod(self.shape) * self.channels * math.prod(self.filter_size)

    def bound(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the filters as views (height, width, channels, size), the rest as it is."""
        weights = super().bound(parameters)
        filters = weights["w"]
        images = filters.unsqueeze(-1) if len(self.shape) == 2 else filters
        return weights | {"w": images.permute(2, 3, 1, 0)}

    def compute(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        is_image = len(self.shape) == 3
        x = inputs[0] if is_image else inputs[0].transpose(1, 2).unsqueeze(-1)
        (above, below), (left, right) = self.padding
        if above or below or left or right:
            x = functional.pad(x, (left, right, above, below))
        # Predictions run in inference mode and promise a row the same bits among any others, which
        # `affine` keeps. PyTorch's own convolution promises nothing, and is several times as fast.
        convolve = self._by_windows if torch.is_inference_mode_enabled() else self._at_once
        pre = convolve(x, weights["w"], weights["b"])
        pre = pre if is_image else pre.squeeze(-1).transpose(1, 2)
        pre = pre.contiguous()
        return {self.pre: pre, self.out: self.activates(pre, weights)}

    def _at_once(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        filters = weight[..., : self.size].permute(3, 2, 0, 1)
        return functional.conv2d(x, filters, bias[: self.size], self.stride)

    def _by_windows(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Multiply windows laid side by side by a matrix, as many at once as a cache holds.

        Each piece has the same number of rows, for the reason that tiles of rows have.
        """
        height, width = extent(self.shape)
        rows, down, across = self._piece(len(x))
        matrix = weight.flatten(-4, -2)  # (…, window x channels, size)
        pre = x.new_empty((len(x), self.size, height, width))
        for start in range(0, len(x), rows):
            among = slice(start, start + rows)
            own = matrix if matrix.dim() == 2 else matrix[among]
            for top in range(0, height, down):
                for left in range(0, width, across):
                    ends = min(top + down, height), min(left + across, width)
                    windows = self._windows(self._under(x[among], (top, left), ends))
                    product = affine(windows.flatten(1, 2), own, bias, self.size)
                    product = product.reshape(*windows.shape[:3], self.size)
                    pre[among, :, top : ends[0], left : ends[1]] = product.movedim(-1, 1)
        return pre

    def _piece(self, count: int) -> tuple[int, int, int]:
        """Return of how many rows, and how far down and across, windows are taken at once.

        Of several rows all windows are; where not even those of one fit, of one row some.
        """
        height, width = extent(self.shape)
        room = max(1, _PIECE_NUMBERS // (self.channels * math.prod(self.filter_size)))
        rows = max(1, min(count, room // (height * width)))
        while count % rows:
            rows -= 1
        return rows, max(1, min(height, room // width)), min(width, room)

    def _under(self, x: Tensor, begins: Pair, ends: Pair) -> Tensor:
        """Return the part of x (rows, channels, …) that these windows stand on."""
        for axis, (begin, end, wide, step) in enumerate(
            zip(begins, ends, self.filter_size, self.stride, strict=True)
        ):
            x = x.narrow(axis + 2, begin * step, (end - 1 - begin) * step + wide)
        return x

    def _windows(self, x: Tensor) -> Tensor:
        """Return (rows, windows down, windows across, filter height x filter width x channels)."""
        pixels = x.permute(0, 2, 3, 1).contiguous()  # so that a window's rows are whole runs
        windows = pixels
        for axis, (wide, step) in enumerate(zip(self.filter_size, self.stride, strict=True)):
            windows = windows.unfold(axis + 1, wide, step)
        # (rows, height, width, channels, filter height, filter width)
        return windows.permute(0, 1, 2, 4, 5, 3).flatten(3)


def _padding(filter_size: Pair, border_mode: str) -> tuple[Pair, Pair]:
    """Return the zeros around an input, as theanets' modes of borders have them.

    With `same`, an even filter has one more of them behind than before, as in PyTorch.
    """
    if border_mode == "valid":
        return (0, 0), (0, 0)
    height, width = (wide - 1 for wide in filter_size)
    if border_mode == "full":
        return (height, height), (width, width)
    return (height // 2, height - height // 2), (width // 2, width - width // 2)


def _size(request: LayerRequest, shape: Shape) -> int:
    """Return how many filters there are; of a last layer as many as the data have channels."""
    expected = request.expected
    if expected is None:
        return request.resolved_size()
    is_image = len(shape) == len(expected) == 3
    return request.resolved_size(expected[0] if is_image else expected[-1])


def _places(shape: Shape) -> str:
    return f"{shape[0]} steps" if len(shape) == 2 else f"{shape[1]} x {shape[2]} pixels"
