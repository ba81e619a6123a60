"""Bidirectional layers: one recurrent layer from the first step on, another from the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.layers.gated import Gru, Lstm, Mut1, Scrn
from engine.layers.layer import Layer, LayerRequest, Shape
from engine.layers.recurrent import Blocked, Clockwork, Multiplicative, Rated, Recurrent, Simple
from engine.names import output_name, parameter_name

__all__ = ["WORKERS", "Bidirectional"]

WORKERS: Mapping[str, type[Recurrent]] = {
    "rnn": Simple,
    "rrnn": Rated,
    "mrnn": Multiplicative,
    "lstm": Lstm,
    "gru": Gru,
    "clockwork": Clockwork,
    "mut1": Mut1,
    "scrn": Scrn,
    "bcrnn": Blocked,
}
"""The recurrent forms, each of which may work in a bidirectional layer."""


@dataclass(frozen=True, kw_only=True)
class Bidirectional(Layer):
    """Two workers of half the size each, their outputs side by side (Graves et al. 2013).

    The workers' parameters are those of layers `NAME_fw` and `NAME_bw`, their outputs
    `NAME:fw_out`, `NAME:bw_out`, …; `out`, `pre` and `cell` are both workers' side by side.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"worker"}).union(
        *(worker.takes for worker in WORKERS.values())
    ) - {"direction"}

    workers: tuple[Recurrent, Recurrent]
    """The forward and the backward one."""

    @classmethod
    def build(cls, request: LayerRequest) -> Bidirectional:
        """Size both workers."""
        form = WORKERS[request.spec.worker or "rnn"]
        size = request.resolved_size(None if request.expected is None else request.expected[-1])
        if size % 2:
            raise request.error(
                f"the size of layer {request.name!r}, {size}, is odd; each way has half of it",
                "size",
            )
        replace(request, form=request.spec.worker or "rnn").check_keys(form.takes | {"worker"})
        made = []
        for way, direction in (("fw", "forward"), ("bw", "backwards")):
            spec = request.spec.model_copy(update={"size": size // 2, "direction": direction})
            name = f"{request.name}_{way}"
            if any(layer.name == name for layer in request.earlier):
                raise request.error(
                    f"there is a layer {name!r} already; name one otherwise", "name"
                )
            made.append(form.build(replace(request, name=name, spec=spec, expected=None)))
        forward, backward = made
        return cls(
            name=request.name,
            form=request.form,
            shape=(forward.shape[0], size),
            activation=forward.activation,
            inputs=forward.inputs,
            input_shapes=forward.input_shapes,
            workers=(forward, backward),
            spec=request.spec,
        )

    @property
    def has_activation(self) -> bool:
        return self.workers[0].has_activation

    @property
    def outputs(self) -> dict[str, Shape]:
        steps = self.shape[0]
        kinds = self.workers[0].kinds
        shapes: dict[str, Shape] = {}
        for way, worker in zip(("fw", "bw"), self.workers, strict=True):
            for kind in kinds:
                shape = worker.outputs[output_name(worker.name, kind)]
                shapes[output_name(self.name, f"{way}_{kind}")] = shape
        for kind in ("pre", "cell", "out"):
            if kind in kinds:
                shapes[output_name(self.name, kind)] = (steps, self.size)
        return shapes

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {
            f"{way}_{local}": shape
            for way, worker in zip(("fw", "bw"), self.workers, strict=True)
            for local, shape in worker.own_parameters.items()
        }

    def full_name(self, local: str) -> str:
        way, _, name = local.partition("_")
        return parameter_name(f"{self.name}_{way}", name)

    @property
    def flops_per_row(self) -> int:
        return sum(worker.flops_per_row for worker in self.workers)

    def threads(self, rows: int, most: int) -> int:
        return max(worker.threads(rows, most) for worker in self.workers)

    def fans(self, local: str) -> tuple[int, int]:
        worker, name = self._worker_of(local)
        return worker.fans(name)

    def square_blocks(self, local: str) -> int:
        worker, name = self._worker_of(local)
        return worker.square_blocks(name)

    def initial_value(self, local: str, seed: int) -> npt.NDArray[np.float32] | None:
        worker, name = self._worker_of(local)
        return worker.initial_value(name, seed)

    def _worker_of(self, local: str) -> tuple[Recurrent, str]:
        way, _, name = local.partition("_")
        return self.workers[way == "bw"], name

    def compute(self, inputs: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for way, worker in zip(("fw", "bw"), self.workers, strict=True):
            own = {
                local.partition("_")[2]: weight
                for local, weight in weights.items()
                if local.startswith(way)
            }
            for name, value in worker.compute(inputs, own).items():
                kind = name.removeprefix(f"{worker.name}:")
                values[output_name(self.name, f"{way}_{kind}")] = value
        for kind in ("pre", "cell", "out"):
            if kind in self.workers[0].kinds:
                both = [values[output_name(self.name, f"{way}_{kind}")] for way in ("fw", "bw")]
                values[output_name(self.name, kind)] = torch.cat(both, dim=-1)
        return values
