"""Optimizers over one flat buffer of parameters, by PyTorch's fused kernels where they exist."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from engine.errors import ArtifactError
from engine.parameters import Parameters
from engine.spec import (
    AdadeltaSpec,
    AdagradSpec,
    AdamSpec,
    NagSpec,
    OptimizerSpec,
    RmspropSpec,
    RpropSpec,
    SgdSpec,
)

__all__ = ["Optimizer"]


class Optimizer:
    """One optimizer of one network's parameters, with a state that can be saved to the bit."""

    def __init__(self, spec: OptimizerSpec, parameters: Parameters) -> None:
        self._flat = torch.nn.Parameter(parameters.flat)
        self._flat.grad = parameters.gradient
        self._torch = _build(spec, self._flat)

    def step(self) -> None:
        """Update the parameters in place from their gradient."""
        self._torch.step()

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the optimizer's memory, by name; empty before the first step."""
        memory = self._torch.state.get(self._flat, {})
        return {
            name: value.detach().clone()
            for name, value in memory.items()
            if isinstance(value, Tensor)
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a copy that `state` returned."""
        if not state:
            return
        for name, value in state.items():
            if value.dim() and value.shape != self._flat.shape:
                raise ArtifactError(
                    f"the optimizer's {name!r} has {value.numel()} elements, "
                    f"the network {self._flat.numel()}"
                )
        self._torch.state[self._flat] = {name: value.clone() for name, value in state.items()}


def _build(spec: OptimizerSpec, flat: torch.nn.Parameter) -> torch.optim.Optimizer:
    match spec:
        case SgdSpec():
            return torch.optim.SGD(
                [flat],
                lr=spec.learning_rate,
                momentum=spec.momentum,
                nesterov=spec.nesterov,
                fused=True,
            )
        case NagSpec():
            return torch.optim.SGD(
                [flat],
                lr=spec.learning_rate,
                momentum=spec.momentum,
                nesterov=True,
                fused=True,
            )
        case RpropSpec():
            return torch.optim.Rprop([flat], lr=spec.learning_rate, etas=(spec.shrink, spec.grow))
        case AdagradSpec():
            return torch.optim.Adagrad([flat], lr=spec.learning_rate, eps=spec.epsilon)
        case AdadeltaSpec():
            return torch.optim.Adadelta(
                [flat], lr=spec.learning_rate, rho=spec.decay, eps=spec.epsilon
            )
        case RmspropSpec():
            return torch.optim.RMSprop(
                [flat],
                lr=spec.learning_rate,
                alpha=spec.decay,
                eps=spec.epsilon,
                momentum=spec.momentum,
            )
        case AdamSpec(form="adam"):
            return torch.optim.Adam(
                [flat],
                lr=spec.learning_rate,
                betas=(spec.beta1, spec.beta2),
                eps=spec.epsilon,
                fused=True,
            )
        case AdamSpec():
            decay = 0.01 if spec.weight_decay is None else spec.weight_decay
            return torch.optim.AdamW(
                [flat],
                lr=spec.learning_rate,
                betas=(spec.beta1, spec.beta2),
                eps=spec.epsilon,
                weight_decay=decay,
                fused=True,
            )
