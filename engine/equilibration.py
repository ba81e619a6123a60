"""Equilibrated gradient descent: steps scaled by the size of the Hessian's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.parameters import Parameters
from engine.spec import EsgdSpec
from engine.streams import generator

__all__ = ["EquilibratedSgd"]


class EquilibratedSgd(torch.optim.Optimizer):
    """ESGD (Dauphin, de Vries & Bengio 2015, algorithm 1) over one flat buffer of parameters.

    In every step v is drawn from a standard normal distribution, as a function of the seed and the
    step, and D, a running mean of (H v)^2 corrected for its start at 0, estimates the squared norm
    of each row of the Hessian H; the step is -learning_rate g / (sqrt(D) + epsilon). With `decay`
    towards 1 D is the plain mean of the paper.
    """

    def __init__(
        self, spec: EsgdSpec, flat: torch.nn.Parameter, parameters: Parameters, *, seed: int
    ) -> None:
        super().__init__([flat], {})
        self._spec = spec
        self._flat = flat
        self._parameters = parameters
        self._seed = seed
        self._product = torch.zeros_like(flat, requires_grad=False)

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of `loss` into the parameters' buffer, and keep H v for the step.

        Needs derivatives of second order of everything that `loss` was computed by.
        """
        views = list(self._parameters.views.values())
        memory = self._memory()
        draw = generator(self._seed, "esgd", int(memory["step"].item()))
        v = torch.from_numpy(draw.standard_normal(len(self._flat), dtype="float32"))
        directions = self._parameters.like(v.to(self._flat.device))
        gradients = torch.autograd.grad(loss, views, create_graph=True, materialize_grads=True)
        along = torch.stack(
            [
                (gradient * direction).sum()
                for gradient, direction in zip(gradients, directions, strict=True)
            ]
        ).sum()
        products: Sequence[Tensor] = [torch.zeros_like(view) for view in views]
        if along.requires_grad:
            products = torch.autograd.grad(along, views, materialize_grads=True)
        for view, gradient in zip(views, gradients, strict=True):
            assert view.grad is not None
            view.grad.copy_(gradient.detach())
        for kept, product in zip(self._parameters.like(self._product), products, strict=True):
            kept.copy_(product)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters in place, by the gradient as it stands in their buffer."""
        spec, memory = self._spec, self._memory()
        memory["step"] += 1
        squares = memory["squares"]
        squares.mul_(spec.decay).addcmul_(self._product, self._product, value=1 - spec.decay)
        mean = squares / (1 - spec.decay ** memory["step"].item())
        scaled = self._parameters.gradient / (mean.sqrt_() + spec.epsilon)
        if spec.momentum:
            velocity = memory["velocity"].mul_(spec.momentum).add_(scaled)
            scaled = scaled.add_(velocity, alpha=spec.momentum) if spec.nesterov else velocity
        self._flat.sub_(scaled, alpha=spec.learning_rate)

    def _memory(self) -> Mapping[str, Tensor]:
        """Return what is kept between steps; made at the first."""
        memory: dict[str, Tensor] = self.state[self._flat]
        if not memory:
            memory["step"] = torch.zeros((), dtype=torch.int64)
            memory["squares"] = torch.zeros_like(self._product)
            if self._spec.momentum:
                memory["velocity"] = torch.zeros_like(self._product)
        return memory
