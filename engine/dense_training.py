"""Dense networks in training: what of a job the compiled kernels do, and why they do not.

They know feedforward layers that each read one `out`, with dropout and noise on it, squared and
absolute errors, cross-entropy, and the likelihood of learnt means and variances, weights of rows,
penalties on weights and outputs, clipped gradients, and all optimizers but `rprop` and `esgd`.
Whatever else a job asks for, the general path does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from engine.autograd import BLOCK_FLOPS, diverged
from engine.epochs import EpochSums, Measured, add
from engine.graph import Graph
from engine.kernels.builds import Kernels, kernels
from engine.kernels.descent import (
    DenseLayer,
    DenseRows,
    Descent,
    DrawingSite,
    LossKind,
    Move,
    OptimizerKind,
    PenaltyKind,
    PenaltyTerm,
    SiteKind,
    Variances,
)
from engine.kernels.program import FUNCTIONS
from engine.layers import Layer
from engine.layers.feedforward import Feedforward
from engine.masks import TrainingMasks
from engine.optimizers import Optimizer
from engine.parameters import Parameters
from engine.regularizers import HiddenPenalty, Penalty, Regularizer, Site, WeightPenalty
from engine.spec import (
    AdadeltaSpec,
    AdagradSpec,
    AdamSpec,
    NagSpec,
    OptimizerSpec,
    RmspropSpec,
    SgdSpec,
    TrainSpec,
)
from engine.streams import threshold
from engine.training_data import TrainingData, TrainingRows

__all__ = ["DenseSteps", "UnknownToKernels"]

_LOSSES = {
    "mse": LossKind.SQUARED_ERROR,
    "mae": LossKind.ABSOLUTE_ERROR,
    "xe": LossKind.CROSS_ENTROPY,
    "gll": LossKind.GAUSSIAN,
}
_STEP_FLOPS = 1e5  # what the overhead of one step is worth
_ACTIVATIONS = frozenset(FUNCTIONS) - frozenset(
    name for name in FUNCTIONS if name.startswith("norm") or name in ("prelu", "lgrelu", "maxout")
)


class UnknownToKernels(Exception):
    """The kernels do not know what a job asks for; its text says what."""


class DenseSteps:
    """The steps of a training whose network has dense layers alone, each behind one other."""

    def __init__(
        self,
        graph: Graph,
        spec: TrainSpec,
        regularizers: Sequence[Regularizer],
        train: TrainingRows,
        *,
        parameters: Parameters,
        optimizer: Optimizer,
        masks: TrainingMasks,
        threads: int = 1,
        build: Kernels | None = None,
    ) -> None:
        """Prepare what the kernels need; raises UnknownToKernels where they cannot do it.

        `threads` are the most that take part; `build` is for another than the fastest kernels.
        """
        _require_known(graph, spec, train)
        if build is None and kernels() is None:
            raise UnknownToKernels("there are no kernels for this processor")
        self._batch_size = min(spec.batch_size, train.rows)
        positions = {layer.out: index for index, layer in enumerate(graph.layers)}
        drawn = _drawn(masks, positions)
        terms = _terms(graph, regularizers, positions)
        move, self._memory, self._slots = _move(spec.optimizer)
        self._descent = Descent(
            layers=[
                _layer(layer, parameters, tuple(drawn.get(layer.out, {}).values()), positions)
                for layer in graph.layers
            ],
            terms=[term for _, term in terms],
            loss=_loss(graph, masks),
            loss_weight=graph.main_loss.weight,
            variances=_variances(graph, positions),
            move=move,
            clip=spec.gradient_clip,
            batch_size=self._batch_size,
            threads=threads,
            build=build,
        )
        self._penalties = tuple(index for index, _ in terms)
        acting = (site for layer in graph.layers for site in drawn.get(layer.out, {}))
        self._sites = tuple((site, graph.size_of(site.output)) for site in acting)
        every = (site for sites in masks.sites.values() for site in sites)
        self._idle = tuple(
            (site, graph.size_of(site.output))
            for site in every
            if site.kind == "dropout" and not site.acts
        )
        self._step_flops = 3.0 * self._batch_size * graph.flops_per_row + _STEP_FLOPS
        self._trained: tuple[TrainingData, DenseRows] | None = None
        self._measured: tuple[TrainingData, DenseRows] | None = None
        self._parameters = parameters
        self._optimizer = optimizer

    @property
    def threads(self) -> int:
        """How many threads take part."""
        return self._descent.threads

    @property
    def told(self) -> str:
        """Which kernels these are, and how many threads they use."""
        threads = self.threads
        return self._descent.build + (f", {threads} threads" if threads > 1 else "")

    def block_rows(self) -> int:
        """Rows of a block: whole batches, worth some 10 ms of work."""
        return self._batch_size * max(1, int(BLOCK_FLOPS / self._step_flops))

    def train(
        self,
        rows: TrainingData,
        order: Tensor,
        rates: npt.NDArray[np.float64],
        *,
        epoch: int,
        position: int,
        sums: EpochSums,
    ) -> Iterator[Descent]:
        """Do what `AutogradSteps.train` does, equal to the rounding of single precision.

        Yields the steps when they are prepared, for `descend` to take.
        """
        buffers, count = self._optimizer.memory(self._memory)
        memory: list[Tensor | None] = [None, None, None]
        for slot, buffer in zip(self._slots, buffers, strict=True):
            memory[slot] = buffer
        self._trained = trained = _kept(self._trained, rows)
        self._descent.begin(
            parameters=self._parameters.flat,
            memory=memory,
            rows=trained[1],
            order=order,
            rates=rates,
            epoch=epoch,
            position=position,
            steps_before=int(count.numpy()),
            loss=sums.loss,
        )
        yield self._descent
        block = self._descent.end()
        if block.bad_loss is not None:
            raise diverged(block.bad_loss, epoch)
        count.numpy()[...] += len(rates)
        taken = order.shape[0]
        sums.rows += taken
        sums.loss = block.loss
        for index, total in zip(self._penalties, block.terms, strict=True):
            add(sums.terms, str(index), total)
        for (site, width), dropped in zip(self._sites, block.dropped, strict=True):
            if site.kind == "dropout":
                sums.tally.count(site, taken * width, dropped)
        for site, width in self._idle:
            sums.tally.count(site, taken * width, 0)

    def let_go(self) -> None:
        """Keep no rows that steps were taken on."""
        self._trained = None
        self._descent.let_go()

    def measure(self, data: TrainingData) -> tuple[Measured, npt.NDArray[np.float32]]:
        """Do what `AutogradSteps.measure` does."""
        self._measured = measured = _kept(self._measured, data)
        loss, outputs = self._descent.measure(parameters=self._parameters.flat, rows=measured[1])
        return Measured(losses={"loss": loss}), outputs


def _kept(
    last: tuple[TrainingData, DenseRows] | None, data: TrainingData
) -> tuple[TrainingData, DenseRows]:
    """Return what the kernels read of `data`, which is often that of the last call."""
    return last if last is not None and last[0] is data else (data, _rows_of(data))


def _rows_of(data: TrainingData) -> DenseRows:
    (x,) = data.x.values.values()
    return DenseRows(x, data.y, data.weights)


def _require_known(graph: Graph, spec: TrainSpec, train: TrainingRows) -> None:
    if train.device.type != "cpu":
        raise UnknownToKernels(f"it runs on {train.device.type}")
    if spec.precision != "float32":
        raise UnknownToKernels(f"it is trained in {spec.precision}")
    if spec.monitors or spec.monitor_gradients:
        raise UnknownToKernels("it is monitored")
    _require_dense(graph)
    if train.has_windows:
        raise UnknownToKernels("its rows are windows")


def _require_dense(graph: Graph) -> None:
    first, *others = graph.layers
    if first.form != "input" or len(first.shape) != 1:
        raise UnknownToKernels("its rows are no plain lists of numbers")
    outs = {first.out}
    for layer in others:
        if type(layer) is not Feedforward or len(layer.shape) != 1:
            raise UnknownToKernels(f"layer {layer.name!r} is of form {layer.form!r}")
        if len(layer.inputs) != 1 or not outs.issuperset(layer.inputs):
            raise UnknownToKernels(f"layer {layer.name!r} does not read the `out` of one layer")
        outs.add(layer.out)
    if not others:
        raise UnknownToKernels("it has no layers")
    unread = outs - graph.read
    if unread:
        raise UnknownToKernels(f"nothing reads {sorted(unread)[0]!r}")


def _layer(
    layer: Layer,
    parameters: Parameters,
    sites: tuple[DrawingSite, ...],
    positions: Mapping[str, int],
) -> DenseLayer:
    if layer.form == "input":
        return DenseLayer(width=layer.size, activation=FUNCTIONS["linear"], sites=sites)
    return DenseLayer(
        width=layer.size,
        activation=FUNCTIONS[_function(layer)],
        sites=sites,
        source=positions[layer.inputs[0]],
        weight=parameters.offset(layer.full_name("w")),
        bias=parameters.offset(layer.full_name("b")),
    )


def _function(layer: Layer) -> str:
    """Return the one function of a layer's activation."""
    functions = [name for name, _ in layer.activates.functions if name != "linear"] or ["linear"]
    if len(functions) > 1 or functions[0] not in _ACTIVATIONS:
        raise UnknownToKernels(f"layer {layer.name!r} has the activation {layer.activation!r}")
    return functions[0]


