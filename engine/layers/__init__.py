"""Layers: for each form its shapes, its parameters, and what it computes from its inputs."""

from __future__ import annotations

from collections.abc import Mapping

from engine.layers.bidirectional import WORKERS, Bidirectional
from engine.layers.combination import Combination
from engine.layers.convolution import Convolution
from engine.layers.feedforward import Feedforward, Tied
from engine.layers.input import Input
from engine.layers.layer import Layer, LayerRequest, Shape, affine, layer_pointer, shown
from engine.layers.normalization import LayerNorm
from engine.layers.pooling import Pooling
from engine.layers.reshaping import Flatten, Reshape
from engine.layers.sequence import Last

__all__ = ["FORMS", "Layer", "LayerRequest", "Shape", "affine", "layer_pointer", "shown"]

FORMS: Mapping[str, type[Layer]] = {
    "input": Input,
    "ff": Feedforward,
    "softmax": Feedforward,
    "tied": Tied,
    "product": Combination,
    "concatenate": Combination,
    "add": Combination,
    "last": Last,
    **WORKERS,
    "bidirectional": Bidirectional,
    "layer_norm": LayerNorm,
    "conv1": Convolution,
    "conv2": Convolution,
    "pool1": Pooling,
    "pool2": Pooling,
    "flatten": Flatten,
    "reshape": Reshape,
}
"""The class of each form of layers."""
