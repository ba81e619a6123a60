"""Pairs of which the first mask leaves the same, computed as one: the bits of each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.program import Kind
from engine.network import Network
from engine.streams import drop_mask, row_states, stream_key
from tests.engine.networks import Floats, random_network
from tests.engine.test_blocks import (
    BUILT,
    SEED,
    assert_alike,
    compiled,
    general,
    numbers,
    sites_under,
    way_of,
)

Doubles = npt.NDArray[np.float64]

SMALL = [13, 50, 1]


def kinds_of(network: Network, spec: dict[str, Any], wanted: list[str]) -> tuple[Kind, ...]:
    return way_of(network, sites_under(network, spec), wanted, BUILT[0]).program.kinds


def alone(
    network: Network, spec: dict[str, Any], x: Floats, passes: int, build: str
) -> tuple[Floats, Floats]:
    """All passes of all rows in one call, and each in a call of its own, where no two are alike."""
    sites = sites_under(network, spec)
    way = way_of(network, sites, ["out:out"], build)
    rows = len(x)
    keys = np.array(
        [[stream_key(SEED, *site.address)] * rows for site in way.sites], dtype=np.uint64
    )
    ids = np.arange(rows)
    (whole,) = way.program.run([x], keys, ids, first_pass=0, passes=passes)
    each = np.empty_like(whole)
    for number in range(passes):
        for row in range(rows):
            some = slice(row, row + 1)
            (one,) = way.program.run(
                [x[some]], keys[:, some], ids[some], first_pass=number, passes=1
            )
            each[number, row] = one[0, 0]
    return whole, each


def test_a_small_network_groups_its_pairs_and_drops_within_its_last_product() -> None:
    network = random_network(SMALL)
    spec = {"input_dropout": 0.05, "hidden_dropout": 0.05}
    assert kinds_of(network, spec, ["out:out"]) == (
        Kind.GROUP,
        Kind.AFFINE,
        Kind.DROP_DOT,
        Kind.STORE,
    )
    assert Kind.GROUP not in kinds_of(network, spec, ["hid1:pre", "out:out"])
    assert Kind.GROUP not in kinds_of(random_network([65, 50, 1]), spec, ["out:out"])


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 64), st.integers(1, 90), st.integers(1, 6)),
    rate=st.sampled_from([1e-12, 0.003, 0.05, 0.1, 0.4]),
    activation=st.sampled_from(["relu", "tanh", "norm:z", "linear"]),
    rows=st.integers(1, 5),
    passes=st.integers(1, 60),
    large=st.sampled_from([0.0, 1e6, np.inf, np.nan]),
    build=st.sampled_from(BUILT),
)
def test_a_pair_has_the_bits_that_it_has_alone(
    sizes: tuple[int, int, int],
    rate: float,
    activation: str,
    rows: int,
    passes: int,
    large: float,
    build: str,
) -> None:
    inputs, hidden, outputs = sizes
    network = random_network([inputs, {"size": hidden, "activation": activation}, outputs])
    x = numbers(rows, inputs)
    x[0, inputs // 2] += np.float32(large)
    spec = {"input_dropout": rate, "hidden_dropout": 0.1}
    whole, each = alone(network, spec, x, passes, build)
    np.testing.assert_array_equal(whole, each)


def in_double_precision(
    network: Network, spec: dict[str, Any], rate: float, x: Floats, passes: int
) -> tuple[Doubles, Doubles]:
    """What SMALL gives by its formula, (passes * rows, 1), and the size of what is summed."""
    sites = sites_under(network, spec)
    which = np.divmod(np.arange(passes * len(x)), len(x))
    values = {name: value.astype(np.float64) for name, value in network.values.items()}

    def dropped(name: str, given: Doubles) -> Doubles:
        states = row_states(stream_key(SEED, *sites[name][0].address), *which)
        return np.where(drop_mask(states, given.shape[1], rate), 0, given / (1 - rate))

    with np.errstate(invalid="ignore"):
        rows = dropped("in:out", x[which[1]].astype(np.float64))
        pre = rows @ values["hid1.w"] + values["hid1.b"]
        hidden = dropped("hid1:out", np.maximum(pre, 0))
        size = (np.abs(rows) @ np.abs(values["hid1.w"]) + 1) @ np.abs(values["out.w"]) + 1
        return hidden @ values["out.w"] + values["out.b"], size


@pytest.mark.parametrize("build", BUILT)
def test_passes_are_those_of_the_formula_in_double_precision(build: str) -> None:
    network, rate, passes = random_network(SMALL, seed=3), 0.05, 400
    spec = {"input_dropout": rate, "hidden_dropout": rate}
    x = numbers(9, 13)
    x[4, 2] = 1e6  # where this is dropped, nothing of it may be left
    (ours,) = compiled(network, spec, x, passes, ["out:out"], build=build)
    exact, size = in_double_precision(network, spec, rate, x, passes)
    assert (np.abs(ours - exact) <= (13 + 50 + 8) * 2.0**-24 * size).all()


@pytest.mark.parametrize("build", BUILT)
def test_patterns_are_the_masks_of_the_streams_where_many_bits_decide(build: str) -> None:
    network, rate, rows, passes = random_network([64, 64, 1]), 0.004, 8, 2000
    network.values["hid1.w"][:] = np.eye(64)
    network.values["hid1.b"][:] = 0
    network.values["out.w"][:, 0] = np.exp2(np.arange(64) % 16)
    spec = {"dropout": {"in:out": rate, "hid1:out": 1e-12}}
    assert Kind.GROUP in kinds_of(network, spec, ["out:out"])
    key = stream_key(SEED, *sites_under(network, spec)["in:out"][0].address)
    which = np.divmod(np.arange(rows * passes), rows)
    kept = ~drop_mask(row_states(key, *which), 64, rate)
    for group in range(4):  # sums of 16 powers of two are exact, and tell which are there
        x = np.zeros((rows, 64), np.float32)
        x[:, 16 * group : 16 * group + 16] = 1
        (ours,) = compiled(network, spec, x, passes, ["out:out"], build=build)
        exact = (kept * x[which[1]]) @ network.values["out.w"]
        np.testing.assert_array_equal(np.rint(ours * (1 - rate)), exact)


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("weight", [1.0, np.inf])
def test_what_is_no_number_comes_through_where_it_is_kept(weight: float, build: str) -> None:
    network, rate, passes = random_network(SMALL), 0.1, 200
    network.values["out.w"][7] = weight
    spec = {"input_dropout": rate, "hidden_dropout": rate}
    x = numbers(6, 13)
    x[0, 1], x[1, 2], x[2, 3], x[3, 4] = np.inf, -np.inf, np.nan, 1e30
    (ours,) = compiled(network, spec, x, passes, ["out:out"], build=build)
    exact, _ = in_double_precision(network, spec, rate, x, passes)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(exact))


@pytest.mark.parametrize("build", BUILT)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("layers", [[13, 50, 4], [7, 90, 20, 3], [5, {"size": 70}, 2]])
def test_a_drop_within_a_product_is_the_two_steps(
    layers: list[Any], shared: bool, build: str
) -> None:
    network = random_network(layers)
    last = f"hid{len(layers) - 2}:out"
    for rate in (0.05, 0.5):
        spec = {"input_dropout": 0.05, "hidden_dropout": rate}
        x = numbers(21, layers[0])
        (fused,) = compiled(network, spec, x, 40, ["out:out"], build=build, shared=shared)
        _, apart = compiled(network, spec, x, 40, [last, "out:out"], build=build, shared=shared)
        np.testing.assert_array_equal(fused, apart)
        assert_alike([fused], general(network, spec, x, 40, ["out:out"], shared=shared))
