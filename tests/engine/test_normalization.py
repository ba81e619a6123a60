"""Layer normalization against its formula and PyTorch's, through the whole engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.errors import SpecError
from engine.graph import build_graph, resolved_network
from engine.initializers import initial_parameters
from engine.layers import Layer
from engine.network import Network
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import NetworkSpec, RegularizationSpec, TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import graph_of, random_network, rows_of

SHAPES = [(7,), (5, 7), (7, 4, 3)]


def layer_of(shape: tuple[int, ...]) -> Layer:
    return graph_of([{"form": "input", "shape": list(shape)}, "layer_norm", "layernorm"]).layers[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_normalization_is_that_of_torch_and_of_its_paper(shape: tuple[int, ...]) -> None:
    layer = layer_of(shape)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, *shape)) * 3 + 1
    g, b = rng.standard_normal((2, 7))
    weights = {"g": torch.from_numpy(g), "b": functional.pad(torch.from_numpy(b), (0, 9))}
    ours = layer.compute([torch.from_numpy(x)], weights)["hid1:out"].numpy()
    z = np.moveaxis(x, 1, -1) if len(shape) == 3 else x
    mean, variance = z.mean(-1, keepdims=True), z.var(-1, keepdims=True)
    formula = g * (z - mean) / np.sqrt(variance + 1e-5) + b
    torchs = functional.layer_norm(
        torch.from_numpy(z.copy()), (7,), torch.from_numpy(g), torch.from_numpy(b), 1e-5
    ).numpy()
    for expected in (formula, torchs):
        expected = np.moveaxis(expected, -1, 1) if len(shape) == 3 else expected
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_gradients_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    layer = layer_of(shape)
    rng = np.random.default_rng(5)
    values = (rng.standard_normal((2, *shape)), *rng.standard_normal((2, 7)))
    x, g, b = (torch.from_numpy(value).requires_grad_() for value in values)

    def compute(x: torch.Tensor, g: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return layer.compute([x], {"g": g, "b": b})["hid1:out"]

    assert torch.autograd.gradcheck(compute, (x, g, b))
    assert torch.autograd.gradgradcheck(compute, (x, g, b))


def test_it_begins_without_a_gain_and_learns_one() -> None:
    layers = [None, 20, {"form": "layer_norm", "activation": "tanh"}, None]
    spec = TrainSpec.model_validate(
        {
            "network": {"layers": layers},
            "epochs": 60,
            "optimizer": {"form": "adam", "learning_rate": 0.01},
            "regularizers": [{"form": "contractive", "weight": 1e-4}],
        }
    )
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32))
    y = x[:, :1] * x[:, 1:2]
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (4,)}, output_shape=(1,)
    )
    start = initial_parameters(graph, seed=13)
    assert (start["hid2.g"] == 1).all()
    assert not start["hid2.b"].any()
    training = Training(graph, spec, resolve(spec, graph), TrainingData(x=rows_of(x), y=y))
    ends = [event for event in training if isinstance(event, EpochEnd)]
    assert ends[-1].train["loss"] < 0.2 * ends[0].train["loss"]
    kept = training.kept_parameters()
    assert (kept["hid2.g"] != 1).any()
    assert kept["hid2.b"].any()
    stored = NetworkSpec.model_validate(resolved_network(graph).model_dump(mode="json"))
    again = build_graph(stored, form="regressor", input_shapes=None, output_shape=None)
    wanted = ("hid2:pre", "hid2:out", "out:out")
    rows = rows_of(x.numpy())
    first, second = (
        Sampler(Network(made, kept), (), wanted=wanted).deterministic(rows)
        for made in (graph, again)
    )
    for name in wanted:
        assert np.array_equal(first[name], second[name])
    np.testing.assert_allclose(first["hid2:out"], np.tanh(first["hid2:pre"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [3, 21, 48, 130])
def test_samples_are_the_same_in_any_piece(width: int) -> None:
    norm = {"form": "layer_norm", "activation": "gelu"}
    residual = {"form": "add", "inputs": ["hid1", "hid3"]}
    network = random_network([6, width, norm, width, residual, "layer_norm", 2])
    spec = RegularizationSpec(hidden_dropout=0.5)
    x = np.random.default_rng(2).standard_normal((9, 6)).astype(np.float32)
    sampler = Sampler(network, resolve(spec, network.graph), wanted=("out:out",), seed=3)
    whole = sampler.samples(rows_of(x), np.arange(9), np.arange(70))["out:out"]
    part = sampler.samples(rows_of(x[4:6]), np.arange(4, 6), np.arange(7, 30))["out:out"]
    assert np.array_equal(part, whole[7:30, 4:6])


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute as the service does, whose tiles are not split among threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_samples_are_the_same_in_any_piece_where_the_width_is_large_and_odd() -> None:
    network = random_network([6, [4099, "norm:z+sigmoid"], 2])
    spec = RegularizationSpec(input_dropout=0.5)
    x = np.random.default_rng(2).standard_normal((9, 6)).astype(np.float32)
    sampler = Sampler(network, resolve(spec, network.graph), wanted=("hid1:out",), seed=3)
    whole = sampler.samples(rows_of(x), np.arange(9), np.arange(40))["hid1:out"]
    for rows, passes in ((slice(4, 6), slice(7, 30)), (slice(8, 9), slice(0, 40))):
        part = sampler.samples(rows_of(x[rows]), np.arange(9)[rows], np.arange(40)[passes])
        assert np.array_equal(part["hid1:out"], whole[passes, rows])


@pytest.mark.parametrize(
    ("layer", "pointer", "words"),
    [
        ({"form": "layer_norm", "size": 4}, "#/network/layers/2/size", "`size` is 4"),
        ({"form": "layer_norm", "inputs": ["in", "hid1"]}, "#/network/layers/2/inputs", "one inp"),
        ({"form": "layer_norm", "std": 0.1}, "#/network/layers/2/std", "no weights"),
    ],
)
def test_what_it_has_no_use_for_is_refused(layer: Any, pointer: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        graph_of([3, 3, layer, 1])
    assert refused.value.pointer == pointer
    with pytest.raises(SpecError, match="classifier"):
        graph_of([3, {"form": "layer_norm"}], "classifier")
