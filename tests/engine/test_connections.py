"""Layers with several inputs, by name: what they compute, and what they cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import SpecError
from engine.initializers import initial_parameters
from engine.network import Network
from engine.plan import plan_training
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import RegularizationSpec, TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import Floats, graph_of, rows_of
from tests.engine.test_plan import TABLE

LAYERS: list[Any] = [
    4,
    {"size": 6, "activation": "tanh"},
    {"size": 6, "activation": "linear", "inputs": ["hid1", "in"]},
    {"form": "product", "inputs": ["hid1", "hid2"]},
    {"form": "add", "inputs": ["hid3", "hid1:pre"], "name": "sum"},
    {"form": "concatenate", "inputs": ["sum", "in:out"], "name": "both"},
    2,
]


def by_hand(w: dict[str, Floats], x: Floats, mask: Floats | float = 1.0) -> Any:
    """The network above in float64, with `hid1:out` multiplied by a mask."""
    p = {name: value.astype(np.float64) for name, value in w.items()}
    pre1 = x @ p["hid1.w"] + p["hid1.b"]
    hid1 = np.tanh(pre1) * mask
    hid2 = hid1 @ p["hid2.w_hid1:out"] + x @ p["hid2.w_in:out"] + p["hid2.b"]
    both = np.concatenate([hid1 * hid2 + pre1, x], axis=1)
    return both @ p["out.w"] + p["out.b"]


def test_names_and_shapes_follow_the_inputs() -> None:
    graph = graph_of(LAYERS)
    assert graph.parameters == {
        "hid1.w": (4, 6), "hid1.b": (6,),
        "hid2.w_hid1:out": (6, 6), "hid2.w_in:out": (4, 6), "hid2.b": (6,),
        "out.w": (10, 2), "out.b": (2,),
    }  # fmt: skip
    assert [name for name in graph.outputs if name.startswith(("hid3", "sum", "both"))] == [
        "hid3:out", "sum:out", "both:out",
    ]  # fmt: skip
    assert graph.outputs["both:out"] == (10,)


def test_the_network_computes_what_is_worked_by_hand() -> None:
    graph = graph_of(LAYERS)
    values = initial_parameters(graph, seed=4)
    x = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    sampler = Sampler(Network(graph, values), (), wanted=("out:out",))
    ours = sampler.deterministic(rows_of(x))["out:out"]
    np.testing.assert_allclose(ours, by_hand(values, x), rtol=1e-5, atol=1e-6)


def test_every_reader_reads_an_output_dropped_but_pre_stays() -> None:
    graph = graph_of(LAYERS)
    values = initial_parameters(graph, seed=4)
    x = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    spec = RegularizationSpec(dropout={"hid1:out": 0.5})
    wanted = ("out:out", "hid1:out", "hid1:out-predrop")
    sampler = Sampler(Network(graph, values), resolve(spec, graph), wanted=wanted, seed=1)
    drawn = sampler.samples(rows_of(x), np.arange(9), np.arange(1))
    mask = np.where(drawn["hid1:out"][0] == 0, 0.0, 2.0)
    np.testing.assert_allclose(drawn["out:out"][0], by_hand(values, x, mask), rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_weight() -> None:
    graph = graph_of(LAYERS)
    spec = TrainSpec.model_validate(
        {
            "network": {"layers": LAYERS},
            "epochs": 300,
            "optimizer": {"form": "adam", "learning_rate": 0.02},
            "validation": None,
        }
    )
    x = np.random.default_rng(1).standard_normal((64, 4)).astype(np.float32)
    target = by_hand(initial_parameters(graph, seed=99), x).astype(np.float32)
    data = TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(target))
    training = Training(graph, spec, (), data)
    ends = [event for event in training if isinstance(event, EpochEnd)]
    assert ends[-1].train["loss"] < 0.02 * ends[0].train["loss"]
    start = initial_parameters(graph, seed=13)
    for name, value in training.kept_parameters().items():
        assert not np.array_equal(value, start[name]), name


def test_initial_weights_are_as_their_layer_says() -> None:
    graph = graph_of(
        [
            300,
            {"size": 200, "mean": 2.0, "std": 0.1},
            {"size": 200, "sparsity": 0.7},
            {"size": 200, "diagonal": 0.5},
            1,
        ]
    )
    values = initial_parameters(graph, seed=3)
    first = values["hid1.w"]
    assert abs(first.mean() - 2.0) < 4 * 0.1 / np.sqrt(first.size)
    assert abs(first.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * first.size)
    zeros = (values["hid2.w"] == 0).mean()
    assert abs(zeros - 0.7) < 4 * np.sqrt(0.7 * 0.3 / values["hid2.w"].size)
    assert np.array_equal(values["hid3.w"], 0.5 * np.eye(200, dtype=np.float32))


@pytest.mark.parametrize(
    ("layer", "pointer", "words"),
    [
        ({"size": 3, "inputs": ["hid9"]}, "#/network/layers/2/inputs/0", "'hid9:out'"),
        ({"size": 3, "inputs": ["hid2"]}, "#/network/layers/2/inputs/0", "earlier"),
        ({"size": 3, "inputs": ["in", "in:out"]}, "#/network/layers/2/inputs/1", "twice"),
        ({"form": "add", "inputs": ["in", "hid1"]}, "#/network/layers/2/inputs", "one size"),
        ({"form": "add", "activation": "relu"}, "#/network/layers/2/activation", "no activation"),
        ({"form": "add", "std": 1.0}, "#/network/layers/2/std", "no weights"),
        (
            {"form": "concatenate", "inputs": ["in", "hid1"], "size": 4},
            "#/network/layers/2/size",
            "7",
        ),
        ({"form": "tied", "inputs": ["hid1", "in"]}, "#/network/layers/2", "one input"),
    ],
)  # fmt: skip
def test_inputs_that_make_no_sense_are_refused_where_they_stand(
    layer: dict[str, Any], pointer: str, words: str
) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        graph_of([2, 5, layer, 1])
    assert caught.value.pointer == pointer


def test_a_residual_network_trains_on_a_table() -> None:
    spec = TrainSpec.model_validate(
        {
            "inputs": ["a", "b"],
            "targets": ["y"],
            "network": {"layers": [None, 8, 8, {"form": "add", "inputs": ["hid1", "hid2"]}, None]},
            "hidden_dropout": 0.1,
        }
    )
    plan = plan_training(spec, TABLE)
    assert plan.describe()["layers"][3]["inputs"] == ["hid1:out", "hid2:out"]
    assert plan.regularizers[0].matched == ("hid1:out", "hid2:out", "hid3:out")
