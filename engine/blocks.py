"""Compiling a way through a network into a program of the block kernels.

What the kernels know is rows of numbers: dense layers, their combinations and norms, dropout, noise
and DropConnect. A way that leads through anything else has no program and takes the general path.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from engine.graph import Graph
from engine.kernels.arrangement import arranged_steps
from engine.kernels.builds import Kernels, kernels
from engine.kernels.program import FUNCTIONS, Kind, Program, Step, panels, rounded
from engine.layers import Layer, Shape
from engine.layers.combination import Combination
from engine.layers.feedforward import Feedforward
from engine.layers.normalization import EPSILON, LayerNorm
from engine.layers.reshaping import Flatten, Reshape
from engine.network import needed_layers
from engine.regularizers.sites import Site
from engine.streams import threshold

__all__ = ["Arranged", "Way", "way_through"]

Array = npt.NDArray[np.float32]
Arranged = MutableMapping[tuple[str, str], Array]
"""Parameters as the kernels read them, by layer and what it is; shared by a network's programs."""

_FEW = 4  # columns, of which each is summed by itself


@dataclass(frozen=True, kw_only=True)
class Way:
    """A program from known outputs to wanted ones."""

    program: Program
    known: tuple[str, ...]
    """Names of the known outputs, in the program's order."""
    wanted: tuple[str, ...]
    shapes: tuple[Shape, ...]
    """Of the wanted outputs for one row."""
    sites: tuple[Site, ...]
    """Which draw, in the order of the program's keys."""


class _Unknown(Exception):
    """Something that the kernels do not compute."""


def way_through(
    graph: Graph,
    values: Mapping[str, Array],
    arranged: Arranged,
    *,
    known: Collection[str],
    wanted: Sequence[str],
    sites: Mapping[str, tuple[Site, ...]],
    build: Kernels | None = None,
) -> Way | None:
    """Compile what `engine.network.evaluate` would compute; None where the kernels cannot.

    `values` are the network's parameters by name; `build` is for another than the fastest kernels.
    """
    if build is None and kernels() is None:
        return None
    compiler = _Compiler(graph, values, arranged, sites)
    try:
        compiler.visit(known, wanted)
    except _Unknown:
        return None
    steps, widths = arranged_steps(compiler.steps, compiler.widths)
    shapes = tuple(compiler.shapes[name] for name in wanted)
    return Way(
        program=Program(steps, widths, [math.prod(shape) for shape in shapes], build),
        known=tuple(compiler.known),
        wanted=tuple(wanted),
        shapes=shapes,
        sites=tuple(compiler.drawn),
    )


