"""Training in stages: parts of a network first, then the whole (Bengio et al. 2006).

`StagedTraining` is an iterator of events like `Training`, and resumes to the bit like it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import ArtifactError, SpecError
from engine.graph import Graph, build_graph, resolved_network
from engine.initializers import initial_parameters
from engine.kernels.descent import Descent
from engine.layers import Layer
from engine.layers.feedforward import Feedforward, Tied
from engine.rate_finding import RATES, RateFinder, RateFound
from engine.regularizers import ConcreteDropout, Regularizer
from engine.regularizers.concrete import reading_weights
from engine.sampled_weights import sampled_parameters
from engine.snapshots import Snapshot
from engine.spec import LayerSpec, NetworkSpec, TrainSpec
from engine.spec.optimizers import default_rate, finds_rate, with_rate
from engine.streams import stream_key
from engine.training import BlockEnd, EpochEnd, Training, descended
from engine.training_data import TrainingRows

__all__ = ["Stage", "StageEvent", "StagedTraining", "plan_stages"]

Values = npt.NDArray[np.float32]
_POINTER = "#/training/form"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A network that is trained before the whole one: some of its layers, and others."""

    graph: Graph
    regularizers: tuple[Regularizer, ...]
    spec: TrainSpec
    reconstructs: bool
    """Whether its targets are its inputs, where the whole network's are not."""


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """What happened within a stage."""

    stage: int
    """Counted from 1."""
    stages: int
    layers: tuple[str, ...]
    event: BlockEnd | EpochEnd


# -- the plan --------------------------------------------------------------------------------------


def plan_stages(
    spec: TrainSpec, graph: Graph, regularizers: Sequence[Regularizer]
) -> tuple[Stage, ...]:
    """Return the networks to train before `graph`; raises SpecError where there can be none."""
    if spec.training is None or spec.training.form == "sample":
        return ()
    if spec.training.form == "layerwise":
        networks = _layerwise(graph)
        reconstructs = False
    else:
        autoencoder = _shadow(graph)
        networks = [*_layerwise(autoencoder), resolved_network(autoencoder)]
        reconstructs = True
    return tuple(
        _stage(number, network, spec, graph, regularizers, reconstructs)
        for number, network in enumerate(networks, start=1)
    )


def _stage(
    number: int,
    network: NetworkSpec,
    spec: TrainSpec,
    whole: Graph,
    regularizers: Sequence[Regularizer],
    reconstructs: bool,
) -> Stage:
    assert spec.training is not None
    # The losses that read other outputs wait for the whole network.
    loss = whole.loss if whole.loss in ("mse", "mae", "xe", "hinge") else None
    network = network.model_copy(update={"losses": None, "loss": "mse" if reconstructs else loss})
    assert network.form is not None
    graph = build_graph(network, form=network.form, input_shapes=None, output_shape=None)
    fields = {
        "network": network,
        "epochs": spec.training.epochs or spec.epochs,
        "seed": stream_key(spec.seed, "stage", number) % 2**53,
        "monitors": {},
        "training": None,
    }
    return Stage(
        graph=graph,
        regularizers=tuple(_within(graph, whole, regularizers)),
        spec=spec.model_copy(update=fields),
        reconstructs=reconstructs,
    )


def _within(
    graph: Graph, whole: Graph, regularizers: Sequence[Regularizer]
) -> Iterator[Regularizer]:
    """Yield the regularizers that aim at something which the stage has, aimed at that alone."""
    there = {*graph.outputs, *graph.parameters} & {*whole.outputs, *whole.parameters}
    for regularizer in regularizers:
        matched = tuple(name for name in regularizer.matched if name in there)
        if not matched:
            continue
        if isinstance(regularizer, ConcreteDropout):
            yield replace(
                regularizer,
                matched=matched,
                elements=tuple(graph.size_of(name) for name in matched),
                readers=tuple(reading_weights(graph, name) for name in matched),
            )
        else:
            yield replace(regularizer, matched=matched)


def _layerwise(graph: Graph) -> list[NetworkSpec]:
    """Return the networks below the whole one, from the first hidden layer on."""
    if any(isinstance(layer, Tied) for layer in graph.layers):
        return _tied_stages(graph)
    resolved = resolved_network(graph)
    trained = [index for index, layer in enumerate(graph.layers[:-1]) if layer.own_parameters]
    return [
        resolved.model_copy(
            update={"layers": (*resolved.layers[: index + 1], *_tap(graph, graph.layers[index]))}
        )
        for index in trained[:-1]
    ]


