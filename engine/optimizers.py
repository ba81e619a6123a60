"""Optimizers over one flat buffer of parameters, by PyTorch's fused kernels where they exist."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.equilibration import EquilibratedSgd
from engine.errors import ArtifactError, SpecError
from engine.graph import Graph
from engine.parameters import Parameters
from engine.snapshots import copy_of
from engine.spec import (
    AdadeltaSpec,
    AdagradSpec,
    AdamSpec,
    EsgdSpec,
    NagSpec,
    OptimizerSpec,
    RmspropSpec,
    RpropSpec,
    SgdSpec,
)
from engine.spec.optimizers import rate_of

__all__ = ["Optimizer", "check_optimizer", "passes_per_step"]

_PIECEWISE_LINEAR = ("mae", "hinge")


def _keep_compiler_out() -> None:
    """Have optimizers not load PyTorch's compiler, which nothing here uses.

    Some of their methods import it when they are first called, only to be exempt from it; they ask
    for their exempt form under this name (`torch._compile._disable_dynamo`), and are that form as
    they are (`Optimizer` takes the bare step for the same reason). To import it takes about as long
    as PyTorch itself, in every worker that starts. In
    another version of PyTorch, which asks in another way, workers start later, and that is all.
    """
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if plain is not None:
            plain.__dict__.setdefault("__dynamo_disable", plain)


_keep_compiler_out()


def check_optimizer(spec: OptimizerSpec, graph: Graph) -> None:
    """Refuse an optimizer that the network's loss cannot be minimised by."""
    flat = [loss.form for loss in graph.losses if loss.form in _PIECEWISE_LINEAR]
    if isinstance(spec, EsgdSpec) and flat:
        raise SpecError(
            f"the optimizer 'esgd' divides by second derivatives, and those of the loss "
            f"{flat[0]!r} by the outputs are zero; take another loss, or another optimizer",
            pointer="#/optimizer/form",
        )


def passes_per_step(spec: OptimizerSpec) -> float:
    """Return about how many forward passes one step of training is worth."""
    return 7.0 if isinstance(spec, EsgdSpec) else 3.0


class Optimizer:
    """One optimizer of one network's parameters, with a state that can be saved to the bit."""

    def __init__(self, spec: OptimizerSpec, parameters: Parameters, *, seed: int) -> None:
        """Prepare to update `parameters`; what an optimizer draws is a function of the seed."""
        self._flat = torch.nn.Parameter(parameters.flat)
        self._flat.grad = parameters.gradient
        self._torch = _build(spec, self._flat, parameters, seed)
        # The bare step: what it is wrapped in is for compilers, profilers and hooks, which loads
        # PyTorch's compiler, and costs each step as much as a small network's update.
        self._step = inspect.unwrap(type(self._torch).step)

    @property
    def learning_rate(self) -> float:
        """Of the steps to come."""
        return float(self._torch.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._torch.param_groups[0]["lr"] = float(rate)

    def differentiate(self, loss: Tensor) -> None:
        """Put the gradient of `loss` into the parameters' buffer, which holds zeros."""
        if isinstance(self._torch, EquilibratedSgd):
            self._torch.differentiate(loss)
        else:
            loss.backward()  # type: ignore[no-untyped-call]

    def memory(self, names: Sequence[str]) -> tuple[list[Tensor], Tensor]:
        """Return the memories of these names, flat buffers for others to change, and their steps.

        They are begun where there are none: then they are zero.
        """
        memory = self._torch.state[self._flat]
        for name in names:
            if not isinstance(memory.get(name), Tensor):
                memory[name] = torch.zeros_like(self._flat, requires_grad=False)
        if "momentum_buffer" in names[:1] or not names:  # plain descent counts no steps
            return [memory[name] for name in names], torch.zeros(())
        if "step" not in memory:
            memory["step"] = torch.zeros(())
        return [memory[name] for name in names], memory["step"]

    def step(self) -> None:
        """Update the parameters in place from their gradient."""
        with torch.no_grad():
            self._step(self._torch)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the optimizer's memory on the host; empty before the first step."""
        memory = self._torch.state.get(self._flat, {})
        return {name: copy_of(value) for name, value in memory.items() if isinstance(value, Tensor)}

    def forget(self) -> None:
        """Begin anew, without any memory."""
        self._torch.state.clear()

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
        # Fused kernels want the number of steps beside the parameters, the others on the host.
        is_fused = bool(self._torch.defaults.get("fused"))
        self._torch.state[self._flat] = {
            name: value.to(self._flat.device if value.dim() or is_fused else "cpu", copy=True)
            for name, value in state.items()
        }


def _build(
    spec: OptimizerSpec, flat: torch.nn.Parameter, parameters: Parameters, seed: int
) -> torch.optim.Optimizer:
    rate = rate_of(spec)
    match spec:
        case EsgdSpec():
            return EquilibratedSgd(spec, flat, parameters, seed=seed)
        case SgdSpec():
            return torch.optim.SGD(
                [flat],
                lr=rate,
                momentum=spec.momentum,
                nesterov=spec.nesterov,
                fused=True,
            )
        case NagSpec():
            return torch.optim.SGD(
                [flat],
                lr=rate,
                momentum=spec.momentum,
                nesterov=True,
                fused=True,
            )
        case RpropSpec():
            return torch.optim.Rprop(
                [flat],
                lr=rate,
                etas=(spec.shrink, spec.grow),
                step_sizes=(spec.min_step, spec.max_step),
            )
        case AdagradSpec():
            return torch.optim.Adagrad([flat], lr=rate, eps=spec.epsilon)
        case AdadeltaSpec():
            return torch.optim.Adadelta([flat], lr=rate, rho=spec.decay, eps=spec.epsilon)
        case RmspropSpec():
            return torch.optim.RMSprop(
                [flat],
                lr=rate,
                alpha=spec.decay,
                eps=spec.epsilon,
                momentum=spec.momentum,
                centered=spec.centered,
            )
        case AdamSpec(form="adam"):
            return torch.optim.Adam(
                [flat],
                lr=rate,
                betas=(spec.beta1, spec.beta2),
                eps=spec.epsilon,
                fused=True,
            )
        case AdamSpec():
            decay = 0.01 if spec.weight_decay is None else spec.weight_decay
            return torch.optim.AdamW(
                [flat],
                lr=rate,
                betas=(spec.beta1, spec.beta2),
                eps=spec.epsilon,
                weight_decay=decay,
                fused=True,
            )
