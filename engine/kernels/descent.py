"""Descent: blocks of training steps of dense networks, in the compiled kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.kernels.builds import Kernels, kernels
from engine.kernels.structures import (
    DenseLayerStructure,
    DescentStructure,
    DrawingSiteStructure,
    PenaltyTermStructure,
)

__all__ = [
    "DenseLayer",
    "DenseRows",
    "Descent",
    "DescentBlock",
    "Descents",
    "DrawingSite",
    "LossKind",
    "Move",
    "OptimizerKind",
    "PenaltyKind",
    "PenaltyTerm",
    "SiteKind",
    "Variances",
    "descend",
]

_THREAD_COST = 4e6  # multiplications of a step that pay for a thread
_MOST_THREADS = 64
_LINE = 64


class SiteKind(IntEnum):
    """The numbers are those of `descent.c`, here and below."""

    DROPOUT = 0
    NOISE = 1


class LossKind(IntEnum):
    """What a row's outputs are compared by."""

    SQUARED_ERROR = 0
    ABSOLUTE_ERROR = 1
    CROSS_ENTROPY = 2
    GAUSSIAN = 3
    """Likelihood under normal distributions whose variances are another layer's."""


class PenaltyKind(IntEnum):
    """Sizes of weights, or of outputs."""

    L1 = 0
    L2 = 1
    OUTPUT_L1 = 2


class OptimizerKind(IntEnum):
    """How gradients move parameters."""

    SGD = 0
    NESTEROV = 1
    ADAM = 2
    ADAMW = 3
    RMSPROP = 4
    ADAGRAD = 5
    ADADELTA = 6


@dataclass(frozen=True, kw_only=True)
class DrawingSite:
    """Dropout or noise on a layer's `out`."""

    kind: SiteKind
    key: int
    """Of its stream."""
    limit: int = 0
    """Threshold of 32 bits below which an element is dropped."""
    scale: float
    """What is kept is multiplied by it; the standard deviation of noise."""


@dataclass(frozen=True, kw_only=True)
class DenseLayer:
    """A layer that reads one before it; the first holds the inputs."""

    width: int
    activation: int
    """Its number in `blocks.c`."""
    sites: tuple[DrawingSite, ...]
    source: int = 0
    """The number of the layer whose `out` it reads."""
    weight: int = 0
    bias: int = 0
    """Where its parameters begin in the flat buffer."""


@dataclass(frozen=True, kw_only=True)
class PenaltyTerm:
    """A term of the loss: `weight` times the sizes in a layer, of outputs the mean over rows."""

    kind: PenaltyKind
    layer: int
    weight: float


class DenseRows:
    """Rows that networks are trained on or measured by."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor | None) -> None:
        """x (rows, inputs) and y (rows, outputs) float32 or (rows,) int64, weights (rows,)."""
        self.x = x.contiguous()
        self.y = y.contiguous()
        self.weights = None if weights is None else weights.contiguous()
        self.addresses = (
            self.x.data_ptr(),
            self.y.data_ptr(),
            None if self.weights is None else self.weights.data_ptr(),
        )


@dataclass(frozen=True, kw_only=True)
class Move:
    """How the optimizer moves parameters."""

    kind: OptimizerKind
    options: tuple[float, float, float, float]
    """Decays (beta 1 and 2; momentum, or of RMSprop the decay and then the momentum), epsilon, and
    the decay of weights."""


@dataclass(frozen=True, kw_only=True)
class Variances:
    """Of GAUSSIAN: the sizes of a layer's `out`, and what is added to each."""

    layer: int
    added: float


@dataclass(frozen=True, kw_only=True)
class DescentBlock:
    """What a block of steps came to."""

    loss: float
    """What was there before, and each step's loss, penalties included, times its rows."""
    terms: tuple[float, ...]
    """Of the penalties alone."""
    dropped: tuple[int, ...]
    """Elements that each site dropped."""
    bad_loss: float | None = None
    """The loss of a step that was not finite, where the block ended; that step moved nothing."""