class _Compiler:
    """Steps over as many buffers as there are values; `arranged_steps` lets them share room."""

    def __init__(
        self,
        graph: Graph,
        values: Mapping[str, Array],
        arranged: Arranged,
        sites: Mapping[str, tuple[Site, ...]],
    ) -> None:
        self.steps: list[Step] = []
        self.widths: list[int] = []
        self.known: list[str] = []
        self.drawn: list[Site] = []
        self.shapes: dict[str, Shape] = {}
        self._graph = graph
        self._values = {name: torch.from_numpy(value) for name, value in values.items()}
        self._arranged = arranged
        self._sites = sites
        self._buffers: dict[str, int] = {}

    def visit(self, known: Collection[str], wanted: Sequence[str]) -> None:
        """Add the steps from known to wanted outputs, as `evaluate` visits the layers."""
        for layer in needed_layers(self._graph, wanted, known):
            if layer.out in known:
                computed = {name: self._load(name) for name in layer.outputs if name in known}
            else:
                computed = self._layer(layer)
            for name, buffer in computed.items():
                self._dropped(name, layer.outputs[name], buffer)
        for number, name in enumerate(wanted):
            buffer = self._buffers[name]
            self._add(Step(kind=Kind.STORE, src=buffer, width=self.widths[buffer], what=number))

    def _dropped(self, name: str, shape: Shape, buffer: int) -> None:
        """Add what acts on an output, and make it readable under its names."""
        for site in self._sites.get(name, ()):
            self._buffers.setdefault(name + site.suffix, buffer)
            self.shapes.setdefault(name + site.suffix, shape)
            if site.acts:
                buffer = self._acted(site, shape, buffer)
        self._buffers[name] = buffer
        self.shapes[name] = shape

    def _acted(self, site: Site, shape: Shape, buffer: int) -> int:
        if site.kind not in ("dropout", "noise") or site.shares_axes(shape):
            raise _Unknown
        width = self.widths[buffer]
        dst, what = self._new(width), self._site(site)
        if site.adds:
            step = Step(kind=Kind.NOISE, scale=site.level)
        else:
            step = Step(kind=Kind.DROP, limit=threshold(site.level), scale=1 / (1 - site.level))
        self._add(replace(step, dst=dst, src=buffer, width=width, what=what))
        return dst

    def _site(self, site: Site) -> int:
        self.drawn.append(site)
        return len(self.drawn) - 1

    def _new(self, width: int) -> int:
        self.widths.append(width)
        return len(self.widths) - 1

    def _add(self, step: Step) -> None:
        self.steps.append(step)

    def _load(self, name: str) -> int:
        self.known.append(name)
        width = math.prod(self._graph.outputs[name])
        buffer = self._new(width)
        self._add(Step(kind=Kind.LOAD, dst=buffer, width=width, what=len(self.known) - 1))
        return buffer

    # -- layers ------------------------------------------------------------------------------------

    def _layer(self, layer: Layer) -> dict[str, int]:
        """Add a layer's steps and return the buffers of its outputs."""
        inputs = [self._buffers[name] for name in layer.inputs]
        match layer:
            case Flatten() | Reshape():
                return {layer.out: inputs[0]}
            case Feedforward() if len(layer.shape) == 1:
                pre = self._affine(layer, inputs)
                return {layer.pre: pre, layer.out: self._activated(layer, pre)}
            case LayerNorm() if len(layer.shape) == 1:
                pre = self._norm(layer, inputs[0])
                return {layer.pre: pre, layer.out: self._activated(layer, pre)}
            case Combination() if len(layer.shape) == 1:
                return {layer.out: self._combined(layer, inputs)}
        raise _Unknown

    def _affine(self, layer: Feedforward, inputs: Sequence[int]) -> int:
        """Add ``b + sum_i x_i w_i``, with the dropout of weights and biases."""
        bound = layer.bound(self._values)
        weights = [local for local in bound if local.startswith("w")]
        dropped = self._dropped_weights(layer, (*weights, "b"))
        dst = self._new(layer.size)
        few = layer.size <= _FEW
        bias: Array | None = self._bias(layer, bound["b"])
        if "b" in dropped:
            self._dropped_bias(dst, layer.size, bias, dropped["b"])
            bias = None
        for position, (local, src) in enumerate(zip(weights, inputs, strict=True)):
            adds = position > 0 or "b" in dropped
            step = Step(
                kind=Kind.DOT if few else Kind.AFFINE,
                dst=dst,
                src=src,
                inner=self.widths[src],
                width=layer.size,
                column=int(adds),
                bias=None if adds else bias,
            )
            if local in dropped:
                site = dropped[local]
                connect = replace(
                    step,
                    kind=Kind.CONNECT,
                    what=self._site(site),
                    limit=threshold(site.level),
                    scale=1 / (1 - site.level),
                    weight=np.ascontiguousarray(bound[local].numpy()),
                )
                self._add(connect)
            else:
                self._add(replace(step, weight=self._weight(layer, local, bound[local], few)))
        return dst

    def _dropped_weights(self, layer: Layer, plain: Collection[str]) -> dict[str, Site]:
        """Return the one site that drops each of a layer's own weights."""
        own = {layer.full_name(local): local for local in layer.own_parameters}
        dropped: dict[str, Site] = {}
        for full in layer.used_parameters:
            acting = [site for site in self._sites.get(full, ()) if site.acts]
            if not acting:
                continue
            local = own.get(full, "")
            if local not in plain or len(acting) > 1 or acting[0].kind != "connection":
                raise _Unknown
            dropped[local] = acting[0]
        return dropped

    def _dropped_bias(self, dst: int, width: int, bias: Array | None, site: Site) -> None:
        self._add(Step(kind=Kind.CONSTANT, dst=dst, width=rounded(width), weight=bias))
        self._add(
            Step(
                kind=Kind.DROP,
                dst=dst,
                src=dst,
                width=width,
                what=self._site(site),
                limit=threshold(site.level),
                scale=1 / (1 - site.level),
            )
        )

    def _weight(self, layer: Layer, local: str, weight: torch.Tensor, few: bool) -> Array:
        key = (layer.name, local)
        if key not in self._arranged:
            matrix = weight.numpy()
            if few:
                arranged = np.zeros((matrix.shape[1], rounded(matrix.shape[0])), dtype=np.float32)
                arranged[:, : matrix.shape[0]] = matrix.T
            else:
                arranged = panels(matrix)
            self._arranged[key] = arranged
        return self._arranged[key]

    def _bias(self, layer: Layer, bias: torch.Tensor) -> Array:
        key = (layer.name, "b")
        if key not in self._arranged:
            padded = np.zeros(rounded(layer.size), dtype=np.float32)
            padded[: layer.size] = bias.numpy()
            self._arranged[key] = padded
        return self._arranged[key]

    def _activated(self, layer: Layer, pre: int) -> int:
        """Add the functions of a layer's activation."""
        buffer = pre
        bound = layer.bound(self._values)
        for name, learnt in layer.activates.functions:
            word, _, pieces = name.partition(":")
            number = FUNCTIONS.get(name, FUNCTIONS.get(word))
            if number is None:
                raise _Unknown
            if name == "linear":
                continue
            given = [np.ascontiguousarray(bound[local].numpy()) for local in learnt] + [None, None]
            dst = self._new(layer.size)
            self._add(
                Step(
                    kind=Kind.ACTIVATE,
                    dst=dst,
                    src=buffer,
                    other=int(pieces) if word == "maxout" else 0,
                    width=layer.size,
                    what=number,
                    weight=given[0],
                    bias=given[1],
                )
            )
            buffer = dst
        return buffer

    def _norm(self, layer: LayerNorm, src: int) -> int:
        self._dropped_weights(layer, ())
        bound = layer.bound(self._values)
        dst = self._new(layer.size)
        self._add(
            Step(
                kind=Kind.NORM,
                dst=dst,
                src=src,
                width=layer.size,
                scale=EPSILON,
                weight=np.ascontiguousarray(bound["g"].numpy()),
                bias=np.ascontiguousarray(bound["b"].numpy()),
            )
        )
        return dst

    def _combined(self, layer: Combination, inputs: Sequence[int]) -> int:
        if layer.form == "concatenate":
            dst, column = self._new(layer.size), 0
            for src in inputs:
                width = self.widths[src]
                self._add(Step(kind=Kind.COPY, dst=dst, src=src, width=width, column=column))
                column += width
            return dst
        buffer = inputs[0]
        kind = Kind.MULTIPLY if layer.form == "product" else Kind.ADD
        for src in inputs[1:]:
            dst = self._new(layer.size)
            self._add(Step(kind=kind, dst=dst, src=buffer, other=src, width=layer.size))
            buffer = dst
        return buffer
