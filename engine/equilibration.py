"""Equilibrated gradient descent: steps scaled by the size of the Hessian's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.parameters import Parameters
from engine.spec import EsgdSpec
from engine.streams import generator

__all__ = ["EquilibratedSgd"]

_FIRST_DRAWS = 20


class EquilibratedSgd(torch.optim.Optimizer):
    """ESGD (Dauphin, de Vries & Bengio 2015, algorithm 1) over one flat buffer of parameters.

    In every step v is drawn from a standard normal distribution, as a function of the seed and the
    number of the draw, and D, a running mean of (H v)^2 corrected for its start at 0, estimates the
    squared norm of each row of the Hessian H; the step is -learning_rate g / (sqrt(D) + epsilon).
    With `decay` towards 1 D is the plain mean of the paper. The first step draws several times: the
    square of a single normal number is often so near 0 that the step would be far too long.
    """

    def __init__(
        self, spec: EsgdSpec, flat: torch.nn.Parameter, parameters: Parameters, *, seed: int
    ) -> None:
        super().__init__([flat], {})
        self._spec = spec
        self._flat = flat
        self._parameters = parameters
        self._seed = seed

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of `loss` into the parameters' buffer, and add to the mean of (H v)^2.

        Needs derivatives of second order of everything that `loss` was computed by.
        """
        views = list(self._parameters.views.values())
        gradients = torch.autograd.grad(loss, views, create_graph=True, materialize_grads=True)
        memory = self._memory()
        first = int(memory["draws"].item())
        for draw in range(first, max(first + 1, _FIRST_DRAWS)):
            product = self._product(gradients, views, draw)
            memory["squares"].lerp_(product.square_(), 1 - self._spec.decay)
            memory["draws"] += 1
        for view, gradient in zip(views, gradients, strict=True):
            assert view.grad is not None
            view.grad.copy_(gradient.detach())

    def _product(self, gradients: Sequence[Tensor], views: Sequence[Tensor], draw: int) -> Tensor:
        """Return the Hessian's product with one random vector, as a flat buffer."""
        normal = generator(self._seed, "esgd", draw).standard_normal(
            len(self._flat), dtype=np.float32
        )
        v = self._parameters.like(torch.from_numpy(normal).to(self._flat.device))
        along = torch.stack(
            [(gradient * part).sum() for gradient, part in zip(gradients, v, strict=True)]
        ).sum()
        result = torch.zeros_like(self._flat, requires_grad=False)
        if along.requires_grad:
            products = torch.autograd.grad(along, views, retain_graph=True, materialize_grads=True)
            for part, product in zip(self._parameters.like(result), products, strict=True):
                part.copy_(product)
        return result

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters in place, by the gradient as it stands in their buffer."""
        spec, memory = self._spec, self._memory()
        mean = memory["squares"] / (1 - spec.decay ** memory["draws"].item())
        scaled = self._parameters.gradient / (mean.sqrt_() + spec.epsilon)
        if spec.momentum:
            velocity = memory["velocity"].mul_(spec.momentum).add_(scaled)
            scaled = scaled.add_(velocity, alpha=spec.momentum) if spec.nesterov else velocity
        self._flat.sub_(scaled, alpha=self.param_groups[0]["lr"])

    def _memory(self) -> Mapping[str, Tensor]:
        """Return what is kept between steps; made at the first."""
        memory: dict[str, Tensor] = self.state[self._flat]
        if not memory:
            memory["draws"] = torch.zeros((), dtype=torch.int64)
            memory["squares"] = torch.zeros_like(self._flat, requires_grad=False)
            if self._spec.momentum:
                memory["velocity"] = torch.zeros_like(self._flat, requires_grad=False)
        return memory
