"""Regularizers: what a spec's keywords, maps and lists come to on one network, in order.

The order is the order of application: input, hidden and output dropout, then the `dropout` map in
the order of its keys; the same for noise; then the explicit `regularizers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from engine.errors import PatternError, SpecError
from engine.graph import Graph
from engine.names import match as match_names
from engine.regularizers.concrete import ConcreteDropout, reading_weights
from engine.regularizers.connections import DropConnect
from engine.regularizers.contractive import ContractivePenalty
from engine.regularizers.dropout import BernoulliDropout
from engine.regularizers.hidden import HiddenPenalty
from engine.regularizers.noise import GaussianNoise
from engine.regularizers.recurrent import RecurrentPenalty
from engine.regularizers.sites import Site, sites_of
from engine.regularizers.weight import WeightPenalty
from engine.spec import (
    BernoulliDropoutSpec,
    ConcreteDropoutSpec,
    ContractiveSpec,
    DropConnectSpec,
    GaussianNoiseSpec,
    HiddenL1Spec,
    RecurrentPenaltySpec,
    RegularizationSpec,
    RegularizerSpec,
    WeightSpec,
)

__all__ = [
    "BernoulliDropout",
    "ConcreteDropout",
    "ContractivePenalty",
    "DropConnect",
    "GaussianNoise",
    "HiddenPenalty",
    "Penalty",
    "Perturbation",
    "RecurrentPenalty",
    "Regularizer",
    "Site",
    "WeightPenalty",
    "is_given",
    "is_stochastic",
    "learnt",
    "perturbations",
    "resolve",
    "sites_of",
    "unread_warnings",
]

Perturbation = BernoulliDropout | GaussianNoise | DropConnect | ConcreteDropout
"""What changes outputs or weights at random."""
Penalty = HiddenPenalty | WeightPenalty | ContractivePenalty | RecurrentPenalty
"""What adds a term to the training loss."""
Regularizer = Perturbation | Penalty

_HIDDEN = "hid*:out"
_KEYS = tuple(
    f"{layers}_{kind}" for kind in ("dropout", "noise") for layers in ("input", "hidden", "output")
)


def is_given(spec: RegularizationSpec) -> bool:
    """Say whether any keyword, map or list stands in the spec, levels of 0 included."""
    keys = (*_KEYS, "dropout", "noise", "regularizers")
    return any(getattr(spec, key) is not None for key in keys)


def resolve(spec: RegularizationSpec, graph: Graph) -> tuple[Regularizer, ...]:
    """Match every pattern against the network; raise PatternError for one that matches nothing."""
    regularizers: list[Regularizer] = []
    for make, kind in ((_dropout, "dropout"), (_noise, "noise")):
        for layers in ("input", "hidden", "output"):
            level = getattr(spec, f"{layers}_{kind}")
            pointer = f"#/{layers}_{kind}"
            if level:  # as in theanets, a keyword of 0 asks for nothing
                patterns = _keyword_patterns(layers, graph, pointer)
                regularizers += [make(pattern, level, None, graph, pointer) for pattern in patterns]
        levels = getattr(spec, kind)
        regularizers += [
            make(pattern, level, None, graph, f"#/{kind}/{_escaped(pattern)}")
            for pattern, level in (levels.items() if isinstance(levels, dict) else ())
        ]
    for index, given in enumerate(spec.regularizers or ()):
        regularizers.append(_explicit(given, graph, f"#/regularizers/{index}/pattern"))
    return tuple(regularizers)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _keyword_patterns(layers: str, graph: Graph, pointer: str) -> tuple[str, ...]:
    """Turn a keyword into patterns: one glob where one says just the same, else one an output.

    A pattern may thus be copied from an answer into a request's map, and aims at the same outputs
    with the same random streams.
    """
    chosen = {"input": graph.inputs, "hidden": graph.hidden, "output": (graph.last,)}[layers]
    outputs = tuple(layer.out for layer in chosen)
    if not outputs:
        keyword = pointer.removeprefix("#/")
        raise PatternError(keyword, kind="output", exist=graph.outputs, pointer=pointer)
    return (_HIDDEN,) if layers == "hidden" and _is_hidden_glob(outputs, graph) else outputs


def _explicit(given: RegularizerSpec, graph: Graph, pointer: str) -> Regularizer:
    match given:
        case BernoulliDropoutSpec():
            dropout = _dropout(given.pattern, given.weight, given.rng, graph, pointer)
            return _with_shared_axes(dropout, given, graph, pointer.removesuffix("pattern"))
        case DropConnectSpec():
            weights = [name for name, shape in graph.parameters.items() if len(shape) > 1]
            return DropConnect(
                pattern=given.pattern,
                weight=given.weight,
                rng=given.rng,
                matched=match_names(given.pattern, weights, kind="weight", pointer=pointer),
            )
        case ConcreteDropoutSpec():
            return _concrete(given, graph, pointer)
        case GaussianNoiseSpec():
            return _noise(given.pattern, given.weight, given.rng, graph, pointer)
        case HiddenL1Spec():
            shown, outputs = _hidden_outputs(given.pattern, graph, pointer)
            return HiddenPenalty(pattern=shown, weight=given.weight, matched=outputs)
        case ContractiveSpec():
            return _contractive(given, graph, pointer)
        case RecurrentPenaltySpec():
            sequences = [n for n, s in graph.outputs.items() if len(s) == 2 and s[0] > 1]
            return RecurrentPenalty(
                form=given.form,
                pattern=given.pattern,
                weight=given.weight,
                reduction=given.reduction,
                matched=match_names(
                    given.pattern, sequences, kind="output of several steps", pointer=pointer
                ),
            )
        case WeightSpec():
            weights = [name for name, shape in graph.parameters.items() if len(shape) > 1]
            return WeightPenalty(
                form=given.form,
                pattern=given.pattern,
                weight=given.weight,
                reduction=given.reduction,
                matched=match_names(given.pattern, weights, kind="weight", pointer=pointer),
            )


def _hidden_outputs(
    pattern: str | None, graph: Graph, pointer: str
) -> tuple[str | None, tuple[str, ...]]:
    """Return what a pattern matches, or without one the hidden layers' `out`, and how to say it.

    The latter as one glob where it says just the same, else None.
    """
    if pattern is not None:
        return pattern, match_names(pattern, graph.outputs, kind="output", pointer=pointer)
    outputs = tuple(layer.out for layer in graph.hidden)
    if not outputs:
        raise PatternError("*", kind="hidden output", exist=graph.outputs, pointer=pointer)
    return (_HIDDEN if _is_hidden_glob(outputs, graph) else None), outputs


def _is_hidden_glob(outputs: tuple[str, ...], graph: Graph) -> bool:
    return outputs == tuple(name for name in graph.outputs if fnmatchcase(name, _HIDDEN))


def _contractive(given: ContractiveSpec, graph: Graph, pointer: str) -> ContractivePenalty:
    shown, outputs = _hidden_outputs(given.pattern, graph, pointer)
    inputs = tuple(
        layer.out
        for layer in graph.inputs
        if fnmatchcase(layer.name, given.wrt) or fnmatchcase(layer.out, given.wrt)
    )
    if not inputs:
        raise PatternError(
            given.wrt,
            kind="input layer",
            exist=[layer.name for layer in graph.inputs],
            pointer=pointer.removesuffix("pattern") + "wrt",
        )
    return ContractivePenalty(
        pattern=shown, wrt=given.wrt, weight=given.weight, matched=outputs, inputs=inputs
    )


def _concrete(given: ConcreteDropoutSpec, graph: Graph, pointer: str) -> ConcreteDropout:
    shown, outputs = _hidden_outputs(given.pattern, graph, pointer)
    return ConcreteDropout(
        pattern=shown or ",".join(outputs),
        weight=given.weight,
        weight_regularizer=given.weight_regularizer,
        temperature=given.temperature,
        initial_rate=given.initial_rate,
        rng=given.rng,
        matched=outputs,
        elements=tuple(graph.size_of(name) for name in outputs),
        readers=tuple(reading_weights(graph, name) for name in outputs),
    )


def _with_shared_axes(
    dropout: BernoulliDropout, given: BernoulliDropoutSpec, graph: Graph, pointer: str
) -> BernoulliDropout:
    """Share masks over steps or pixels; refuse it where no output that matched has any."""
    for is_asked, key, dimensions, what in (
        (given.steps == "shared", "steps", 2, "sequences"),
        (given.spatial, "spatial", 3, "images"),
    ):
        if is_asked and all(len(graph.outputs[name]) != dimensions for name in dropout.matched):
            raise SpecError(
                f"`{key}` is for {what}; none of {', '.join(dropout.matched[:20])} is one",
                pointer=pointer + key,
            )
    return replace(dropout, steps=given.steps, spatial=given.spatial)


def _dropout(
    pattern: str, rate: float, rng: int | None, graph: Graph, pointer: str
) -> BernoulliDropout:
    matched = match_names(pattern, graph.outputs, kind="output", pointer=pointer)
    return BernoulliDropout(pattern=pattern, weight=rate, rng=rng, matched=matched)


def _noise(
    pattern: str, deviation: float, rng: int | None, graph: Graph, pointer: str
) -> GaussianNoise:
    matched = match_names(pattern, graph.outputs, kind="output", pointer=pointer)
    return GaussianNoise(pattern=pattern, weight=deviation, rng=rng, matched=matched)


def is_stochastic(regularizers: Sequence[Regularizer]) -> bool:
    """Say whether any of them changes anything at random."""
    return any(
        isinstance(r, ConcreteDropout) or (isinstance(r, Perturbation) and r.weight > 0)
        for r in regularizers
    )


def perturbations(regularizers: Sequence[Regularizer]) -> tuple[Regularizer, ...]:
    """Return those that change outputs or weights, without the penalties."""
    return tuple(r for r in regularizers if isinstance(r, Perturbation))


def learnt(
    regularizers: Sequence[Regularizer], rates: Mapping[int, Mapping[str, float]]
) -> tuple[Regularizer, ...]:
    """Put dropout of the rates learnt, by index and output, in the place of Concrete dropout.

    Each output gets a regularizer of its own, whose pattern is the output's name.
    """
    result: list[Regularizer] = []
    for index, regularizer in enumerate(regularizers):
        if isinstance(regularizer, ConcreteDropout):
            result += [
                BernoulliDropout(
                    pattern=output,
                    weight=rates[index][output],
                    rng=regularizer.rng,
                    matched=(output,),
                )
                for output in regularizer.matched
            ]
        else:
            result.append(regularizer)
    return tuple(result)


def unread_warnings(regularizers: Sequence[Regularizer], graph: Graph) -> list[str]:
    """Say which changed outputs nothing reads, so that changing them changes no prediction."""
    warnings = []
    for name in graph.outputs:
        acting = [
            "noise" if isinstance(regularizer, GaussianNoise) else "dropout"
            for regularizer in regularizers
            if isinstance(regularizer, BernoulliDropout | GaussianNoise | ConcreteDropout)
            and (regularizer.weight > 0 or isinstance(regularizer, ConcreteDropout))
            and name in regularizer.matched
        ]
        if acting and name not in graph.read:
            what = " and ".join(dict.fromkeys(acting))
            warnings.append(
                f"{what} on {name!r} changes no prediction, since nothing reads that output; "
                f"aim at {name.rsplit(':', 1)[0] + ':out'!r} instead"
            )
    return warnings
