"""What every form of layer says of itself: shapes, outputs, parameters, and what it computes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.activations import Activation
from engine.errors import SpecError
from engine.names import output_name, parameter_name
from engine.spec import Form, LayerSpec
from engine.streams import generator

__all__ = ["Layer", "LayerRequest", "Shape", "affine", "layer_pointer", "shown"]

Shape = tuple[int, ...]
"""Of one row: ``(size,)``, ``(steps, size)`` or, of an image, ``(channels, height, width)``."""

_INITIAL = ("mean", "std", "sparsity", "diagonal", "radius")


def layer_pointer(index: int, field: str | None = None) -> str:
    base = f"#/network/layers/{index}"
    return base if field is None else f"{base}/{field}"


def shown(shape: Shape) -> str:
    """Return a row's shape as messages show it: ``10``, or ``50 x 3``."""
    return " x ".join(map(str, shape))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One resolved layer; each form of layers is a subclass.

    A form with an activation adds `activates.parameters` to its `own_parameters`, and computes
    ``self.activates(pre, weights)`` with the weights that it is given; where it has an
    `initial_value` of its own, it leaves the names that it does not know to its base's.
    """

    name: str
    form: str
    shape: Shape
    """Of its `out`, for one row."""
    activation: str = "linear"
    inputs: tuple[str, ...] = ()
    """Names of the outputs it reads."""
    input_shapes: tuple[Shape, ...] = ()
    partner: str | None = None
    """The layer whose weights it uses, transposed."""
    spec: LayerSpec = field(default_factory=LayerSpec, compare=False)
    """What was asked for: further keys of the form, and how its weights begin."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """Keys of a spec, beside form, name, size and inputs, that this form has a use for."""

    @classmethod
    def build(cls, request: LayerRequest) -> Layer:
        """Resolve a layer; raises SpecError, with a pointer, where it does not fit its inputs."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Width of its outputs: numbers of a row or step, or channels of an image."""
        return self.shape[0] if len(self.shape) == 3 else self.shape[-1]

    @property
    def has_activation(self) -> bool:
        """Whether its spec may name one."""
        return "activation" in self.takes

    @property
    def out(self) -> str:
        return output_name(self.name, "out")

    @property
    def outputs(self) -> dict[str, Shape]:
        """Shapes of its outputs for one row, by full name, in the order they are computed."""
        return {self.out: self.shape}

    @property
    def parameters(self) -> dict[str, Shape]:
        """Shapes of the parameters that it owns, by full name; a matrix is inputs x outputs."""
        return {self.full_name(local): shape for local, shape in self.own_parameters.items()}

    def full_name(self, local: str) -> str:
        """Return a parameter's name in the network, such as ``hid1.w``."""
        return parameter_name(self.name, local)

    @property
    def used_parameters(self) -> dict[str, Shape]:
        """Shapes of all parameters that `bound` reads, by full name: its own, or a partner's."""
        return self.parameters

    @property
    def sources(self) -> dict[str, str]:
        """Which parameter, by full name, each tensor that `bound` returns is arranged from."""
        return {local: self.full_name(local) for local in self.own_parameters}

    @property
    def own_parameters(self) -> dict[str, Shape]:
        """Shapes of its parameters by their names within the layer, such as ``w`` and ``b``."""
        return {}

    @property
    def flops_per_row(self) -> int:
        """Floating-point operations of its products for one row."""
        return 0

    def threads(self, _rows: int, _most: int) -> int:
        """Return how many threads it takes of so many, in training by batches of so many rows."""
        return 1

    @cached_property
    def activates(self) -> Activation:
        """Its activation: a function of `pre`, (rows, *shape), and of the layer's weights."""
        axis = 1 if len(self.shape) == 3 else -1
        return Activation(name=self.activation, size=self.size, axis=axis)

    def initial_value(self, local: str, seed: int) -> npt.NDArray[np.float32] | None:
        """Return how a parameter begins where it has its own way; None for the usual one."""
        if local not in self.activates.parameters:
            return None
        return self.activates.begin(local, generator(seed, "parameter", self.full_name(local)))

    def fans(self, local: str) -> tuple[int, int]:
        """Return how many numbers each output of a weight sums up, and each input feeds."""
        shape = self.own_parameters[local]
        return shape[0], shape[-1]

    def square_blocks(self, _local: str) -> int:
        """Return of how many square matrices side by side one between states consists, else 1.

        Each of them begins with the layer's `diagonal` or `radius`; of 0 blocks none does.
        """
        return 1

    def bound(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that `compute` takes, out of all of the network's by full name.

        Matrices are inputs x outputs; gradients flow through what is returned.
        """
        return {local: parameters[self.full_name(local)] for local in self.own_parameters}

    def compute(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return its outputs by full name, each (rows, *shape), of inputs (rows, *shape).

        `weights` are what `bound` returned; matrices and biases may be padded with zero columns,
        which `affine` cuts off.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LayerRequest:
    """What a layer is resolved from: its spec, and what stands before it."""

    spec: LayerSpec
    index: int
    name: str
    form: str
    network_form: Form
    is_last: bool
    inputs: Mapping[str, Shape]
    """Shapes of the outputs that it reads, by name."""
    expected: Shape | None
    """What the data want of the last layer; None elsewhere, and without data."""
    earlier: tuple[Layer, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        return tuple(self.inputs.values())

    def error(self, detail: str, field: str | None = None) -> SpecError:
        return SpecError(detail, pointer=layer_pointer(self.index, field))

    def check_keys(self, takes: frozenset[str]) -> None:
        """Refuse keys that mean nothing for a layer of this form."""
        for key in LayerSpec.model_fields:
            if key in ("form", "name", "size", "inputs", "initial") or key in takes:
                continue
            if getattr(self.spec, key) is not None:
                is_for_matrices = key in _INITIAL and "std" in takes
                detail = (
                    f"`{key}` is for matrices; the weights of form {self.form!r} are filters"
                    if is_for_matrices
                    else self._needless(key)
                )
                raise self.error(detail, key)

    def check_initial(self, layer: Layer) -> None:
        """Refuse to say how parameters begin that the resolved layer has not, or not so."""
        shapes = layer.own_parameters
        for name, initial in (self.spec.initial or {}).items():
            if name not in shapes:
                raise self.error(
                    f"layer {self.name!r} has no parameter {name!r} of its own; it has "
                    f"{', '.join(shapes) or 'none'}",
                    f"initial/{name}",
                )
            for key in ("diagonal", "radius"):
                if getattr(initial, key) is not None and len(shapes[name]) != 2:
                    raise self.error(
                        f"`{key}` is for matrices; {name!r} of layer {self.name!r} is "
                        f"{shown(shapes[name])}",
                        f"initial/{name}/{key}",
                    )
            std = self.spec.std if initial.std is None else initial.std
            mean = self.spec.mean if initial.mean is None else initial.mean
            if initial.radius and std == 0 and not mean:
                raise self.error(
                    f"{name!r} of layer {self.name!r} begins as zeros, which have no radius",
                    f"initial/{name}/radius",
                )

    def _needless(self, key: str) -> str:
        if key in _INITIAL:
            return f"a layer of form {self.form!r} has no weights of its own to begin with"
        if key == "activation":
            return (
                f"a layer of form {self.form!r} has no activation; put a layer of form 'ff' "
                "behind it"
            )
        if key == "partner":
            return "`partner` is for layers of form 'tied'"
        return f"a layer of form {self.form!r} takes no `{key}`"

    def only_input(self, *, dimensions: Sequence[int], what: str) -> tuple[str, Shape]:
        """Return the one input, with its shape, which has one of these numbers of dimensions."""
        if len(self.inputs) > 1:
            raise self.error(
                f"layer {self.name!r} of form {self.form!r} reads one input, not "
                f"{len(self.inputs)}; put a layer of form 'concatenate' before it",
                "inputs",
            )
        ((name, shape),) = self.inputs.items()
        if len(shape) not in dimensions:
            raise self.error(
                f"layer {self.name!r} of form {self.form!r} reads {what}, but {name!r} is "
                f"{shown(shape)} for each row",
            )
        return name, shape

    def output(self, name: str, key: str) -> tuple[str, Shape]:
        """Return an earlier output that a key names, with its shape."""
        full = name if ":" in name else output_name(name, "out")
        outputs = {n: shape for layer in self.earlier for n, shape in layer.outputs.items()}
        if full not in outputs:
            raise self.error(
                f"no earlier layer has the output {full!r}; there are {', '.join(outputs)}", key
            )
        return full, outputs[full]

    def resolved_activation(self) -> str:
        """Return the activation asked for, or the usual one: `relu`, of the last layer `linear`.

        A classifier's last layer, and one of form `softmax`, has softmax.
        """
        given = self.spec.activation
        if self.form == "softmax" or (self.is_last and self.network_form == "classifier"):
            if given not in (None, "softmax"):
                raise self.error(
                    f"a classifier layer's activation is softmax, got {given!r}", "activation"
                )
            return "softmax"
        return given or ("linear" if self.is_last else "relu")

    def refuse_classifier(self) -> None:
        """Refuse a classifier's last layer of a form that has no softmax."""
        if self.is_last and self.network_form == "classifier":
            raise self.error(
                "a classifier's last layer has weights and softmax; put one behind this", "form"
            )

    def resolved_size(self, inferred: int | None = None, what: str = "outputs") -> int:
        """Return the size that was given, or else what it must be."""
        if self.spec.size is None and inferred is None and not self.is_last:
            raise self.error(
                f"layer {self.name!r} needs a `size`; only the first and the last are inferred",
                "size",
            )
        return self.agreed_size(self.spec.size, inferred, what=what)

    def agreed_size(self, given: int | None, inferred: int | None, *, what: str) -> int:
        if given is None and inferred is None:
            raise self.error("a `size` is needed here; there are no data to infer it from", "size")
        if given is not None and inferred is not None and given != inferred:
            raise self.error(
                f"`size` is {given}, but there are {inferred} {what}; give {inferred} or null",
                "size",
            )
        size = given if given is not None else inferred
        assert size is not None
        return size


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, size: int) -> Tensor:
    """Return ``x w + b``, (rows, …, size), of x (rows, …, inputs).

    `weight` is (inputs, columns), `bias` (columns,), with columns >= size: what stands beyond is
    padding. A weight of each row's own is (rows, inputs, columns).
    """
    if weight.dim() == 3:
        flat = x.reshape(len(x), -1, x.shape[-1])
        product = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias, flat, weight)
    else:
        flat = x.reshape(-1, x.shape[-1])
        product = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
    product = product.reshape(*x.shape[:-1], product.shape[-1])
    # A slice of everything, too, would be copied into zeros on the way back, at every step.
    return product if product.shape[-1] == size else product[..., :size]


def elements(shape: Shape) -> int:
    """Return how many numbers a row of that shape has."""
    return math.prod(shape)