class Descent:
    """The steps of one network's training; not to be run by two threads at once."""

    def __init__(
        self,
        *,
        layers: Sequence[DenseLayer],
        terms: Sequence[PenaltyTerm],
        loss: LossKind,
        loss_weight: float,
        move: Move,
        clip: float | None,
        batch_size: int,
        variances: Variances | None = None,
        threads: int = 1,
        build: Kernels | None = None,
    ) -> None:
        """The loss compares the last layer's `out`, and begins the gradient of the `variances`.

        Every other layer is read by one behind it. `threads` are the most; `build` is for another
        than the fastest kernels.
        """
        found = build or kernels()
        assert found is not None
        self.build = found.build
        """The name of the kernels' build."""
        self.library = found.library
        self.library.bernoulli_descent_bytes.restype = ctypes.c_int64
        sites = [site for layer in layers for site in layer.sites]
        self._sites = (DrawingSiteStructure * max(1, len(sites)))(*map(_site, sites))
        self._terms = (PenaltyTermStructure * max(1, len(terms)))(
            *(PenaltyTermStructure(term.kind, term.layer, term.weight) for term in terms)
        )
        self._layers = (DenseLayerStructure * len(layers))()
        first = 0
        for told, layer, adds in zip(self._layers, layers, _adding(layers, variances), strict=True):
            told.width, told.activation = layer.width, layer.activation
            told.first_site, told.sites = first, len(layer.sites)
            told.source, told.adds = layer.source, adds
            told.weight, told.bias = layer.weight, layer.bias
            first += len(layer.sites)
        self._counts = len(sites), len(terms)
        cost = batch_size * sum(layers[own.source].width * own.width for own in layers[1:])
        self.threads = max(1, min(threads, _MOST_THREADS, int(3 * cost / _THREAD_COST)))
        """How many take part."""
        sgemm, set_threads = _blas()
        self._given = DescentStructure(
            layers=ctypes.addressof(self._layers),
            sites=ctypes.addressof(self._sites),
            penalties=ctypes.addressof(self._terms),
            sgemm=sgemm,
            set_threads=set_threads,
            batch=batch_size,
            options=(ctypes.c_double * 4)(*move.options),
            clip=clip or 0.0,
            loss_weight=loss_weight,
            added_variance=variances.added if variances else 0.0,
            layer_count=len(layers),
            site_count=len(sites),
            penalty_count=len(terms),
            loss_kind=loss,
            optimizer=move.kind,
            threads=self.threads,
            variances=variances.layer if variances else 0,
        )
        self.at = ctypes.addressof(self._given)
        self._room: npt.NDArray[np.uint8] | None = None
        self._held: tuple[DenseRows, torch.Tensor, npt.NDArray[np.float64]] | None = None

    def begin(
        self,
        *,
        parameters: torch.Tensor,
        memory: Sequence[torch.Tensor | None],
        rows: DenseRows,
        order: torch.Tensor,
        rates: npt.NDArray[np.float64],
        epoch: int,
        position: int,
        steps_before: int,
        loss: float = 0.0,
    ) -> None:
        """Prepare a step for every batch of the rows in `order`; `descend` takes them.

        They change parameters and memory, and all that is given is held until `end`.
        `parameters` and the three of `memory` are flat buffers laid out alike; `order` are numbers
        of `rows`, int64, and `rates` float64 the learning rate of every step. `position` is the
        place of the first row in the epoch; the loss is added to `loss`.
        """
        given = self._given
        given.parameters = parameters.data_ptr()
        given.memory = (ctypes.c_void_p * 3)(
            *(None if each is None else each.data_ptr() for each in memory)
        )
        given.x, given.y, given.weights = rows.addresses
        given.order = order.data_ptr()
        given.rates = ctypes.addressof(ctypes.c_double.from_buffer(rates))  # type: ignore[arg-type]
        given.rows, given.epoch, given.position = order.shape[0], epoch, position
        given.steps_before, given.loss, given.bad_loss = steps_before, loss, 0.0
        self._held = rows, order, rates
        self._make_room()
        for site in self._sites:
            site.dropped = 0
        for term in self._terms:
            term.total = 0.0

    def end(self) -> DescentBlock:
        """Return what the steps came to, once they are taken."""
        given, (sites, terms) = self._given, self._counts
        return DescentBlock(
            loss=given.loss,
            terms=tuple(term.total for term in self._terms[:terms]),
            dropped=tuple(site.dropped for site in self._sites[:sites]),
            bad_loss=given.bad_loss or None,
        )

    def let_go(self) -> None:
        """Keep nothing of what was given for the last steps."""
        self._held = None

    def measure(
        self,
        *,
        parameters: torch.Tensor,
        rows: DenseRows,
    ) -> tuple[float, npt.NDArray[np.float32]]:
        """Return the loss of a deterministic pass, without penalties, and (rows, outputs).

        What is given is as `begin` takes it.
        """
        given = self._given
        given.parameters = parameters.data_ptr()
        given.memory = (ctypes.c_void_p * 3)()
        given.x, given.y, given.weights = rows.addresses
        given.rows, given.order = rows.x.shape[0], None
        self._make_room()
        outputs = np.empty((given.rows, self._layers[-1].width), dtype=np.float32)
        at = ctypes.c_void_p(outputs.ctypes.data)
        self.library.bernoulli_measure(ctypes.byref(given), at)
        return given.loss, outputs

    def _make_room(self) -> None:
        if self._room is None:
            memory = (ctypes.c_void_p * 3)(*self._given.memory)
            self._given.memory = (ctypes.c_void_p * 3)(1, 1, 1)  # room for as many as there may be
            size = int(self.library.bernoulli_descent_bytes(ctypes.byref(self._given)))
            self._given.memory = memory
            self._room = np.zeros(size + _LINE, dtype=np.uint8)
            self._given.room = -(-self._room.ctypes.data // _LINE) * _LINE


def descend(descent: Descent) -> None:
    """Take the steps that were begun."""
    descent.library.bernoulli_descend(ctypes.c_void_p(descent.at))


class Descents:
    """The steps of several networks under way, each on one of so many threads of their own."""

    def __init__(self, descents: Sequence[Descent], threads: int) -> None:
        """Begin to take those of `descents`, none of which may be let go of before `wait`."""
        self._library = descents[0].library if descents else None
        if self._library is not None:
            self._given = (ctypes.c_void_p * len(descents))(*(each.at for each in descents))
            self._all = ctypes.create_string_buffer(self._library.bernoulli_descents_bytes())
            self._library.bernoulli_begin_descents(self._all, self._given, len(descents), threads)

    def wait(self) -> None:
        """Return when all are taken; this thread takes part."""
        if self._library is not None:
            self._library.bernoulli_end_descents(self._all)
            self._library = None


def _adding(layers: Sequence[DenseLayer], variances: Variances | None) -> list[bool]:
    """Say of each layer whether its source's gradient has begun when the way back reaches it."""
    begun = set() if variances is None else {variances.layer}
    adds = [False] * len(layers)
    for number in range(len(layers) - 1, 0, -1):
        source = layers[number].source
        adds[number] = source in begun
        begun.add(source)
    return adds


def _site(site: DrawingSite) -> DrawingSiteStructure:
    return DrawingSiteStructure(site.kind, site.limit, site.scale, 0, site.key, 0)


@cache
def _blas() -> tuple[int | None, int | None]:
    """Return where PyTorch has its `sgemm_` and what sets its threads, if these are of MKL."""
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return None, None
    folder = Path(torch.__file__).parent / "lib"
    for path in sorted(folder.glob("libtorch_cpu.*")):
        try:
            library = ctypes.CDLL(str(path))
            functions = library.sgemm_, library.MKL_Set_Num_Threads_Local
        except (OSError, AttributeError):
            continue
        sgemm, set_threads = (ctypes.cast(each, ctypes.c_void_p).value for each in functions)
        return sgemm, set_threads
    return None, None
