"""Gated recurrent layers: LSTM, GRU, MUT1 and SCRN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.kernels.recurrence import lstm_scan, scan_threads, scans_lstm
from engine.layers.layer import LayerRequest, Shape, affine
from engine.layers.recurrent import Kinds, Recurrent, States, fixed_rates, stacked

__all__ = ["Gru", "Lstm", "Mut1", "Scrn"]


@dataclass(frozen=True, kw_only=True)
class Lstm(Recurrent):
    """Long short-term memory with peepholes (Graves 2013, equations 7 to 11).

    The columns of `xh`, `hh` and `b` stand for the input gate, the forget gate, the cell and the
    output gate; `ci`, `cf` and `co` are the diagonals of the peepholes. The forget gate's bias
    begins at 1 (Jozefowicz et al. 2015), all others at 0. `cell` is the cell's value.
    """

    takes: ClassVar[frozenset[str]] = (Recurrent.takes | {"c_0"}) - {"activation"}
    state_keys: ClassVar[tuple[str, ...]] = ("h_0", "c_0")
    kinds: ClassVar[tuple[str, ...]] = ("cell", "out")

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {
            "xh": (self.inner_size, 4 * self.size),
            "hh": (self.size, 4 * self.size),
            "b": (4 * self.size,),
            **{peephole: (self.size,) for peephole in ("ci", "cf", "co")},
        }

    def initial_value(self, local: str, seed: int) -> npt.NDArray[np.float32] | None:
        if local != "b":
            return super().initial_value(local, seed)
        bias = np.zeros(4 * self.size, dtype=np.float32)
        bias[self.size : 2 * self.size] = 1
        return bias

    def threads(self, rows: int, most: int) -> int:
        steps, inputs = self.input_shapes[0]
        return scan_threads(rows=rows, steps=steps, inputs=inputs, size=self.size, most=most)

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        if scans_lstm(x, weights, starts):
            out, cell = lstm_scan(x, weights, starts, limit=self.spec.bptt_limit)
            return {"cell": cell, "out": out}
        state, cell = self.start(x, starts, "h_0"), self.start(x, starts, "c_0")
        peep_in, peep_forget, peep_out = (row_vector(weights[name]) for name in ("ci", "cf", "co"))
        outs, cells = [], []
        drive = affine(x, weights["xh"], weights["b"], 4 * self.size).unbind(1)
        for step, driven in enumerate(drive):
            state, cell = self.cut(step, state), self.cut(step, cell)
            gates = driven + affine(state, weights["hh"], None, 4 * self.size)
            enters, forgets, new, leaves = gates.chunk(4, dim=-1)
            kept = torch.sigmoid(torch.addcmul(forgets, cell, peep_forget)) * cell
            entered = torch.sigmoid(torch.addcmul(enters, cell, peep_in)) * torch.tanh(new)
            cell = kept + entered
            state = torch.sigmoid(torch.addcmul(leaves, cell, peep_out)) * torch.tanh(cell)
            outs.append(state)
            cells.append(cell)
        return stacked(cell=cells, out=outs)


def row_vector(weight: Tensor) -> Tensor:
    """Return a vector so that it broadcasts against (rows, size)."""
    return weight if weight.dim() > 1 else weight.unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class Gru(Recurrent):
    """Gated recurrent unit (Chung et al. 2014), with a bias of the hidden state.

    r_t = sigmoid(x_t w_r + h_(t-1) hr + b_r), z_t = sigmoid(x_t w_z + h_(t-1) hz + b_z),
    hid_t = g(x_t w_h + (r_t h_(t-1)) hh + b_h) and h_t = (1 - z_t) h_(t-1) + z_t hid_t. The columns
    of `w` and `b` stand for h, r and z; `rate` is z.
    """

    kinds: ClassVar[tuple[str, ...]] = ("pre", "hid", "rate", "out")

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {
            "w": (self.inner_size, 3 * self.size),
            **{name: (self.size, self.size) for name in ("hh", "hr", "hz")},
            "b": (3 * self.size,),
            **self.activates.parameters,
        }

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        state = self.start(x, starts, "h_0")
        steps: dict[str, list[Tensor]] = {kind: [] for kind in self.kinds}
        drive = affine(x, weights["w"], weights["b"], 3 * self.size).unbind(1)
        for step, driven in enumerate(drive):
            state = self.cut(step, state)
            own, reset, rate = driven.chunk(3, dim=-1)
            reset = torch.sigmoid(reset + affine(state, weights["hr"], None, self.size))
            rate = torch.sigmoid(rate + affine(state, weights["hz"], None, self.size))
            pre = own + affine(reset * state, weights["hh"], None, self.size)
            new = self.activates(pre, weights)
            state = (1 - rate) * state + rate * new
            for kind, value in (("pre", pre), ("hid", new), ("rate", rate), ("out", state)):
                steps[kind].append(value)
        return stacked(**steps)


@dataclass(frozen=True, kw_only=True)
class Mut1(Recurrent):
    """The mutated gated unit MUT1 (Jozefowicz, Zaremba & Sutskever 2015).

    r_t = sigmoid(x_t xr + h_(t-1) hr + br), z_t = sigmoid(x_t xz + bz),
    hid_t = tanh(tanh(x_t xh) + (r_t h_(t-1)) hh + bh) and h_t = (1 - z_t) h_(t-1) + z_t hid_t;
    `rate` is z.
    """

    takes: ClassVar[frozenset[str]] = Recurrent.takes - {"activation"}
    kinds: ClassVar[tuple[str, ...]] = ("pre", "hid", "rate", "out")

    @property
    def own_parameters(self) -> dict[str, Shape]:
        return {
            **{name: (self.inner_size, self.size) for name in ("xh", "xr", "xz")},
            **{name: (self.size, self.size) for name in ("hh", "hr")},
            **{name: (self.size,) for name in ("bh", "br", "bz")},
        }

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        state = self.start(x, starts, "h_0")
        rates = torch.sigmoid(affine(x, weights["xz"], weights["bz"], self.size))
        entering = torch.tanh(affine(x, weights["xh"], None, self.size)).unbind(1)
        resets = affine(x, weights["xr"], weights["br"], self.size).unbind(1)
        bias = weights["bh"][..., : self.size]
        pres, hidden, outs = [], [], []
        for step, rate in enumerate(rates.unbind(1)):
            state = self.cut(step, state)
            reset = torch.sigmoid(resets[step] + affine(state, weights["hr"], None, self.size))
            driven = affine(reset * state, weights["hh"], None, self.size)
            pre = entering[step] + driven + bias
            new = torch.tanh(pre)
            state = (1 - rate) * state + rate * new
            pres.append(pre)
            hidden.append(new)
            outs.append(state)
        return {**stacked(pre=pres, hid=hidden, out=outs), "rate": rates}


@dataclass(frozen=True, kw_only=True)
class Scrn(Recurrent):
    """Structurally constrained recurrent network (Mikolov et al. 2015), with a bias of the output.

    s_t = (1 - r) s_(t-1) + r (x_t w_s), h_t = sigmoid(x_t w_h + h_(t-1) hh + s_t sh) and
    out_t = g(h_t ho + s_t so + b). The columns of `w` stand for h and for the slow context s, which
    has `context_size` units; `state` is s, `hid` is h, and rates are sigmoid(r), or fixed.
    """

    takes: ClassVar[frozenset[str]] = Recurrent.takes | {"rate", "context_size", "s_0"}
    state_keys: ClassVar[tuple[str, ...]] = ("h_0", "s_0")
    kinds: ClassVar[tuple[str, ...]] = ("hid", "state", "rate", "out")

    @property
    def context(self) -> int:
        given = self.spec.context_size
        if given is None:
            return int(1 + math.sqrt(self.size))
        return max(1, int(given * self.size)) if isinstance(given, float) else given

    def check(self, request: LayerRequest) -> None:
        if self.spec.rate == "matrix":
            raise request.error("the rates of form 'scrn' are 'vector', 'uniform' or 'log'", "rate")

    def state_size(self, key: str) -> int:
        return self.context if key == "s_0" else self.size

    def widths(self) -> Mapping[str, int]:
        return {"state": self.context, "rate": self.context}

    @property
    def own_parameters(self) -> dict[str, Shape]:
        learnt: dict[str, Shape] = {"r": (self.context,)} if self._learns_rates else {}
        return {
            "w": (self.inner_size, self.size + self.context),
            "sh": (self.context, self.size),
            "hh": (self.size, self.size),
            "ho": (self.size, self.size),
            "so": (self.context, self.size),
            "b": (self.size,),
            **learnt,
            **self.activates.parameters,
        }

    @property
    def _learns_rates(self) -> bool:
        return self.spec.rate in (None, "vector")

    def square_blocks(self, local: str) -> int:
        return int(local == "hh")

    def scan(self, x: Tensor, weights: Mapping[str, Tensor], starts: States) -> Kinds:
        hidden, state = self.start(x, starts, "h_0"), self.start(x, starts, "s_0")
        rate = (
            torch.sigmoid(weights["r"])
            if self._learns_rates
            else fixed_rates(self.spec.rate or "", self.name, self.context).to(x.device, x.dtype)
        )
        drive = affine(x, weights["w"], None, self.size + self.context)
        hids, states = [], []
        for step, driven in enumerate(drive.unbind(1)):
            hidden, state = self.cut(step, hidden), self.cut(step, state)
            state = (1 - rate) * state + rate * driven[:, self.size :]
            slow = affine(state, weights["sh"], None, self.size)
            own = affine(hidden, weights["hh"], None, self.size)
            hidden = torch.sigmoid(driven[:, : self.size] + own + slow)
            hids.append(hidden)
            states.append(state)
        computed = stacked(hid=hids, state=states)
        slow = affine(computed["state"], weights["so"], None, self.size)
        pre = affine(computed["hid"], weights["ho"], weights["b"], self.size) + slow
        out = self.activates(pre, weights)
        return {**computed, "rate": rate.expand(*x.shape[:2], self.context), "out": out}
