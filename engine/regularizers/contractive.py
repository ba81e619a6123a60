"""Penalties on how fast hidden outputs change with the network's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.graph import Graph

__all__ = ["ContractivePenalty"]


@dataclass(frozen=True, kw_only=True)
class ContractivePenalty:
    """`weight` times the squared Frobenius norm of the Jacobian of outputs by inputs.

    The mean over the batch's rows and over the matched outputs (Rifai et al. 2011, equation 1):
    weight / M * sum_m mean_rows ||d z_m / d x||_F^2, where z_m are the outputs as their readers see
    them, dropped and noisy, and x the inputs before any dropout and noise.
    """

    pattern: str | None
    """None where no single glob says which they are: see `matched`."""
    wrt: str
    weight: float
    matched: tuple[str, ...]
    inputs: tuple[str, ...]
    """Outputs of the input layers by which outputs are derived."""
    form: str = "contractive"
    rng: None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The outputs whose values the term needs."""
        return self.matched

    def loss(
        self,
        _parameters: Mapping[str, Tensor],
        outputs: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor],
    ) -> Tensor:
        """Return the weighted term, a scalar through which gradients flow.

        `inputs` are leaves that require gradients, and that `outputs` were computed from.
        """
        leaves = [inputs[name] for name in self.inputs]
        terms = [_squared_jacobian(outputs[name], leaves) for name in self.matched]
        return torch.stack(terms).mean() * self.weight

    def jacobian_bytes(self, graph: Graph, rows: int) -> int:
        """Return about how much memory the derivatives of a batch take."""
        width = sum(graph.size_of(name) for name in self.inputs)
        return 8 * rows * width * sum(graph.size_of(name) for name in self.matched)

    def log(self) -> str:
        """Describe the regularizer as theanets logged it."""
        aim = self.pattern or ",".join(self.matched)
        return f"regularizer: {self.weight:g} * Contractive({aim} wrt {self.wrt})"


def _squared_jacobian(values: Tensor, leaves: list[Tensor]) -> Tensor:
    """Return the mean over rows of ||d values / d leaves||_F^2.

    A row's outputs depend on that row's inputs alone, so the derivative of an output's sum over the
    rows holds each row's own.
    """
    totals = values.flatten(1).sum(dim=0)
    if not totals.requires_grad:
        return values.new_zeros(())
    derivatives = torch.autograd.grad(
        totals,
        leaves,
        grad_outputs=torch.eye(len(totals), device=totals.device, dtype=totals.dtype),
        is_grads_batched=True,
        create_graph=True,
        materialize_grads=True,
    )
    squares = torch.stack([derivative.square().sum() for derivative in derivatives]).sum()
    return squares / len(values)