def _drawn(
    masks: TrainingMasks, positions: Mapping[str, int]
) -> dict[str, dict[Site, DrawingSite]]:
    """Return what is drawn for each output, of the sites that act."""
    drawn: dict[str, dict[Site, DrawingSite]] = {}
    for output, sites in masks.sites.items():
        for site in sites:
            if output not in positions or site.kind not in ("dropout", "noise"):
                raise UnknownToKernels(f"{site.kind} acts on {output!r}")
            if not site.acts:
                continue
            is_noise = site.kind == "noise"
            drawn.setdefault(output, {})[site] = DrawingSite(
                kind=SiteKind.NOISE if is_noise else SiteKind.DROPOUT,
                key=masks.key(site),
                limit=0 if is_noise else threshold(site.level),
                scale=site.level if is_noise else 1 / (1 - site.level),
            )
    return drawn


def _loss(graph: Graph, masks: TrainingMasks) -> LossKind:
    loss = graph.main_loss
    if len(graph.losses) > 1:
        raise UnknownToKernels("its loss has several terms")
    if loss.form not in _LOSSES:
        raise UnknownToKernels(f"its loss is {loss.form!r}")
    functions = [_function(layer) for layer in graph.layers[1:]]
    is_entropy = loss.form == "xe"
    if "softmax" in functions[:-1] or (functions[-1] == "softmax") != is_entropy:
        raise UnknownToKernels("it has a softmax that is not its classifier's last layer")
    if is_entropy and graph.last.out in masks.sites:
        raise UnknownToKernels("masks or noise act on its probabilities")
    return _LOSSES[loss.form]


