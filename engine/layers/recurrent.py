"""Recurrent layers: sequences (steps, size) read step by step, with a state between the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from engine.layers.layer import Layer, LayerRequest, Shape, affine, shown
from engine.names import output_name
from engine.streams import generator

__all__ = ["Blocked", "Clockwork", "Multiplicative", "Rated", "Recurrent", "Simple"]

Kinds = dict[str, Tensor]
"""Outputs by their names within the layer, (rows, steps, size)."""
States = Mapping[str, Tensor]
"""Initial states by the key that names them, (rows, size)."""

_WEIGHTS = frozenset({"mean", "std", "sparsity", "diagonal", "radius"})
_SCAN = frozenset({"direction", "bptt_limit", "h_0"})


@dataclass(frozen=True, kw_only=True)
class Recurrent(Layer):
    """What all recurrent layers share: their shapes, initial states and directions.

    A backward layer reads the steps from the last to the first; its outputs stand at the steps
    that they belong to. With `bptt_limit` k, no gradient goes further back than the k steps between
    two multiples of k.
    """

    takes: ClassVar[frozenset[str]] = _WEIGHTS | _SCAN | {"activation"}
    state_keys: ClassVar[tuple[str, ...]] = ("h_0",)
    """Keys that name outputs from which states start; zeros without."""
    kinds: ClassVar[tuple[str, ...]] = ("pre", "out")

    states: tuple[tuple[str, str], ...] = ()
    """For each key that was given the output that it names."""

    @classmethod
    def build(cls, request: LayerRequest) -> Recurrent:
        """Size the layer; raises SpecError where it does not read a sequence."""
        request.refuse_classifier()
        given = {
            key: request.output(getattr(request.spec, key), key)
            for key in cls.state_keys
            if getattr(request.spec, key) is not None
        }
        starts = {name for name, _ in given.values()}
        reads = {name: shape for name, shape in request.inputs.items() if name not in starts}
        name, shape = replace(request, inputs=reads or request.inputs).only_input(
            dimensions=(2,), what="a sequence (steps, size)"
        )
        size = request.resolved_size(None if request.expected is None else request.expected[-1])
        layer = cls(
            name=request.name,
            form=request.form,
            shape=(shape[0], size),
            activation=request.spec.activation or "tanh",
            inputs=(name, *(start for start, _ in given.values())),
            input_shapes=(shape, *(start for _, start in given.values())),
            states=tuple((key, start) for key, (start, _) in given.items()),
            spec=request.spec,
        )
        layer.check(request)
        for key, (start, start_shape) in given.items():
            if start_shape != (layer.state_size(key),):
                raise request.error(
                    f"{start!r} has {shown(start_shape)} numbers for each row, but the state that "
                    f"it starts has {layer.state_size(key)}",
                    key,
                )
        return layer

    def check(self, request: LayerRequest) -> None:
        """Refuse what does not fit the layer's size."""

    def state_size(self, _key: str) -> int:
        return self.size

    def widths(self) -> Mapping[str, int]:
        """Return the width of each kind of output that is not the layer's own."""
        return {}

    @property
    def outputs(self) -> dict[str, Shape]:
        return {
            output_name(self.name, kind): (self.shape[0], self.widths().get(kind, self.size))
            for kind in self.kinds
        }

    @property
    def inner_size(self) -> int:
        """How many numbers a step of the sequence that it reads has."""
        return self.input_shapes[0][-1]

    @property
    def flops_per_row(self) -> int:
        products = (shape for shape in self.own_parameters.values() if len(shape) == 2)
        return 2 * self.shape[0] * sum(rows * columns for rows, columns in products)

    def fans(self, local: str) -> tuple[int, int]:
        shape = self.own_parameters[local]
        return shape[0], min(shape[1], self.size)

    def square_blocks(self, local: str) -> int:
        rows, columns = self.own_parameters[local]
        return columns // rows if local[0] == "h" and rows == self.size else 0

    def compute(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = inputs[0]
        backwards = self.spec.direction == "backwards"
        by_name = dict(zip(self.inputs, inputs, strict=True))
        starts = {key: by_name[name] for key, name in self.states}
        computed = self.scan(x.flip(1) if backwards else x, weights, starts)
        return {
            output_name(self.name, kind): value.flip(1) if backwards else value
            for kind, value in computed.items()
        }

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        """Return the outputs of the sequence x, (rows, steps, size), in the order it is read."""
        raise NotImplementedError

    def start(self, x: Tensor, starts: States, key: str) -> Tensor:
        """Return the state before the first step."""
        given = starts.get(key)
        return x.new_zeros(len(x), self.state_size(key)) if given is None else given

    def cut(self, step: int, state: Tensor) -> Tensor:
        """Keep gradients from going further back where that is limited."""
        limit = self.spec.bptt_limit
        return state.detach() if limit and step and step % limit == 0 else state


def stacked(**steps: list[Tensor]) -> Kinds:
    """Join the steps of each output."""
    return {kind: torch.stack(values, dim=1) for kind, values in steps.items()}


@dataclass(frozen=True, kw_only=True)
class Simple(Recurrent):
    """Elman's network: h_t = g(x_t xh + h_(t-1) hh + b), of which `pre` is what g is taken of."""

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {
            "xh": (self.inner_size, self.size),
            "hh": (self.size, self.size),
            "b": (self.size,),
            **self.activates.parameters,
        }

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        state = self.start(x, starts, "h_0")
        before, hidden = self.masked(weights["hh"]), []
        pres: list[Tensor] = []
        pre = state
        for step, driven in enumerate(affine(x, weights["xh"], weights["b"], self.size).unbind(1)):
            state, pre = self.cut(step, state), self.cut(step, pre)
            pre = self.mixed(step, driven + affine(state, before, None, self.size), pre)
            state = self.activates(pre, weights)
            pres.append(pre)
            hidden.append(state)
        return stacked(pre=pres, out=hidden)

    def masked(self, weight: Tensor) -> Tensor:
        """Return the weights between states without those that the form leaves out."""
        return weight

    def mixed(self, _step: int, pre: Tensor, _before: Tensor) -> Tensor:
        """Return the step's `pre`, of what was computed and that of the step before."""
        return pre


@dataclass(frozen=True, kw_only=True)
class _Modules(Simple):
    """A simple layer whose units stand in modules, each of which reads itself and slower ones."""

    @property
    def modules(self) -> int:
        raise NotImplementedError

    def masked(self, weight: Tensor) -> Tensor:
        return weight * torch.nn.functional.pad(
            torch.from_numpy(self._mask()).to(weight.device, weight.dtype),
            (0, weight.shape[-1] - self.size),
        )

    def _mask(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        module = np.arange(self.size) // (self.size // self.modules)
        return (module[:, None] >= module[None, :]).astype(np.float32)

    def of_units(self, values: Sequence[float], like: Tensor) -> Tensor:
        """Return one number of each module for each of its units."""
        units = np.repeat(np.asarray(values, dtype=np.float64), self.size // self.modules)
        return torch.from_numpy(units).to(like.device, like.dtype)

    def check(self, request: LayerRequest) -> None:
        if self.size % self.modules:
            raise request.error(
                f"the size of layer {self.name!r}, {self.size}, is no multiple of its "
                f"{self.modules} modules",
                "size",
            )


@dataclass(frozen=True, kw_only=True)
class Clockwork(_Modules):
    """Modules that change only at steps that are multiples of their periods (Koutník et al. 2014).

    A module reads those of its own and longer periods. Steps are counted from 0, in the order in
    which they are read.
    """

    takes: ClassVar[frozenset[str]] = Recurrent.takes | {"periods"}

    @property
    def periods(self) -> tuple[int, ...]:
        return tuple(sorted(self.spec.periods or ()))

    @property
    def modules(self) -> int:
        return len(self.periods)

    def check(self, request: LayerRequest) -> None:
        if not self.periods:
            raise request.error(
                f"layer {self.name!r} of form 'clockwork' needs `periods`, such as [1, 2, 4]",
                "periods",
            )
        super().check(request)

    def mixed(self, step: int, pre: Tensor, before: Tensor) -> Tensor:
        changes = [float(step % period == 0) for period in self.periods]
        return torch.where(self.of_units(changes, pre) > 0, pre, before)


@dataclass(frozen=True, kw_only=True)
class Blocked(_Modules):
    """Modules that change at rates of their own, from about 1 down to 1e-6.

    pre_t = r pre_(t-1) + (1 - r) (x_t xh + h_(t-1) hh + b), with r from 0 upwards: a module reads
    itself and slower ones.
    """

    takes: ClassVar[frozenset[str]] = Recurrent.takes | {"num_modules"}

    @property
    def modules(self) -> int:
        return self.spec.num_modules or 0

    def check(self, request: LayerRequest) -> None:
        if not self.modules:
            raise request.error(
                f"layer {self.name!r} of form 'bcrnn' needs `num_modules`", "num_modules"
            )
        super().check(request)

    def mixed(self, _step: int, pre: Tensor, before: Tensor) -> Tensor:
        kept = self.of_units((1 - np.logspace(-1e-4, -6, self.modules)).tolist(), pre)
        return kept * before + (1 - kept) * pre


@dataclass(frozen=True, kw_only=True)
class Rated(Recurrent):
    """h_t = (1 - z_t) h_(t-1) + z_t g(x_t xh + h_(t-1) hh + b), with rates z of one of four kinds.

    `matrix`: z_t = sigmoid(x_t xr + r); `vector`: z = sigmoid(r); `uniform` and `log`: fixed, drawn
    for the layer's name (the latter's logarithms are uniform, Jaeger et al. 2007). `hid` is the new
    state before it is mixed.
    """

    takes: ClassVar[frozenset[str]] = Recurrent.takes | {"rate"}
    kinds: ClassVar[tuple[str, ...]] = ("pre", "hid", "rate", "out")

    @property
    def rate(self) -> str:
        return self.spec.rate or "matrix"

    @property
    def own_parameters(self) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {
            "xh": (self.inner_size, self.size),
            "hh": (self.size, self.size),
            "b": (self.size,),
        }
        if self.rate in ("matrix", "vector"):
            shapes["r"] = (self.size,)
        if self.rate == "matrix":
            shapes["xr"] = (self.inner_size, self.size)
        return {**shapes, **self.activates.parameters}

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        rates = self._rates(x, weights)
        state = self.start(x, starts, "h_0")
        pres, hidden, outs = [], [], []
        drive = affine(x, weights["xh"], weights["b"], self.size).unbind(1)
        for step, (driven, rate) in enumerate(zip(drive, rates.unbind(1), strict=True)):
            state = self.cut(step, state)
            pre = driven + affine(state, weights["hh"], None, self.size)
            new = self.activates(pre, weights)
            state = (1 - rate) * state + rate * new
            pres.append(pre)
            hidden.append(new)
            outs.append(state)
        return {**stacked(pre=pres, hid=hidden, out=outs), "rate": rates}

    def _rates(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        if self.rate == "matrix":
            driven = affine(x, weights["xr"], None, self.size)
            return torch.sigmoid(driven + weights["r"])
        if self.rate == "vector":
            rates = torch.sigmoid(weights["r"])
        else:
            rates = fixed_rates(self.rate, self.name, self.size).to(x.device, x.dtype)
        return rates.expand(*x.shape[:2], self.size)


def fixed_rates(kind: str, layer: str, size: int) -> Tensor:
    """Return rates that are not learnt, the same for every network with a layer of that name."""
    draw = generator("rate", layer, kind)
    if kind == "uniform":
        return torch.from_numpy(draw.uniform(1e-4, 1 - 1e-4, size))
    return torch.from_numpy(np.exp(draw.uniform(-6, -1e-4, size)))


@dataclass(frozen=True, kw_only=True)
class Multiplicative(Recurrent):
    """h_t = g((x_t xf * h_(t-1) hf) fh + x_t xh + b) (Sutskever, Martens & Hinton 2011).

    `factors` are x_t xf.
    """

    takes: ClassVar[frozenset[str]] = Recurrent.takes | {"factors"}
    kinds: ClassVar[tuple[str, ...]] = ("pre", "factors", "out")

    @property
    def factors(self) -> int:
        return self.spec.factors or math.ceil(math.sqrt(self.size))

    def widths(self) -> Mapping[str, int]:
        return {"factors": self.factors}

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {
            "xh": (self.inner_size, self.size),
            "xf": (self.inner_size, self.factors),
            "hf": (self.size, self.factors),
            "fh": (self.factors, self.size),
            "b": (self.size,),
            **self.activates.parameters,
        }

    def check(self, request: LayerRequest) -> None:
        for key in ("diagonal", "radius"):
            if getattr(request.spec, key) is not None:
                raise request.error(
                    f"`{key}` is for square weights between states, which form 'mrnn' has not; "
                    "say it of single parameters in `initial`",
                    key,
                )

    def square_blocks(self, _local: str) -> int:
        return 0

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        factors = affine(x, weights["xf"], None, self.factors)
        state = self.start(x, starts, "h_0")
        pres, outs = [], []
        drive = affine(x, weights["xh"], weights["b"], self.size).unbind(1)
        for step, (driven, factor) in enumerate(zip(drive, factors.unbind(1), strict=True)):
            state = self.cut(step, state)
            mixed = factor * affine(state, weights["hf"], None, self.factors)
            pre = driven + affine(mixed, weights["fh"], None, self.size)
            state = self.activates(pre, weights)
            pres.append(pre)
            outs.append(state)
        return {**stacked(pre=pres, out=outs), "factors": factors}
