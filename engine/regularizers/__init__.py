"""Regularizers: what a spec's keywords, maps and lists come to on one network, in order.

The order is the order of application: input, hidden and output keyword, then the `dropout` map in
the order of its keys, then the explicit `regularizers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase

from engine.errors import PatternError
from engine.graph import Graph
from engine.names import match
from engine.regularizers.dropout import BernoulliDropout, Site
from engine.regularizers.weight import WeightPenalty
from engine.spec import BernoulliDropoutSpec, DropoutSpec, WeightSpec

__all__ = [
    "BernoulliDropout",
    "Regularizer",
    "Site",
    "WeightPenalty",
    "is_given",
    "is_stochastic",
    "resolve",
    "sites_by_output",
    "unread_warnings",
]

Regularizer = BernoulliDropout | WeightPenalty

_KEYWORDS = ("input_dropout", "hidden_dropout", "output_dropout")


def is_given(spec: DropoutSpec) -> bool:
    """Say whether any dropout keyword, map or list stands in the spec, rates of 0 included."""
    keys = (*_KEYWORDS, "dropout", "regularizers")
    return any(getattr(spec, key) is not None for key in keys)


def resolve(spec: DropoutSpec, graph: Graph) -> tuple[Regularizer, ...]:
    """Match every pattern against the network; raise PatternError for one that matches nothing."""
    regularizers: list[Regularizer] = []
    for keyword in _KEYWORDS:
        rate = getattr(spec, keyword)
        if rate is not None:
            regularizers.extend(_by_keyword(keyword, rate, graph))
    for pattern, rate in _dropout_map(spec).items():
        pointer = "#/dropout/" + pattern.replace("~", "~0").replace("/", "~1")
        regularizers.append(_dropout(pattern, rate, None, graph, pointer))
    for index, given in enumerate(spec.regularizers or ()):
        regularizers.append(_explicit(given, graph, f"#/regularizers/{index}/pattern"))
    return tuple(regularizers)


def _dropout_map(spec: DropoutSpec) -> dict[str, float]:
    return spec.dropout if isinstance(spec.dropout, dict) else {}


def _by_keyword(keyword: str, rate: float, graph: Graph) -> list[Regularizer]:
    """Turn a keyword into patterns: one glob where one says just the same, else one an output.

    A pattern may thus be copied from an answer into a request's `dropout` map, and aims at the same
    outputs with the same random streams.
    """
    layers = {
        "input_dropout": (graph.first,),
        "hidden_dropout": graph.hidden,
        "output_dropout": (graph.last,),
    }[keyword]
    outputs = tuple(layer.out for layer in layers)
    if not outputs:
        if rate == 0:
            return []
        raise PatternError(keyword, kind="output", exist=graph.outputs, pointer=f"#/{keyword}")
    patterns: tuple[str, ...] = outputs
    glob = "hid*:out"
    matched = tuple(name for name in graph.outputs if fnmatchcase(name, glob))
    if keyword == "hidden_dropout" and matched == outputs:
        patterns = (glob,)
    return [_dropout(pattern, rate, None, graph, f"#/{keyword}") for pattern in patterns]


def _explicit(given: BernoulliDropoutSpec | WeightSpec, graph: Graph, pointer: str) -> Regularizer:
    if isinstance(given, BernoulliDropoutSpec):
        return _dropout(given.pattern, given.weight, given.rng, graph, pointer)
    weights = [name for name, shape in graph.parameters.items() if len(shape) > 1]
    return WeightPenalty(
        form=given.form,
        pattern=given.pattern,
        weight=given.weight,
        reduction=given.reduction,
        matched=match(given.pattern, weights, kind="weight", pointer=pointer),
    )


def _dropout(
    pattern: str, rate: float, rng: int | None, graph: Graph, pointer: str
) -> BernoulliDropout:
    matched = match(pattern, graph.outputs, kind="output", pointer=pointer)
    return BernoulliDropout(pattern=pattern, weight=rate, rng=rng, matched=matched)


def sites_by_output(regularizers: Sequence[Regularizer]) -> dict[str, tuple[Site, ...]]:
    """Return the masks that act on each output, in order of application.

    A stream's address is its `rng` (or 0), output and pattern. Where two regularizers agree in all
    three, the later one's address says so, and they stay independent.
    """
    seen: Counter[tuple[int, str, str]] = Counter()
    sites: dict[str, tuple[Site, ...]] = {}
    for index, regularizer in enumerate(regularizers):
        if not isinstance(regularizer, BernoulliDropout):
            continue
        for output in regularizer.matched:
            base = (regularizer.rng or 0, output, regularizer.pattern)
            repeat = seen[base]
            seen[base] += 1
            site = Site(
                regularizer=index,
                output=output,
                rate=regularizer.weight,
                address=(*base, repeat) if repeat else base,
            )
            sites[output] = (*sites.get(output, ()), site)
    return sites


def is_stochastic(regularizers: Sequence[Regularizer]) -> bool:
    """Say whether any of them drops anything."""
    return any(isinstance(r, BernoulliDropout) and r.weight > 0 for r in regularizers)


def unread_warnings(regularizers: Sequence[Regularizer], graph: Graph) -> list[str]:
    """Say which dropped outputs nothing reads, so that dropping them changes no prediction."""
    dropped = {
        output
        for regularizer in regularizers
        if isinstance(regularizer, BernoulliDropout) and regularizer.weight > 0
        for output in regularizer.matched
    }
    return [
        f"dropout on {output!r} changes no prediction, since nothing reads that output; "
        f"{output.rsplit(':', 1)[0] + ':out'!r} is read by the next layer"
        for output in graph.outputs
        if output in dropped and output not in graph.read
    ]