def _variances(graph: Graph, positions: Mapping[str, int]) -> Variances | None:
    loss = graph.main_loss
    if loss.covar is None:
        return None
    if loss.covar not in positions or loss.covar == loss.output:
        raise UnknownToKernels(f"its variances are {loss.covar!r}")
    return Variances(layer=positions[loss.covar], added=loss.covar_eps)


def _terms(
    graph: Graph, regularizers: Sequence[Regularizer], positions: Mapping[str, int]
) -> list[tuple[int, PenaltyTerm]]:
    """Return the kernels' terms for each penalty, with the penalty's index."""
    by_weight = {
        layer.full_name("w"): index for index, layer in enumerate(graph.layers) if index > 0
    }
    terms: list[tuple[int, PenaltyTerm]] = []
    for index, penalty in enumerate(regularizers):
        if isinstance(penalty, WeightPenalty) and by_weight.keys() >= set(penalty.matched):
            kind = PenaltyKind.L2 if penalty.form == "weight_l2" else PenaltyKind.L1
            for name in penalty.matched:
                inputs, outputs = graph.parameters[name]
                share = 1.0
                if penalty.reduction == "mean":
                    share = len(penalty.matched) * inputs * outputs
                weight = penalty.weight / share
                terms.append((index, PenaltyTerm(kind=kind, layer=by_weight[name], weight=weight)))
        elif isinstance(penalty, HiddenPenalty) and positions.keys() >= set(penalty.matched):
            if graph.main_loss.form == "xe" and graph.last.out in penalty.matched:
                # The kernels know the cross-entropy's derivative by what the softmax reads.
                raise UnknownToKernels("a penalty is on its probabilities")
            for name in penalty.matched:
                weight = penalty.weight / (len(penalty.matched) * graph.size_of(name))
                layer = positions[name]
                terms.append(
                    (index, PenaltyTerm(kind=PenaltyKind.OUTPUT_L1, layer=layer, weight=weight))
                )
        elif isinstance(penalty, Penalty):
            raise UnknownToKernels(f"the regularizer {penalty.form!r} adds to its loss")
    return terms


def _move(spec: OptimizerSpec) -> tuple[Move, tuple[str, ...], tuple[int, ...]]:
    """Return how parameters move, the names of the memories and the kernels' slots for them."""
    match spec:
        case SgdSpec() | NagSpec():
            looks_ahead = isinstance(spec, NagSpec) or spec.nesterov
            kind = OptimizerKind.NESTEROV if looks_ahead else OptimizerKind.SGD
            names = ("momentum_buffer",) if spec.momentum else ()
            return Move(kind=kind, options=(spec.momentum, 0, 0, 0)), names, (0,)[: len(names)]
        case AdamSpec():
            decay = 0.01 if spec.weight_decay is None else spec.weight_decay
            plain = spec.form == "adam"
            kind = OptimizerKind.ADAM if plain else OptimizerKind.ADAMW
            options = (spec.beta1, spec.beta2, spec.epsilon, decay)
            return Move(kind=kind, options=options), ("exp_avg", "exp_avg_sq"), (0, 1)
        case RmspropSpec():
            options = (spec.decay, spec.momentum, spec.epsilon, 0)
            used = (True, spec.momentum > 0, spec.centered)
            named = ("square_avg", "momentum_buffer", "grad_avg")
            slots = tuple(slot for slot in range(3) if used[slot])
            move = Move(kind=OptimizerKind.RMSPROP, options=options)
            return move, tuple(named[slot] for slot in slots), slots
        case AdagradSpec():
            return Move(kind=OptimizerKind.ADAGRAD, options=(0, 0, spec.epsilon, 0)), ("sum",), (0,)
        case AdadeltaSpec():
            move = Move(kind=OptimizerKind.ADADELTA, options=(spec.decay, 0, spec.epsilon, 0))
            return move, ("square_avg", "acc_delta"), (0, 1)
    raise UnknownToKernels(f"its optimizer is {spec.form!r}")