def _tap(graph: Graph, below: Layer) -> Iterator[LayerSpec]:
    """Yield an output layer like the network's own that reads `below`."""
    reads = below.out
    if len(below.shape) > len(graph.last.shape):
        yield LayerSpec(form="flatten", name=f"{below.name}_flat", inputs=(reads,))
        reads = f"{below.name}_flat"
    elif len(below.shape) < len(graph.last.shape):
        raise SpecError(
            f"layer {below.name!r} gives no sequence for an output layer of its own to read; "
            "`layerwise` does not fit this network",
            pointer=_POINTER,
        )
    yield LayerSpec(
        form="softmax" if graph.form == "classifier" else "ff",
        name=f"{below.name}_out",
        size=graph.last.size,
        activation=graph.last.activation,
        inputs=(reads,),
    )


def _tied_stages(graph: Graph) -> list[NetworkSpec]:
    """Return the outer pairs of a tied autoencoder, from the outermost on."""
    resolved = resolved_network(graph)
    tied = [layer for layer in graph.layers if isinstance(layer, Tied)]
    count = len(tied)
    partners = [layer.partner for layer in tied]
    owners = [layer.name for layer in graph.layers[1 : count + 1]]
    chained = all(
        layer.inputs == (before.out,)
        for before, layer in zip(graph.layers, graph.layers[1:], strict=False)
    )
    if not chained or len(graph.layers) != 2 * count + 1 or partners != owners[::-1]:
        raise SpecError(
            "tied layers are trained in stages where the second half of the layers mirrors the "
            "first, each tied to one of these",
            pointer=_POINTER,
        )
    stages = []
    for depth in range(1, count):
        encoders = resolved.layers[: depth + 1]
        decoders = tuple(
            LayerSpec(
                form="tied",
                name=f"{owners[index]}_tied{depth}",
                partner=owners[index],
                activation=tied[count - 1 - index].activation,
            )
            for index in reversed(range(depth))
        )
        stages.append(resolved.model_copy(update={"layers": encoders + decoders}))
    return stages


def _shadow(graph: Graph) -> Graph:
    """Return the autoencoder of the hidden layers, with tied decoders."""
    resolved = resolved_network(graph)
    hidden = graph.layers[1:-1]
    chained = all(
        type(layer) is Feedforward and layer.inputs == (before.out,)
        for before, layer in zip(graph.layers, hidden, strict=False)
    )
    if len(graph.inputs) > 1 or not hidden or not chained or graph.form == "autoencoder":
        raise SpecError(
            "`pretrain` takes a regressor or classifier whose hidden layers are of form 'ff', each "
            "reading the one before; for others take `layerwise`, or leave `training` out",
            pointer=_POINTER,
        )
    decoders = tuple(
        LayerSpec(
            form="tied",
            name=f"{layer.name}_tied",
            partner=layer.name,
            activation=hidden[index - 1].activation if index else "linear",
        )
        for index, layer in reversed(list(enumerate(hidden)))
    )
    network = NetworkSpec(form="autoencoder", layers=resolved.layers[:-1] + decoders, loss="mse")
    return build_graph(network, form="autoencoder", input_shapes=None, output_shape=None)


# -- the run ---------------------------------------------------------------------------------------


