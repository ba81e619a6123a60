"""Sequences, images and several inputs go through training, sampling and prediction alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.data.inputs import Inputs
from engine.errors import SpecError
from engine.graph import build_graph
from engine.initializers import initial_parameters
from engine.network import Network
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import NetworkSpec, RegularizationSpec, TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import graph_of, random_network, rows_of

SEQUENCES = np.random.default_rng(2).standard_normal((9, 6, 3)).astype(np.float32)
LAYERS = [{"form": "input", "shape": [6, 3]}, 20, {"form": "last"}, 2]


def test_a_dense_layer_reads_a_sequence_step_by_step() -> None:
    graph = graph_of(LAYERS)
    assert graph.outputs["hid1:out"] == (6, 20)
    assert graph.outputs["hid2:out"] == (20,)
    values = initial_parameters(graph, seed=1)
    ours = Sampler(Network(graph, values), (), wanted=("out:out",)).deterministic(
        rows_of(SEQUENCES)
    )["out:out"]
    hidden = np.maximum(SEQUENCES[:, -1] @ values["hid1.w"] + values["hid1.b"], 0)
    np.testing.assert_allclose(ours, hidden @ values["out.w"] + values["out.b"], atol=1e-5)


def test_samples_of_sequences_are_the_same_in_any_piece() -> None:
    network = random_network(LAYERS)
    spec = RegularizationSpec(hidden_dropout=0.5, input_dropout=0.2)
    sampler = Sampler(network, resolve(spec, network.graph), wanted=("out:out", "hid1:out"), seed=3)
    whole = sampler.samples(rows_of(SEQUENCES), np.arange(9), np.arange(80))
    part = sampler.samples(rows_of(SEQUENCES[4:6]), np.arange(4, 6), np.arange(7, 30))
    assert whole["hid1:out"].shape == (80, 9, 6, 20)
    for name in whole:
        assert np.array_equal(part[name], whole[name][7:30, 4:6])
    assert abs((whole["hid1:out"] == 0).mean() - 0.75) < 0.05  # half of them by the rectifier


def test_several_inputs_enter_where_their_layers_stand() -> None:
    spec = NetworkSpec.model_validate(
        {
            "layers": [
                {"name": "a", "form": "input"},
                {"name": "b", "form": "input"},
                {"name": "h", "size": 5, "inputs": ["a", "b"]},
                None,
            ]
        }
    )
    graph = build_graph(
        spec, form="regressor", input_shapes={"a": (4,), "b": (2,)}, output_shape=(1,)
    )
    values = initial_parameters(graph, seed=1)
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((7, n)).astype(np.float32) for n in (4, 2))
    x = Inputs({"a:out": a, "b:out": b})
    ours = Sampler(Network(graph, values), (), wanted=("out:out",)).deterministic(x)["out:out"]
    hidden = np.maximum(a @ values["h.w_a:out"] + b @ values["h.w_b:out"] + values["h.b"], 0)
    np.testing.assert_allclose(ours, hidden @ values["out.w"] + values["out.b"], atol=1e-5)
    assert graph.hidden == (graph.layers[2],)


@pytest.mark.parametrize("form", ["regressor", "classifier"])
def test_losses_and_metrics_of_sequences_are_means_over_steps(form: str) -> None:
    x = torch.from_numpy(SEQUENCES)
    y = x[..., :2] * 2 if form == "regressor" else (x[..., 0] > 0).long()
    weights = torch.rand(9, 6, generator=torch.Generator().manual_seed(0))
    spec = TrainSpec.model_validate(
        {
            "network": {"form": form, "layers": [None, 30, None]},
            "epochs": 200,
            "optimizer": {"form": "adam", "learning_rate": 0.01},
            "hidden_dropout": 0.01,
        }
    )
    graph = build_graph(
        spec.network,
        form=form,  # type: ignore[arg-type]
        input_shapes={"in": (6, 3)},
        output_shape=(6, 2),
    )
    data = TrainingData(x=rows_of(x), y=y, weights=weights)
    training = Training(graph, spec, resolve(spec, graph), data, data)
    ends = [event for event in training if isinstance(event, EpochEnd)]
    assert ends[-1].valid["loss"] < 0.1 * ends[0].valid["loss"]
    if form == "classifier":
        assert ends[-1].valid["accuracy"] > 0.95


def test_what_has_not_the_shape_of_the_data_is_refused() -> None:
    spec = NetworkSpec.model_validate({"layers": [None, 5, None]})
    with pytest.raises(SpecError, match="'last'") as caught:
        build_graph(spec, form="regressor", input_shapes={"in": (6, 3)}, output_shape=(2,))
    assert caught.value.pointer == "#/network/layers/2"
    with pytest.raises(SpecError, match="flatten"):
        build_graph(spec, form="regressor", input_shapes={"in": (1, 6, 3)}, output_shape=(2,))
