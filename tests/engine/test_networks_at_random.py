"""Networks put together at random: what the plain loop computes, to the bit in any pieces."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.network import Network, evaluate
from engine.regularizers import Regularizer, Site, resolve, sites_of
from engine.sampling import Sampler, readable_outputs
from engine.spec import RegularizationSpec
from engine.streams import row_states, stream_key
from tests.engine.networks import Floats, random_network, rows_of

SEED = 23
ACTIVATIONS = st.sampled_from(
    [
        *("linear", "relu", "tanh", "sigmoid", "softplus", "elu", "silu", "gelu", "softmax"),
        *("rect:min", "rect:minmax", "norm:mean", "norm:max", "prelu", "lgrelu", "maxout:3"),
        *("tanh+norm:mean", "relu+sigmoid"),
    ]
)
RATES = st.sampled_from([0.0, 1e-6, 0.004, 0.1, 0.5, 0.97])


@dataclass
class Drawn:
    """Layers as a caller gives them, and how wide each is."""

    layers: list[Any]
    sizes: dict[str, int]
    chained: list[str]
    """Feedforward layers that read a single other one."""


@st.composite
def layer_lists(draw: st.DrawFn) -> list[Any]:
    width = draw(st.integers(1, 40))
    drawn = Drawn([width], {"in": width}, [])
    for number in range(draw(st.integers(0, 5))):
        form = draw(st.sampled_from(["ff", "ff", "ff", "add", "product", "concatenate", "tied"]))
        layer = draw_layer(draw, form, f"l{number}", drawn)
        if draw(st.booleans()):
            name = f"n{number}"
            drawn.layers.append({"form": "layer_norm", "name": name, "inputs": layer})
            drawn.sizes[name] = drawn.sizes[layer]
    reads = draw(st.sampled_from(list(drawn.sizes)))
    return [*drawn.layers, {"size": draw(st.integers(1, 6)), "name": "out", "inputs": reads}]


def draw_layer(draw: st.DrawFn, form: str, name: str, drawn: Drawn) -> str:
    """Add a layer of this form, or where none fits a feedforward one; return its name."""
    sizes = drawn.sizes
    several = st.lists(st.sampled_from(list(sizes)), min_size=2, max_size=3, unique=True)
    some = [f"{one}:out" for one in draw(several)] if len(sizes) > 1 else []
    widths = [sizes[one.partition(":")[0]] for one in some]
    fitting = [(p, o) for p, o in product(drawn.chained, sizes) if sizes[o] == sizes[p]]
    if form in ("add", "product") and some and len(set(widths)) == 1:
        drawn.layers.append({"form": form, "name": name, "inputs": some})
        sizes[name] = widths[0]
    elif form == "concatenate" and some:
        drawn.layers.append({"form": form, "name": name, "inputs": some})
        sizes[name] = sum(widths)
    elif form == "tied" and fitting:
        partner, below = draw(st.sampled_from(fitting))
        tied = {"form": "tied", "name": name, "partner": partner, "inputs": below}
        drawn.layers.append(tied | {"activation": draw(ACTIVATIONS)})
        partners = next(own for own in drawn.layers[1:] if own["name"] == partner)
        sizes[name] = sizes[partners["inputs"]]
    else:
        size = draw(st.sampled_from([1, 2, 5, 5, 31, 32, 33, 70]))
        reads: Any = draw(st.sampled_from(list(sizes)))
        reads_several = draw(st.booleans())
        if some and reads_several:
            reads = some
        layer = {"size": size, "name": name, "activation": draw(ACTIVATIONS), "inputs": reads}
        drawn.layers.append(layer)
        sizes[name] = size
        if isinstance(reads, str):
            drawn.chained.append(name)
    return name


@st.composite
def regularized(draw: st.DrawFn, network: Network) -> tuple[Regularizer, ...]:
    """Dropout and noise at any outputs, weights dropped."""
    names = st.sampled_from([*network.graph.outputs, "*:out", "*:pre", "*"])
    weights = [name for name, shape in network.graph.parameters.items() if len(shape) == 2]
    spec: dict[str, Any] = {
        "input_dropout": draw(RATES),
        "dropout": draw(st.dictionaries(names, RATES, max_size=2)),
        "noise": draw(st.dictionaries(names, st.sampled_from([0.0, 0.3]), max_size=1)),
    }
    connect = draw(st.sampled_from([None, None, None, *weights]))
    if connect is not None:
        one = {"form": "drop_connect", "pattern": connect, "weight": draw(RATES)}
        spec["regularizers"] = [one]
    return tuple(resolve(RegularizationSpec.model_validate(spec), network.graph))


def plain_loop(
    network: Network,
    regularizers: tuple[Regularizer, ...],
    x: Floats,
    passes: int,
    wanted: tuple[str, ...],
    *,
    shared: bool,
) -> dict[str, Any]:
    """One pass of one row after another through the whole network, in float64."""
    graph = network.graph
    weights = {
        layer: {name: tensor.double() for name, tensor in own.items()}
        for layer, own in network.weights.items()
    }
    samples: dict[str, list[Any]] = {name: [] for name in wanted}
    for number, row in product(range(passes), range(len(x))):

        def draw(
            site: Site, shape: tuple[int, ...], number: int = number, row: int = row
        ) -> torch.Tensor:
            purpose = f"predict {'shared' if shared else 'independent'}"
            key = np.array([stream_key(SEED, purpose, *site.address)], dtype=np.uint64)
            states = row_states(key, np.array([number]), np.array([0 if shared else row]))
            return torch.from_numpy(site.draw(states, shape)).double()

        known = {graph.inputs[0].out: torch.from_numpy(x[row : row + 1]).double()}
        sites = sites_of(regularizers)
        values = evaluate(graph, weights, known, sites=sites, draw=draw, wanted=wanted)
        for name in wanted:
            samples[name].append(values[name].numpy()[0])
    return {
        name: np.array(each).reshape(passes, len(x), *each[0].shape)
        for name, each in samples.items()
    }


@settings(max_examples=25, deadline=None)
@given(
    layers=layer_lists(),
    is_classifier=st.booleans(),
    rows=st.integers(1, 6),
    passes=st.integers(1, 5),
    cut=st.integers(0, 5),
    shared=st.booleans(),
    threads=st.integers(1, 2),
    data=st.data(),
)
def test_any_network_is_what_the_plain_loop_computes(
    layers: list[Any],
    is_classifier: bool,
    rows: int,
    passes: int,
    cut: int,
    shared: bool,
    threads: int,
    data: st.DataObject,
) -> None:
    network = random_network(layers, form="classifier" if is_classifier else "regressor")
    regularizers = data.draw(regularized(network), label="regularizers")
    wanted = tuple(readable_outputs(network.graph, regularizers))
    x = np.random.default_rng(rows).standard_normal((rows, layers[0])).astype(np.float32)

    def prepared(some: slice, threads: int = 1) -> Any:
        sampler = Sampler(
            network,
            regularizers,
            wanted=wanted,
            seed=SEED,
            masks="shared" if shared else "independent",
            threads=threads,
        )
        return sampler.prepare(rows_of(x[some]), np.arange(rows)[some])

    whole = prepared(slice(None), threads)
    drawn = whole.draw(0, passes)
    expected = plain_loop(network, regularizers, x, passes, wanted, shared=shared)
    assert set(drawn) | set(whole.deterministic) == set(wanted)
    for name in wanted:
        ours = drawn[name] if name in drawn else whole.deterministic[name][None]
        theirs = expected[name] if name in drawn else expected[name][:1]
        if name in whole.deterministic:
            assert (expected[name] == expected[name][:1]).all()
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5 * scale, err_msg=name)
    ends = sorted({0, min(cut, passes), passes})
    pieces = [whole.draw(start, end - start) for start, end in pairwise(ends)]
    for row in range(rows):
        alone = prepared(slice(row, row + 1))
        for name, samples in alone.draw(0, passes).items():
            assert np.array_equal(samples[:, 0], drawn[name][:, row]), name
        for name, value in alone.deterministic.items():
            assert np.array_equal(value[0], whole.deterministic[name][row]), name
    for name in drawn:
        assert np.array_equal(np.concatenate([piece[name] for piece in pieces]), drawn[name]), name
