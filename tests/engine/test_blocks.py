"""Compiled ways through networks: what the general path computes, to rounding, mask for mask."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.activations import ACTIVATIONS
from engine.blocks import Way, way_through
from engine.kernels import BUILDS
from engine.kernels.builds import Kernels, find_kernels, runnable_builds
from engine.network import Network
from engine.regularizers import Site, resolve, sites_of
from engine.sampling import Sampler
from engine.spec import RegularizationSpec
from engine.streams import stream_key
from engine.tiles import Tiles
from tests.engine.networks import Floats, graph_of, random_network, rows_of

KNOWN = ("in:out",)
SEED = 5
MIXED: list[Any] = [
    7,
    {"size": 33, "name": "a", "activation": "tanh"},
    {"size": 33, "name": "b", "activation": "relu+norm:z", "inputs": ["in:out", "a:pre"]},
    {"form": "product", "name": "p", "inputs": ["a", "b"]},
    {"form": "add", "name": "s", "inputs": ["p", "b:pre", "a"]},
    {"form": "concatenate", "name": "c", "inputs": ["s", "in", "p"]},
    {"form": "layer_norm", "name": "n", "activation": "sigmoid"},
    {"size": 20, "name": "d", "activation": "maxout:3"},
    {"form": "reshape", "name": "r", "shape": [5, 4]},
    {"form": "flatten", "name": "f"},
    {"size": 70, "name": "e", "activation": "lgrelu"},
    {"form": "tied", "partner": "e", "name": "t", "activation": "prelu"},
    3,
]
BUILT = [build for build in BUILDS if build in runnable_builds()]


def build_named(name: str) -> Kernels:
    found = find_kernels(name)
    assert found is not None
    return found


def sites_under(network: Network, spec: dict[str, Any]) -> dict[str, tuple[Site, ...]]:
    resolved = RegularizationSpec.model_validate(spec)
    return sites_of(resolve(resolved, network.graph))


def way_of(
    network: Network, sites: dict[str, tuple[Site, ...]], wanted: Sequence[str], build: str
) -> Way:
    way = way_through(
        network.graph,
        network.values,
        {},
        known=KNOWN,
        wanted=wanted,
        sites=sites,
        build=build_named(build),
    )
    assert way is not None
    return way


def compiled(
    network: Network,
    spec: dict[str, Any],
    x: Floats,
    passes: int,
    wanted: Sequence[str],
    *,
    build: str = BUILT[0],
    shared: bool = False,
    threads: int = 1,
) -> list[Floats]:
    """Each wanted output, (passes * rows, size)."""
    way = way_of(network, sites_under(network, spec), wanted, build)
    keys = np.array(
        [[stream_key(SEED, *site.address)] * len(x) for site in way.sites], dtype=np.uint64
    ).reshape(len(way.sites), len(x))
    outs = way.program.run(
        [x],
        keys,
        np.arange(len(x)),
        first_pass=0,
        passes=passes,
        shared=shared,
        threads=threads,
    )
    return [out.reshape(passes * len(x), -1) for out in outs]


def general(
    network: Network,
    spec: dict[str, Any],
    x: Floats,
    passes: int,
    wanted: Sequence[str],
    *,
    shared: bool = False,
) -> list[Floats]:
    """The same, by torch."""
    sites = sites_under(network, spec)
    tiles = Tiles(network, sites, shared=shared, rows=-(-passes * len(x) // 32) * 32)
    which_pass, which_row = np.divmod(np.arange(passes * len(x)), len(x))
    keys = {
        site: np.full(len(which_row), stream_key(SEED, *site.address), dtype=np.uint64)
        for acting in sites.values()
        for site in acting
    }
    values = tiles.draw({KNOWN[0]: x[which_row]}, keys, which_pass, which_row, wanted)
    return [values[name].reshape(passes * len(x), -1) for name in wanted]


def numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).standard_normal(shape) * scale
    return drawn.astype(np.float32)


def assert_alike(ours: list[Floats], theirs: list[Floats]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one == 0, other == 0)
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=4e-6 * scale)


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"input_dropout": 0.3, "hidden_dropout": 0.5, "output_dropout": 0.1},
        {"dropout": {"*": 0.2, "a:*": 0.004}, "noise": {"b:pre": 0.3, "[ace]:out": 0.1}},
        {"regularizers": [{"form": "drop_connect", "pattern": "[abd].*[wb]*", "weight": 0.4}]},
    ],
)
def test_every_dense_form_is_what_the_general_path_computes(
    spec: dict[str, Any], shared: bool, build: str
) -> None:
    network = random_network(MIXED)
    names = [name for layer in network.graph.layers for name in layer.outputs]
    acting = sites_under(network, spec)
    suffixed = [name + site.suffix for name in names for site in acting.get(name, ())]
    wanted = [*names, *suffixed]
    x = numbers(5, 7)
    ours = compiled(network, spec, x, 6, wanted, build=build, shared=shared)
    assert_alike(ours, general(network, spec, x, 6, wanted, shared=shared))


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("name", [*ACTIVATIONS, "prelu", "lgrelu", "maxout:2", "maxout:5"])
def test_activations_are_right_at_every_size_of_numbers(name: str, build: str) -> None:
    network = random_network([40, {"size": 40, "activation": name}, 40], seed=2)
    network.values["hid1.w"][:] = np.eye(40)
    layer = network.graph.layers[1]
    learnt = {
        local: torch.from_numpy(network.values[layer.full_name(local)]).double()
        for local in layer.activates.parameters
    }
    for scale in (1e-30, 1e-3, 1.0, 10.0, 300.0, 1e30):
        x = numbers(32, 40, scale=scale)
        exact = layer.activates(torch.from_numpy(x).double(), learnt).numpy()
        (ours,) = compiled(network, {}, x, 1, ["hid1:out"], build=build)
        cancelled = 1e-6 if "maxout" in name else 1e-7 if name in ("gelu", "softmax") else 1e-36
        np.testing.assert_allclose(ours, exact, rtol=2e-6, atol=cancelled, err_msg=str(scale))


@pytest.mark.parametrize("build", BUILT)
def test_functions_pass_on_what_is_no_number(build: str) -> None:
    for name in ("linear", "relu", "tanh", "sigmoid", "softplus", "elu", "silu", "gelu"):
        network = random_network([1, {"size": 1, "activation": name}, 1])
        network.values["hid1.w"][:] = 1
        x = np.array([[np.nan], [np.inf], [-np.inf]], dtype=np.float32)
        (ours,) = compiled(network, {}, x, 1, ["hid1:out"], build=build)
        (theirs,) = general(network, {}, x, 1, ["hid1:out"])
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=name)


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("widths", [(200, 150, 3), (65, 64, 90), (300, 97, 33)])
@pytest.mark.parametrize("rate", [0.0001, 0.5, 0.97])
def test_thinned_products_are_the_whole_ones(
    widths: tuple[int, int, int], rate: float, build: str
) -> None:
    first, second, third = widths
    layers = [
        9,
        {"size": first, "activation": "tanh"},
        {"size": second, "activation": "relu", "inputs": ["hid1", "in"]},
        {"size": third, "activation": "sigmoid"},
        2,
    ]
    network = random_network(layers)
    x = numbers(37, 9)
    wanted = ["hid2:out", "hid3:out", "out:out"]
    spec = {"hidden_dropout": rate}
    ours = compiled(network, spec, x, 5, wanted, shared=True, build=build)
    assert_alike(ours, general(network, spec, x, 5, wanted, shared=True))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 90), min_size=3, max_size=4),
    rows=st.integers(1, 40),
    passes=st.integers(1, 40),
    shared=st.booleans(),
    threads=st.integers(1, 5),
    build=st.sampled_from(BUILT),
)
def test_bits_depend_neither_on_threads_nor_on_what_stands_beside(
    sizes: list[int], rows: int, passes: int, shared: bool, threads: int, build: str
) -> None:
    network = random_network(list(sizes))
    spec = {"input_dropout": 0.2, "hidden_dropout": 0.5, "hidden_noise": 0.1}
    way = way_of(network, sites_under(network, spec), ["out:out"], build)
    x = numbers(rows, sizes[0])
    ids = np.arange(rows)[::-1].copy() + 7
    keys = np.random.default_rng(1).integers(0, 2**63, (len(way.sites), rows)).astype(np.uint64)
    if shared:
        keys[:] = keys[:, :1]
    (whole,) = way.program.run(
        [x], keys, ids, first_pass=3, passes=passes, shared=shared, threads=threads
    )
    for row in range(0, rows, 7):
        some = slice(row, row + 3)
        (part,) = way.program.run(
            [x[some]],
            keys[:, some],
            ids[some],
            first_pass=3 + passes // 2,
            passes=passes - passes // 2,
            shared=shared,
        )
        np.testing.assert_array_equal(part, whole[passes // 2 :, some])


def test_small_calls_of_several_threads_at_once_have_the_numbers_of_each_alone() -> None:
    network = random_network([13, 50, 1])
    way = way_of(network, sites_under(network, {"input_dropout": 0.2}), ["out:out"], BUILT[0])

    def drawn(which: int) -> Floats:
        x = numbers(1 + which % 3, 13, seed=which)
        keys = np.full((len(way.sites), len(x)), which, dtype=np.uint64)
        (out,) = way.program.run([x], keys, np.arange(len(x)) + which, first_pass=which, passes=5)
        return out

    alone = [drawn(which) for which in range(30)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(5):
            for one, other in zip(alone, threads.map(drawn, range(30)), strict=True):
                np.testing.assert_array_equal(one, other)


def test_long_work_is_cut_into_calls_between_which_it_may_stop() -> None:
    network = random_network([50, 900, 900, 900, 1])
    spec = {"hidden_dropout": 0.5}
    way = way_of(network, sites_under(network, spec), ["out:out"], BUILT[0])
    x, ids = numbers(300, 50), np.arange(300)
    keys = np.arange(len(way.sites) * 300, dtype=np.uint64).reshape(-1, 300)
    paused: list[None] = []
    (whole,) = way.program.run(
        [x], keys, ids, first_pass=0, passes=9, pause=lambda: paused.append(None)
    )
    assert len(paused) > 3
    (last,) = way.program.run([x], keys, ids, first_pass=8, passes=1)
    np.testing.assert_array_equal(whole[8:], last)


@pytest.mark.parametrize(
    ("layers", "spec"),
    [
        ([{"shape": [4, 3]}, {"form": "lstm", "size": 4}, {"form": "last"}, 2], {}),
        ([{"shape": [4, 3]}, {"size": 4, "activation": "relu"}, {"form": "last"}, 2], {}),
        (
            [5, 4, {"form": "tied"}],
            {"regularizers": [{"form": "drop_connect", "pattern": "*.w", "weight": 0.5}]},
        ),
    ],
)
def test_what_the_kernels_do_not_know_takes_the_general_path(
    layers: list[Any], spec: dict[str, Any]
) -> None:
    graph = graph_of(layers)
    network = random_network(layers)
    ways = way_through(
        graph,
        network.values,
        {},
        known=KNOWN,
        wanted=[graph.last.out],
        sites=sites_under(network, spec),
    )
    assert ways is None
    x = numbers(3, *graph.inputs[0].shape)
    regularizers = resolve(RegularizationSpec.model_validate(spec), graph)
    rows = Sampler(network, regularizers, wanted=[graph.last.out]).prepare(rows_of(x), np.arange(3))
    drawn = rows.deterministic | rows.draw(0, 2)
    assert np.isfinite(drawn[graph.last.out]).all()