class StagedTraining:
    """One network in training after the stages that come before it."""

    def __init__(
        self,
        graph: Graph,
        spec: TrainSpec,
        regularizers: Sequence[Regularizer],
        train: TrainingRows,
        valid: TrainingRows | None = None,
        *,
        stages: Sequence[Stage] = (),
        target_scale: npt.NDArray[np.float64] | None = None,
        threads: int = 1,
    ) -> None:
        """Prepare to train `stages` and then `graph`; the rest is as `Training` takes it."""
        self._stages = tuple(stages)
        self._data = (train, valid)
        self._rows = train.rows
        self._stage = 0  # those completed
        self._threads = threads
        self._finder: RateFinder | None = None
        self._found_rate: float | None = None
        if finds_rate(spec.optimizer):
            self._finder = RateFinder(default_rate(spec.optimizer))
            spec = spec.model_copy(
                update={"optimizer": with_rate(spec.optimizer, default_rate(spec.optimizer))}
            )
        initial = initial_parameters(graph, seed=spec.seed)
        if spec.training is not None and spec.training.form == "sample":
            initial = sampled_parameters(graph, initial, train, seed=spec.seed)
        self._learnt = initial
        self._whole: Callable[[], Training] = lambda: Training(
            graph,
            self._rated(spec),
            regularizers,
            train,
            valid,
            target_scale=target_scale,
            initial=self._learnt,
            threads=threads,
            tells_rate=self._finder is not None,
        )
        self._current = self._begin()

    @property
    def whole(self) -> Training | None:
        """The whole network's training once the stages are done."""
        return self._current if self._stage == len(self._stages) else None

    @property
    def path(self) -> str:
        """What takes the steps of the stage at hand, or of the whole network."""
        return self._current.path

    @property
    def threads(self) -> int:
        """How many threads take these steps."""
        return self._current.threads

    @property
    def is_compiled(self) -> bool:
        """Whether compiled kernels take them."""
        return self._current.is_compiled

    @property
    def epochs(self) -> int:
        """Epochs of the whole network that are done."""
        return 0 if self.whole is None else self.whole.epoch

    @property
    def stages(self) -> int:
        return len(self._stages)

    @property
    def stage_epochs(self) -> tuple[int, int]:
        """How many epochs of stages are done, and how many there may be."""
        each = [stage.spec.epochs for stage in self._stages]
        done = sum(each[: self._stage])
        return done + (0 if self.whole else self._current.epoch), sum(each)

    @property
    def rows_done(self) -> int:
        """Rows trained on so far, counted anew in every epoch; stages that are done count whole."""
        before = sum(stage.spec.epochs for stage in self._stages[: self._stage])
        return before * self._rows + self._current.rows_done

    @property
    def found_rate(self) -> float | None:
        """The learning rate that was found; None before, and where none was to be found."""
        return self._found_rate

    def __iter__(self) -> Iterator[RateFound | StageEvent | BlockEnd | EpochEnd]:
        """Train until finished, from wherever this run stands.

        Raises DivergedError when a loss becomes NaN or infinite.
        """
        return descended(self.pieces())

    def pieces(self) -> Iterator[Descent | RateFound | StageEvent | BlockEnd | EpochEnd]:
        """Train likewise, with the steps that `Training.pieces` leaves to others."""
        if self._finder is not None and self._found_rate is None:
            yield from self._find_rate(self._finder)
        while self.whole is None:
            stage = self._stages[self._stage]
            names = tuple(layer.name for layer in stage.graph.layers)
            told = partial(StageEvent, stage=self._stage + 1, stages=self.stages, layers=names)
            for piece in self._current.pieces():
                yield piece if isinstance(piece, Descent) else told(event=piece)
            self._learn(self._current.kept_parameters())
            self._stage += 1
            self._current = self._begin()
        yield from self._current.pieces()

    def _find_rate(self, finder: RateFinder) -> Iterator[Descent | RateFound | BlockEnd]:
        """Find the learning rate by steps of a training that is then begun anew."""
        tried = self._begin()
        resting = tried.probe([0.0] * len(RATES))
        for piece in finder.drive(resting, tried.probe(RATES)):
            yield piece
            yield BlockEnd(epoch=1, rows_done=0)
        found = finder.found()
        self._found_rate = found.learning_rate
        self._current = self._begin()
        yield found

    def _rated(self, spec: TrainSpec) -> TrainSpec:
        if self._found_rate is None:
            return spec
        optimizer = with_rate(spec.optimizer, self._found_rate)
        return spec.model_copy(update={"optimizer": optimizer})

    def snapshot(self) -> Snapshot:
        """Return a copy of everything that changes in training."""
        copied = self._current.snapshot()
        own = {"stage": self._stage, "found_rate": self._found_rate}
        return copied.retold(json.dumps({**json.loads(copied.told), **own}))

    def state(self) -> bytes:
        """Return everything that changes in training, as one safetensors file."""
        return self.snapshot().to_bytes()

    def restore(self, state: bytes) -> None:
        """Go on from what `state` returned; raises ArtifactError where it is not of this run."""
        told = _told(state)
        stage = told.get("stage", 0)
        if stage > len(self._stages):
            raise ArtifactError("the checkpoint belongs to another network")
        self._stage = stage
        # Another rate may have been given since for a job that found one.
        self._found_rate = None if self._finder is None else told.get("found_rate")
        self._current = self._begin()
        self._current.restore(state)

    def be_patient(self) -> None:
        """Wait anew for an improvement where patience had run out."""
        self._current.be_patient()

    def go_back(self) -> None:
        """Go back to before a loss diverged; see `Training.go_back`."""
        self._current.go_back()

    def _learn(self, parameters: Mapping[str, Values]) -> None:
        self._learnt = {name: parameters.get(name, value) for name, value in self._learnt.items()}

    def _begin(self) -> Training:
        if self._stage == len(self._stages):
            return self._whole()
        stage = self._stages[self._stage]
        train, valid = self._data
        if stage.reconstructs:
            train, valid = train.reconstructing(), valid and valid.reconstructing()
        own = {name: v for name, v in self._learnt.items() if name in stage.graph.parameters}
        return Training(
            stage.graph,
            stage.spec,
            stage.regularizers,
            train,
            valid,
            initial=own,
            threads=self._threads,
        )


def _told(state: bytes) -> dict[str, Any]:
    try:
        header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
        progress: dict[str, Any] = json.loads(header["__metadata__"]["training"])
    except (KeyError, ValueError) as error:
        raise ArtifactError("the checkpoint cannot be read") from error
    return progress
