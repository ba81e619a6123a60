"""Feedforward layers: an affine map and an activation; with weights of its own or a partner's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from engine.layers.layer import Layer, LayerRequest, Shape, affine, shown
from engine.names import output_name, parameter_name

__all__ = ["Feedforward", "Tied"]


@dataclass(frozen=True, kw_only=True)
class Feedforward(Layer):
    """``pre = b + sum_i x_i w_i`` and ``out = activation(pre)``, for each row or step."""

    takes: ClassVar[frozenset[str]] = frozenset(
        {"activation", "mean", "std", "sparsity", "diagonal", "radius"}
    )

    @classmethod
    def build(cls, request: LayerRequest) -> Feedforward:
        """Size a layer of form `ff` or `softmax`."""
        activation = request.resolved_activation()
        for name, shape in request.inputs.items():
            if len(shape) > 2:
                raise request.error(
                    f"layer {request.name!r} reads numbers or sequences, but {name!r} is an image "
                    f"of {shown(shape)}; put a layer of form 'flatten' between",
                )
        if len({shape[:-1] for shape in request.input_shapes}) > 1:
            raise request.error(
                f"layer {request.name!r} reads inputs of the same number of steps, not of "
                + ", ".join(f"{shown(s)} ({n})" for n, s in request.inputs.items()),
                "inputs",
            )
        expected = None if request.expected is None else request.expected[-1]
        return cls(
            name=request.name,
            form=request.form,
            shape=(*request.input_shapes[0][:-1], request.resolved_size(expected)),
            activation=activation,
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
        names = ("w",) if len(self.inputs) == 1 else tuple(f"w_{name}" for name in self.inputs)
        weights = {
            name: (shape[-1], self.size)
            for name, shape in zip(names, self.input_shapes, strict=True)
        }
        return {**weights, "b": (self.size,), **self.activates.parameters}

    def fans(self, _local: str) -> tuple[int, int]:
        return sum(shape[-1] for shape in self.input_shapes), self.size

    @property
    def flops_per_row(self) -> int:
        steps = self.shape[0] if len(self.shape) == 2 else 1
        return 2 * steps * sum(shape[-1] for shape in self.input_shapes) * self.size

    def compute(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        matrices = [weight for name, weight in weights.items() if name.startswith("w")]
        pre = affine(inputs[0], matrices[0], weights["b"], self.size)
        for x, weight in zip(inputs[1:], matrices[1:], strict=True):
            pre = pre + affine(x, weight, None, self.size)
        return {self.pre: pre, self.out: self.activates(pre, weights)}


@dataclass(frozen=True, kw_only=True)
class Tied(Feedforward):
    """A feedforward layer with the transposed weights of an earlier one, and a bias of its own."""

    takes: ClassVar[frozenset[str]] = frozenset({"activation", "partner"})

    @classmethod
    def build(cls, request: LayerRequest) -> Tied:
        """Find the partner, and take its number of inputs for the size."""
        activation = request.resolved_activation()
        partner = _partner(request)
        if len(partner.inputs) > 1 or len(request.inputs) > 1:
            raise request.error("a tied layer and its partner read one input each")
        ((name, shape),) = request.inputs.items()
        if shape[-1] != partner.size or len(shape) > 2:
            raise request.error(
                f"layer {request.name!r} is tied to {partner.name!r}, so it reads {partner.size} "
                f"values, but {name!r} has {shown(shape)}",
            )
        size = request.agreed_size(
            request.spec.size,
            partner.input_shapes[0][-1],
            what=f"inputs of its partner {partner.name!r}",
        )
        return cls(
            name=request.name,
            form=request.form,
            shape=(*shape[:-1], size),
            activation=activation,
            inputs=request.input_names,
            input_shapes=request.input_shapes,
            partner=partner.name,
            spec=request.spec,
        )

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {"b": (self.size,), **self.activates.parameters}

    @property
    def used_parameters(self) -> dict[str, Shape]:
        weight = parameter_name(self.partner or "", "w")
        return {weight: (self.size, self.input_shapes[0][-1]), **self.parameters}

    @property
    def sources(self) -> dict[str, str]:
        return {"w": parameter_name(self.partner or "", "w"), **super().sources}

    def bound(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weight = parameters[parameter_name(self.partner or "", "w")]
        return {"w": weight.T, **super().bound(parameters)}


def _partner(request: LayerRequest) -> Layer:
    """Find a tied layer's partner: the named one, else the one it mirrors.

    Walking back, each tied layer must first be matched by an untied one, as in theanets, so that
    the layers of a deep autoencoder pair up like brackets.
    """
    affine_layers = [layer for layer in request.earlier if isinstance(layer, Feedforward)]
    if request.spec.partner is not None:
        owners = [layer for layer in affine_layers if not isinstance(layer, Tied)]
        for layer in owners:
            if layer.name == request.spec.partner:
                return layer
        raise request.error(
            f"there is no earlier layer {request.spec.partner!r} with weights to tie to; "
            f"these exist: {', '.join(layer.name for layer in owners) or 'none'}",
            "partner",
        )
    open_ties = 1
    for layer in reversed(affine_layers):
        open_ties += 1 if isinstance(layer, Tied) else -1
        if open_ties == 0:
            return layer
    raise request.error("a tied layer needs an earlier layer with weights to mirror; none is left")
