"""Monte-Carlo passes: the same to the bit however they are asked for, and right on average."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.network import Network, evaluate
from engine.regularizers import Site, resolve, sites_of
from engine.sampling import Sampler
from engine.spec import RegularizationSpec
from engine.streams import drop_mask, row_states, stream_key
from tests.engine.networks import Floats, graph_of, identity_network, random_network, rows_of


def sampler_of(network: Network, *wanted: str, seed: int = 1, **keywords: Any) -> Sampler:
    masks = keywords.pop("masks", "independent")
    regularizers = resolve(RegularizationSpec.model_validate(keywords), network.graph)
    return Sampler(network, regularizers, wanted=wanted, seed=seed, masks=masks)


def plain_loop(
    network: Network, x: Floats, passes: int, seed: int, spec: RegularizationSpec
) -> Floats:
    """One pass and one row at a time through the whole network, in float64 where it can be."""
    graph = network.graph
    sites = sites_of(resolve(spec, graph))
    samples = np.empty((passes, len(x), graph.last.size), dtype=np.float64)
    weights = {
        layer: {name: tensor.double() for name, tensor in own.items()}
        for layer, own in network.weights.items()
    }
    for number, row in product(range(passes), range(len(x))):

        def draw(
            site: Site, shape: tuple[int, ...], number: int = number, row: int = row
        ) -> torch.Tensor:
            key = stream_key(seed, "predict independent", *site.address)
            state = row_states(key, np.array([number]), np.array([row]))
            drop = drop_mask(state, shape[0], site.level)
            return torch.from_numpy(np.where(drop, 0.0, 1 / (1 - site.level)))

        known = {graph.inputs[0].out: torch.from_numpy(x[row : row + 1]).double()}
        value = evaluate(graph, weights, known, sites=sites, draw=draw, wanted=(graph.last.out,))
        samples[number, row] = value[graph.last.out].numpy()[0]
    return samples.astype(np.float32)


layer_lists = st.lists(
    st.tuples(st.integers(1, 70), st.sampled_from(["relu", "tanh", "sigmoid", "linear"])),
    max_size=3,
)
rates = st.sampled_from([0.0, 0.05, 0.5, 0.9])


@settings(max_examples=40, deadline=None)
@given(
    inputs=st.integers(1, 20),
    hidden=layer_lists,
    outputs=st.integers(1, 12),
    input_rate=rates,
    hidden_rate=rates,
    passes=st.integers(1, 9),
    rows=st.integers(1, 9),
    data=st.data(),
)
def test_samples_are_those_of_the_loop_and_the_same_to_the_bit_in_pieces(
    inputs: int,
    hidden: list[tuple[int, str]],
    outputs: int,
    input_rate: float,
    hidden_rate: float,
    passes: int,
    rows: int,
    data: st.DataObject,
) -> None:
    network = random_network([inputs, *map(list, hidden), outputs], seed=rows)
    keywords: dict[str, Any] = {"input_dropout": input_rate}
    if hidden:
        keywords["hidden_dropout"] = hidden_rate
    x = np.random.default_rng(passes).standard_normal((rows, inputs)).astype(np.float32)
    sampler = sampler_of(network, "out:out", seed=11, **keywords)
    if not sampler.stochastic:
        return
    whole = sampler.samples(rows_of(x), np.arange(rows), np.arange(passes))["out:out"]
    loop = plain_loop(network, x, passes, 11, RegularizationSpec.model_validate(keywords))
    np.testing.assert_allclose(whole, loop, rtol=2e-5, atol=2e-5)
    first_row = data.draw(st.integers(0, rows - 1))
    last_row = data.draw(st.integers(first_row + 1, rows))
    first_pass = data.draw(st.integers(0, passes - 1))
    piece = sampler.samples(
        rows_of(x[first_row:last_row]),
        np.arange(first_row, last_row),
        np.arange(first_pass, passes),
    )["out:out"]
    assert np.array_equal(piece, whole[first_pass:, first_row:last_row])


@pytest.mark.parametrize("layers", [[13, 50, 1], [7, 130, 5], [20, 600, 600, 10]])
def test_a_row_has_the_same_bits_alone_and_among_many(layers: list[int]) -> None:
    network = random_network(layers)
    x = np.random.default_rng(2).standard_normal((700, layers[0])).astype(np.float32)
    sampler = sampler_of(network, "out:out", "hid1:pre", hidden_dropout=0.2)
    whole = sampler.samples(rows_of(x), np.arange(700), np.arange(3))["out:out"]
    prefix = sampler.deterministic(rows_of(x))["hid1:pre"]
    for row in (0, 1, 63, 64, 511, 512, 699):
        alone = sampler.samples(rows_of(x[row : row + 1]), np.array([row]), np.arange(3))["out:out"]
        assert np.array_equal(alone[:, 0], whole[:, row])
        assert np.array_equal(
            sampler.deterministic(rows_of(x[row : row + 1]))["hid1:pre"][0], prefix[row]
        )


def test_rows_and_passes_draw_masks_of_their_own() -> None:
    network = identity_network(64)
    x = np.ones((20, 64), dtype=np.float32)
    y = sampler_of(network, "out:out", hidden_dropout=0.5).samples(
        rows_of(x), np.arange(20), np.arange(20)
    )
    masks = {row.tobytes() for row in y["out:out"].reshape(400, 64)}
    assert len(masks) == 400


def test_shared_masks_are_one_function_for_all_rows() -> None:
    network = identity_network(64)
    x = np.ones((20, 64), dtype=np.float32)
    sampler = sampler_of(network, "out:out", hidden_dropout=0.5, masks="shared")
    y = sampler.samples(rows_of(x), np.arange(20), np.arange(5))["out:out"]
    assert (y == y[:, :1]).all()
    assert len({one.tobytes() for one in y[:, 0]}) == 5
    elsewhere = sampler.samples(rows_of(x[:3]), np.array([99, 5, 10**6]), np.arange(5))["out:out"]
    assert np.array_equal(elsewhere, y[:, :3])


def test_another_seed_draws_other_masks() -> None:
    network = identity_network(64)
    x = np.ones((5, 64), dtype=np.float32)

    def drawn(seed: int) -> Floats:
        sampler = sampler_of(network, "out:out", seed=seed, hidden_dropout=0.5)
        return sampler.samples(rows_of(x), np.arange(5), np.arange(2))["out:out"]

    assert np.array_equal(drawn(7), drawn(7))
    assert not np.array_equal(drawn(7), drawn(8))


def test_a_linear_network_under_input_dropout_has_its_closed_form() -> None:
    """y = sum_i w_i x_i m_i / (1 - p): mean w x, variance p / (1 - p) sum_i (w_i x_i)^2."""
    graph = graph_of([6, 1])
    weights = np.array([[0.5], [-1.0], [2.0], [0.25], [1.5], [-0.75]], dtype=np.float32)
    network = Network(graph, {"out.w": weights, "out.b": np.zeros(1, np.float32)})
    x = np.array([[1.0, 2.0, -1.0, 4.0, 0.5, 3.0]], dtype=np.float32)
    rate, passes = 0.3, 40_000
    sampler = sampler_of(network, "out:out", input_dropout=rate)
    y = (
        sampler.samples(rows_of(x), np.arange(1), np.arange(passes))["out:out"]
        .ravel()
        .astype(float)
    )
    terms = (weights.ravel() * x.ravel()).astype(float)
    variance = rate / (1 - rate) * np.sum(terms**2)
    assert abs(y.mean() - terms.sum()) < 4 * np.sqrt(variance / passes)
    fourth = np.mean((y - y.mean()) ** 4)
    assert abs(y.var() - variance) < 4 * np.sqrt((fourth - variance**2) / passes)


def test_a_hidden_relu_unit_matches_the_enumeration_of_its_masks() -> None:
    graph = graph_of([3, 1, 1])
    values = {
        "hid1.w": np.array([[1.0], [-2.0], [0.5]], dtype=np.float32),
        "hid1.b": np.array([0.2], dtype=np.float32),
        "out.w": np.array([[3.0]], dtype=np.float32),
        "out.b": np.array([-1.0], dtype=np.float32),
    }
    x = np.array([[1.0, 0.5, -2.0]], dtype=np.float32)
    p_in, p_hid, passes = 0.4, 0.25, 60_000
    expected = second = 0.0
    for mask in product([0, 1], repeat=4):
        chance = np.prod([1 - p_in if m else p_in for m in mask[:3]])
        chance *= 1 - p_hid if mask[3] else p_hid
        pre = (x[0] * np.array(mask[:3]) / (1 - p_in)) @ values["hid1.w"][:, 0] + 0.2
        y = 3.0 * max(pre, 0.0) * mask[3] / (1 - p_hid) - 1.0
        expected += chance * y
        second += chance * y * y
    sampler = sampler_of(
        Network(graph, values), "out:out", input_dropout=p_in, hidden_dropout=p_hid
    )
    drawn = (
        sampler.samples(rows_of(x), np.arange(1), np.arange(passes))["out:out"]
        .ravel()
        .astype(float)
    )
    spread = np.sqrt(second - expected**2)
    assert abs(drawn.mean() - expected) < 4 * spread / np.sqrt(passes)


def test_padding_changes_no_number_beyond_rounding() -> None:
    graph = graph_of([5, 3, 2])
    network = random_network([5, 3, 2])
    plain = {
        layer.name: {
            name: tensor[..., : layer.size] for name, tensor in network.weights[layer.name].items()
        }
        for layer in graph.layers
    }
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    one = evaluate(graph, network.weights, {"in:out": x}, wanted=("out:out",))["out:out"]
    two = evaluate(graph, plain, {"in:out": x}, wanted=("out:out",))["out:out"]
    torch.testing.assert_close(one, two)
