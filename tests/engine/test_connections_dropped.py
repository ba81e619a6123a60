"""Dropout on weights, over whole steps and channels, and at rates that are learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.data.inputs import Inputs
from engine.errors import SpecError
from engine.graph import Graph, build_graph
from engine.initializers import initial_parameters
from engine.network import Network
from engine.regularizers import ConcreteDropout, Regularizer, is_stochastic, learnt, resolve
from engine.regularizers.concrete import ConcreteDropout as Concrete
from engine.sampling import Sampler
from engine.spec import RegularizationSpec, TrainSpec
from engine.streams import drop_mask, row_states, stream_key
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import Floats, graph_of, random_network, rows_of

ROWS = np.random.default_rng(3).standard_normal((9, 4)).astype(np.float32)
NETWORK: list[Any] = [4, [20, "tanh"], 2]


def regularizers_of(graph: Graph, *given: dict[str, Any]) -> tuple[Regularizer, ...]:
    return resolve(RegularizationSpec.model_validate({"regularizers": list(given)}), graph)


def weight_mask(name: str, pattern: str, shape: tuple[int, int], number: int, row: int) -> Floats:
    key = stream_key(5, "predict independent", 0, name, pattern, "connection")
    drop = drop_mask(row_states(key, np.array([number]), np.array([row])), shape[0] * shape[1], 0.4)
    return np.where(drop[0].reshape(shape), 0, 1 / 0.6).astype(np.float32)


def test_each_row_and_pass_has_weights_of_its_own() -> None:
    graph = graph_of(NETWORK)
    values = initial_parameters(graph, seed=2)
    acting = regularizers_of(graph, {"form": "drop_connect", "pattern": "hid*.w", "weight": 0.4})
    sampler = Sampler(Network(graph, values), acting, wanted=("out:out", "hid1:out"), seed=5)
    assert sampler.stochastic == ("out:out", "hid1:out")
    drawn = sampler.samples(rows_of(ROWS), np.arange(9), np.arange(6))
    for number, row in np.ndindex(6, 9):
        mask = weight_mask("hid1.w", "hid*.w", (4, 20), number, row)
        hidden = np.tanh(ROWS[row] @ (values["hid1.w"] * mask) + values["hid1.b"])
        np.testing.assert_allclose(drawn["hid1:out"][number, row], hidden, rtol=1e-4, atol=1e-6)
        out = hidden @ values["out.w"] + values["out.b"]
        np.testing.assert_allclose(drawn["out:out"][number, row], out, rtol=1e-4, atol=1e-5)
    part = sampler.samples(rows_of(ROWS[4:5]), np.array([4]), np.arange(3, 5))
    assert np.array_equal(part["out:out"][:, 0], drawn["out:out"][3:5, 4])


def test_shared_masks_give_all_rows_the_same_weights() -> None:
    network = random_network(NETWORK)
    acting = regularizers_of(network.graph, {"form": "drop_connect", "weight": 0.5})
    sampler = Sampler(network, acting, wanted=("out:out",), seed=5, masks="shared")
    same = np.repeat(ROWS[:1], 9, axis=0)
    drawn = sampler.samples(rows_of(same), np.arange(9), np.arange(20))["out:out"]
    assert np.array_equal(drawn, np.repeat(drawn[:, :1], 9, axis=1))
    assert len(np.unique(drawn[:, 0, 0])) == 20


def test_a_tied_layer_drops_what_its_partner_drops() -> None:
    graph = graph_of([4, [3, "linear"], "tied"], form="autoencoder")
    values = initial_parameters(graph, seed=2)
    acting = regularizers_of(graph, {"form": "drop_connect", "pattern": "hid1.w", "weight": 0.4})
    sampler = Sampler(Network(graph, values), acting, wanted=("out:out",), seed=5)
    drawn = sampler.samples(rows_of(ROWS), np.arange(9), np.arange(4))["out:out"]
    for number, row in np.ndindex(4, 9):
        weight = values["hid1.w"] * weight_mask("hid1.w", "hid1.w", (4, 3), number, row)
        np.testing.assert_allclose(drawn[number, row], ROWS[row] @ weight @ weight.T, atol=1e-5)


def trained(
    layers: list[Any], x: Floats, y: Floats, **spec: Any
) -> tuple[Training, list[EpochEnd]]:
    parsed = TrainSpec.model_validate({"network": {"layers": layers}, "validation": None, **spec})
    graph = build_graph(
        parsed.network,
        form="regressor",
        input_shapes={"in": x.shape[1:]},
        output_shape=y.shape[1:],
    )
    data = TrainingData(x=Inputs({"in:out": torch.from_numpy(x)}), y=torch.from_numpy(y))
    training = Training(graph, parsed, resolve(parsed, graph), data)
    return training, [event for event in training if isinstance(event, EpochEnd)]


def test_training_drops_weights_once_for_a_batch() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)).astype(np.float32)
    training, ends = trained(
        [None, [200, "tanh"], None],
        x,
        x[:, :1] * 2,
        regularizers=[{"form": "drop_connect", "pattern": "hid1.w", "weight": 0.3}],
        epochs=30,
        batch_size=20,
    )
    drawn = 30 * 10 * 800
    rates = [end.regularizers[0]["rates"]["hid1.w"] for end in ends]
    assert abs(np.mean(rates) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / drawn)
    assert ends[-1].train["loss"] < 0.3 * ends[0].train["loss"]
    assert all(np.isfinite(value).all() for value in training.kept_parameters().values())


def test_one_mask_may_serve_all_steps_and_all_pixels() -> None:
    steps = random_network([{"form": "input", "shape": [7, 3]}, 20, 2])
    acting = regularizers_of(
        steps.graph,
        {"form": "bernoulli_dropout", "pattern": "hid1:out", "weight": 0.5, "steps": "shared"},
    )
    wanted = ("hid1:out", "hid1:out-predrop")
    x = np.random.default_rng(1).standard_normal((5, 7, 3)).astype(np.float32)
    sampler = Sampler(steps, acting, wanted=wanted)
    drawn = sampler.samples(rows_of(x), np.arange(5), np.arange(8))
    before = sampler.deterministic(rows_of(x))["hid1:out-predrop"][None]
    kept = np.where(before > 0, drawn["hid1:out"] / np.where(before > 0, before, 1), np.nan)
    lowest, highest = np.nanmin(kept, axis=2), np.nanmax(kept, axis=2)
    seen = ~np.isnan(lowest)
    np.testing.assert_allclose(lowest[seen], highest[seen], rtol=1e-5)
    assert {0.0, 2.0} == set(np.round(lowest[seen], 3).tolist())

    image = {"form": "input", "shape": [3, 4, 5]}
    network = random_network(
        [image, {"form": "concatenate", "inputs": ["in"], "name": "copy"}, {"form": "add"}]
    )
    acting = regularizers_of(
        network.graph,
        {"form": "bernoulli_dropout", "pattern": "in:out", "weight": 0.5, "spatial": True},
    )
    ones = np.ones((6, 3, 4, 5), dtype=np.float32)
    pixels = Sampler(network, acting, wanted=("out:out",)).samples(
        rows_of(ones), np.arange(6), np.arange(9)
    )["out:out"]
    assert np.array_equal(pixels, np.broadcast_to(pixels[..., :1, :1], pixels.shape))
    assert set(np.unique(pixels).tolist()) == {0.0, 2.0}
    for key, what in (("steps", "sequences"), ("spatial", "images")):
        value = "shared" if key == "steps" else True
        given = {"form": "bernoulli_dropout", "weight": 0.1, key: value}
        with pytest.raises(SpecError, match=what) as caught:
            regularizers_of(graph_of(NETWORK), given)
        assert caught.value.pointer == f"#/regularizers/0/{key}"


CONCRETE = {
    "form": "concrete_dropout",
    "weight": 0.01,
    "weight_regularizer": 0.002,
    "initial_rate": 0.2,
}


def test_the_term_of_concrete_dropout_is_that_of_the_paper() -> None:
    graph = graph_of([4, [20, "tanh"], [6, "tanh"], 2])
    (concrete,) = regularizers_of(graph, CONCRETE)
    assert isinstance(concrete, ConcreteDropout)
    values = {n: torch.from_numpy(v).double() for n, v in initial_parameters(graph, seed=1).items()}
    logits = {"0 hid1:out rate": -1.0, "0 hid2:out rate": 0.5}
    values |= {name: torch.tensor(value, dtype=torch.float64) for name, value in logits.items()}
    expected = 0.0
    for start, count, weight in ((-1.0, 20, "hid2.w"), (0.5, 6, "out.w")):
        p = 1 / (1 + np.exp(-start))
        expected += 0.01 * count * (p * np.log(p) + (1 - p) * np.log(1 - p))
        expected += 0.002 * float(values[weight].square().sum()) / (1 - p)
    assert concrete.loss(0, values).item() == pytest.approx(expected, rel=1e-9)
    drawn = torch.logit(torch.rand(5, 4, dtype=torch.float64))
    logit = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    z = 1 / (1 + np.exp(-(-1.0 + drawn.numpy()) / 0.1))
    p = 1 / (1 + np.exp(1.0))
    mask = concrete.mask(logit, drawn)
    np.testing.assert_allclose(mask.detach().numpy(), (1 - z) / (1 - p), rtol=1e-9)
    assert torch.autograd.gradcheck(lambda value: concrete.mask(value, drawn).sum(), (logit,))
    assert torch.autograd.gradcheck(
        lambda value: concrete.loss(0, {**values, "0 hid1:out rate": value}), (logit,)
    )


def test_rates_are_learnt_logged_kept_and_dropped_with() -> None:
    """With much noise in little data the rate grows; with the weights' term alone it falls."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 3)).astype(np.float32)
    y = (x[:, :1] + 0.1 * rng.standard_normal((100, 1))).astype(np.float32)
    learnt_rates = {}
    for weight in (0.0, 0.5):
        training, ends = trained(
            [None, [30, "tanh"], None],
            x,
            y,
            regularizers=[{**CONCRETE, "weight": weight}],
            epochs=80,
            optimizer={"form": "adam", "learning_rate": 0.01},
        )
        assert ends[0].regularizers[0]["rates"]["hid1:out"] == pytest.approx(0.2, abs=0.05)
        rates = training.kept_rates()
        assert rates[0]["hid1:out"] == ends[-1].regularizers[0]["rates"]["hid1:out"]
        assert set(training.kept_parameters()) == set(training.graph.parameters)
        learnt_rates[weight] = rates[0]["hid1:out"]
        (dropout,) = learnt(training.regularizers, rates)
        assert dropout.weight == rates[0]["hid1:out"]
        assert dropout.pattern == "hid1:out"
    assert learnt_rates[0.0] < 0.1 < 0.3 < learnt_rates[0.5]
    assert is_stochastic(training.regularizers)
    assert isinstance(training.regularizers[0], Concrete)


def test_learnt_rates_resume_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3)).astype(np.float32)
    spec = {
        "regularizers": [CONCRETE, {"form": "drop_connect", "weight": 0.2}],
        "epochs": 6,
        "batch_size": 10,
    }
    whole, _ = trained([None, 5, None], x, x[:, :1], **spec)
    parsed = TrainSpec.model_validate({"network": {"layers": [None, 5, None]}, **spec})
    halves = []
    for _ in range(2):
        data = TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(x[:, :1]))
        halves.append(Training(whole.graph, parsed, resolve(parsed, whole.graph), data))
    for event in halves[0]:
        if isinstance(event, EpochEnd) and event.epoch == 3:
            break
    halves[1].restore(halves[0].state())
    for _ in halves[1]:
        pass
    assert halves[1].state() == whole.state()
    assert halves[1].kept_rates() == whole.kept_rates()
