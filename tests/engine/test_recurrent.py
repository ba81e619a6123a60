"""Recurrent layers compute what their papers say, step by step, and what torch.nn computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from engine.artifact import document_of, load_model, weights_of
from engine.data.encoding import Encoding
from engine.errors import SpecError
from engine.graph import Graph
from engine.initializers import initial_parameters
from engine.network import Network, evaluate, trainable_weights
from engine.parameters import Parameters
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import RegularizationSpec
from tests.engine.networks import graph_of, rows_of

Doubles = npt.NDArray[np.float64]
Weights = dict[str, Doubles]
ROWS, STEPS, NIN, SIZE = 5, 7, 3, 6
X = np.random.default_rng(2).standard_normal((ROWS, STEPS, NIN)).astype(np.float32)


def network_of(layer: dict[str, Any], seed: int = 4) -> tuple[Network, Weights]:
    """A network whose first hidden layer is this one, with every parameter at random."""
    graph = graph_of([{"form": "input", "shape": [STEPS, NIN]}, {"size": SIZE, **layer}, 2])
    draw = np.random.default_rng(seed)
    values = {
        name: (0.5 * draw.standard_normal(shape)).astype(np.float32)
        for name, shape in graph.parameters.items()
    }
    own = {
        name.removeprefix("hid1."): value.astype(np.float64)
        for name, value in values.items()
        if name.startswith("hid1.")
    }
    return Network(graph, values), own


def computed(network: Network, x: npt.ArrayLike = X) -> dict[str, npt.NDArray[np.float32]]:
    names = tuple(network.graph.layers[1].outputs)
    outputs = Sampler(network, (), wanted=names).deterministic(rows_of(np.asarray(x, np.float32)))
    return {name.partition(":")[2]: value for name, value in outputs.items()}


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


def loop(step: Callable[..., dict[str, Doubles]], **states: int) -> dict[str, Doubles]:
    """Run a step of one row over every step of every row."""
    rows = []
    for row in X.astype(np.float64):
        state = {name: np.zeros(size) for name, size in states.items()}
        kinds: dict[str, list[Doubles]] = {}
        for t, x in enumerate(row):
            made = step(t, x, **state)
            state = {name: made[name] for name in states}
            for kind, value in made.items():
                kinds.setdefault(kind, []).append(value)
        rows.append({kind: np.stack(values) for kind, values in kinds.items()})
    return {kind: np.stack([row[kind] for row in rows]) for kind in rows[0]}


def rnn(w: Weights) -> dict[str, Doubles]:
    def step(_t: int, x: Doubles, out: Doubles) -> dict[str, Doubles]:
        pre = x @ w["xh"] + out @ w["hh"] + w["b"]
        return {"pre": pre, "out": np.tanh(pre)}

    return loop(step, out=SIZE)


def modules(count: int) -> Doubles:
    """Which hidden units (rows) each unit (column) reads: its own module and slower ones."""
    width = SIZE // count
    reads = np.zeros((SIZE, SIZE))
    for i, j in np.ndindex(SIZE, SIZE):
        reads[i, j] = float(i // width >= j // width)
    return reads


def clockwork(w: Weights) -> dict[str, Doubles]:
    def step(t: int, x: Doubles, out: Doubles, pre: Doubles) -> dict[str, Doubles]:
        new = x @ w["xh"] + out @ (w["hh"] * modules(3)) + w["b"]
        for module, period in enumerate((1, 2, 4)):
            if t % period:
                new[2 * module : 2 * module + 2] = pre[2 * module : 2 * module + 2]
        return {"pre": new, "out": np.tanh(new)}

    return loop(step, out=SIZE, pre=SIZE)


def bcrnn(w: Weights) -> dict[str, Doubles]:
    kept = np.repeat(1 - np.logspace(-1e-4, -6, 2), SIZE // 2)

    def step(_t: int, x: Doubles, out: Doubles, pre: Doubles) -> dict[str, Doubles]:
        new = x @ w["xh"] + out @ (w["hh"] * modules(2)) + w["b"]
        pre = kept * pre + (1 - kept) * new
        return {"pre": pre, "out": np.tanh(pre)}

    return loop(step, out=SIZE, pre=SIZE)


def rated(w: Weights) -> dict[str, Doubles]:
    def step(_t: int, x: Doubles, out: Doubles) -> dict[str, Doubles]:
        rate = sigmoid(x @ w["xr"] + w["r"] if "xr" in w else w["r"])
        pre = x @ w["xh"] + out @ w["hh"] + w["b"]
        hid = np.tanh(pre)
        return {"pre": pre, "hid": hid, "rate": rate, "out": (1 - rate) * out + rate * hid}

    return loop(step, out=SIZE)


def mrnn(w: Weights) -> dict[str, Doubles]:
    def step(_t: int, x: Doubles, out: Doubles) -> dict[str, Doubles]:
        factors = x @ w["xf"]
        pre = (factors * (out @ w["hf"])) @ w["fh"] + x @ w["xh"] + w["b"]
        return {"pre": pre, "factors": factors, "out": np.tanh(pre)}

    return loop(step, out=SIZE)


def lstm(w: Weights) -> dict[str, Doubles]:
    def step(_t: int, x: Doubles, out: Doubles, cell: Doubles) -> dict[str, Doubles]:
        i, f, c, o = np.split(x @ w["xh"] + out @ w["hh"] + w["b"], 4)
        i, f = sigmoid(i + w["ci"] * cell), sigmoid(f + w["cf"] * cell)
        cell = f * cell + i * np.tanh(c)
        return {"cell": cell, "out": sigmoid(o + w["co"] * cell) * np.tanh(cell)}

    return loop(step, out=SIZE, cell=SIZE)


def gru(w: Weights) -> dict[str, Doubles]:
    def step(_t: int, x: Doubles, out: Doubles) -> dict[str, Doubles]:
        own, reset, rate = np.split(x @ w["w"] + w["b"], 3)
        reset, rate = sigmoid(reset + out @ w["hr"]), sigmoid(rate + out @ w["hz"])
        pre = own + (reset * out) @ w["hh"]
        hid = np.tanh(pre)
        return {"pre": pre, "hid": hid, "rate": rate, "out": (1 - rate) * out + rate * hid}

    return loop(step, out=SIZE)


def mut1(w: Weights) -> dict[str, Doubles]:
    def step(_t: int, x: Doubles, out: Doubles) -> dict[str, Doubles]:
        reset = sigmoid(x @ w["xr"] + out @ w["hr"] + w["br"])
        rate = sigmoid(x @ w["xz"] + w["bz"])
        pre = np.tanh(x @ w["xh"]) + (reset * out) @ w["hh"] + w["bh"]
        hid = np.tanh(pre)
        return {"pre": pre, "hid": hid, "rate": rate, "out": (1 - rate) * out + rate * hid}

    return loop(step, out=SIZE)


def scrn(w: Weights) -> dict[str, Doubles]:
    rate = sigmoid(w["r"])

    def step(_t: int, x: Doubles, hid: Doubles, state: Doubles) -> dict[str, Doubles]:
        driven = x @ w["w"]
        state = (1 - rate) * state + rate * driven[SIZE:]
        hid = sigmoid(driven[:SIZE] + hid @ w["hh"] + state @ w["sh"])
        out = np.tanh(hid @ w["ho"] + state @ w["so"] + w["b"])
        return {"hid": hid, "state": state, "rate": rate, "out": out}

    return loop(step, hid=SIZE, state=4)


FORMS: list[tuple[dict[str, Any], Callable[[Weights], dict[str, Doubles]]]] = [
    ({"form": "rnn"}, rnn),
    ({"form": "clockwork", "periods": [4, 1, 2]}, clockwork),
    ({"form": "bcrnn", "num_modules": 2}, bcrnn),
    ({"form": "rrnn"}, rated),
    ({"form": "rrnn", "rate": "vector"}, rated),
    ({"form": "mrnn", "factors": 4}, mrnn),
    ({"form": "lstm"}, lstm),
    ({"form": "gru"}, gru),
    ({"form": "mut1"}, mut1),
    ({"form": "scrn", "context_size": 4}, scrn),
]


NAMES = [" ".join(map(str, layer.values())) for layer, _ in FORMS]


@pytest.mark.parametrize(("layer", "reference"), FORMS, ids=NAMES)
def test_a_form_computes_what_its_formulas_say(
    layer: dict[str, Any], reference: Callable[[Weights], dict[str, Doubles]]
) -> None:
    network, weights = network_of(layer)
    ours, expected = computed(network), reference(weights)
    assert set(ours) == set(expected)
    for kind, value in ours.items():
        np.testing.assert_allclose(value, expected[kind], rtol=1e-4, atol=1e-5, err_msg=kind)


@pytest.mark.parametrize(("layer", "_reference"), FORMS, ids=NAMES)
def test_a_backward_layer_reads_from_the_end(layer: dict[str, Any], _reference: Any) -> None:
    network, _ = network_of(layer)
    other, _ = network_of({**layer, "direction": "backwards"})
    forward, backward = computed(network, X[:, ::-1]), computed(other)
    for kind, value in forward.items():
        np.testing.assert_array_equal(backward[kind], value[:, ::-1])


@pytest.mark.parametrize(("layer", "_reference"), FORMS, ids=NAMES)
def test_gradients_are_those_of_finite_differences(layer: dict[str, Any], _reference: Any) -> None:
    graph = graph_of([{"form": "input", "shape": [3, 2]}, {**layer, "size": SIZE, "name": "h"}, 1])
    draw = torch.Generator().manual_seed(1)
    shapes = graph.parameters
    leaves = [
        (0.5 * torch.randn(shape, dtype=torch.float64, generator=draw)).requires_grad_()
        for shape in shapes.values()
    ]
    x = torch.randn(2, 3, 2, dtype=torch.float64, generator=draw)

    def out(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(shapes, values, strict=True))
        weights = {node.name: node.bound(named) for node in graph.layers}
        return evaluate(graph, weights, {"in:out": x}, wanted=("out:out",))["out:out"]

    assert torch.autograd.gradcheck(out, leaves)


def test_an_lstm_without_peepholes_is_that_of_torch() -> None:
    network, w = network_of({"form": "lstm"})
    values = {f"hid1.{name}": value.astype(np.float32) for name, value in w.items()
              if name in ("xh", "hh", "b")}  # fmt: skip
    zeros = {f"hid1.{name}": np.zeros(SIZE, np.float32) for name in ("ci", "cf", "co")}
    out = {name: np.zeros(shape, np.float32) for name, shape in network.graph.parameters.items()}
    ours = computed(Network(network.graph, {**out, **values, **zeros}))
    theirs = torch.nn.LSTM(NIN, SIZE, batch_first=True)
    copied = {
        "weight_ih_l0": w["xh"].T, "weight_hh_l0": w["hh"].T,
        "bias_ih_l0": w["b"], "bias_hh_l0": 0 * w["b"],
    }  # fmt: skip
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in copied.items()})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(X))[0].numpy()
    np.testing.assert_allclose(ours["out"], expected, rtol=1e-4, atol=1e-6)


def test_a_simple_layer_is_that_of_torch() -> None:
    network, w = network_of({"form": "rnn"})
    theirs = torch.nn.RNN(NIN, SIZE, batch_first=True)
    copied = {
        "weight_ih_l0": w["xh"].T, "weight_hh_l0": w["hh"].T,
        "bias_ih_l0": w["b"], "bias_hh_l0": 0 * w["b"],
    }  # fmt: skip
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in copied.items()})
    with torch.no_grad():
        expected = theirs(torch.from_numpy(X))[0].numpy()
    np.testing.assert_allclose(computed(network)["out"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("worker", ["rnn", "lstm", "gru"])
def test_a_bidirectional_layer_is_its_workers_side_by_side(worker: str) -> None:
    network, _ = network_of({"form": "bidirectional", "worker": worker})
    values = initial_parameters(network.graph, seed=3)
    both = computed(Network(network.graph, values))
    for way, direction in (("fw", "forward"), ("bw", "backwards")):
        graph = graph_of(
            [
                {"form": "input", "shape": [STEPS, NIN]},
                {"form": worker, "size": SIZE // 2, "direction": direction},
                2,
            ]
        )
        own = {
            name: values.get(name.replace("hid1.", f"hid1_{way}."), np.zeros(shape, np.float32))
            for name, shape in graph.parameters.items()
        }
        alone = computed(Network(graph, own))
        for kind, value in alone.items():
            np.testing.assert_allclose(both[f"{way}_{kind}"], value, rtol=1e-5, atol=1e-7)
    halves = [both["fw_out"], both["bw_out"]]
    assert np.array_equal(both["out"], np.concatenate(halves, axis=2))
    assert {"hid1_fw.b", "hid1_bw.b"} <= set(network.graph.parameters)


def test_states_start_where_other_outputs_say() -> None:
    layers = [
        {"form": "input", "name": "x", "shape": [STEPS, NIN]},
        {"form": "input", "name": "s", "size": SIZE},
        {"form": "lstm", "name": "l", "size": SIZE, "inputs": ["x"], "h_0": "s", "c_0": "s"},
        1,
    ]
    graph = graph_of(layers)
    network = Network(graph, initial_parameters(graph, seed=3))
    x = np.concatenate([X[:, :3], X[:, :3]], axis=1)[:, : STEPS - 1]
    start = np.random.default_rng(0).standard_normal((ROWS, SIZE)).astype(np.float32)
    rows = rows_of(np.pad(x, ((0, 0), (0, 1), (0, 0))), "x")
    rows.values["s:out"] = start
    ours = Sampler(network, (), wanted=("l:out",)).deterministic(rows)["l:out"]
    rows.values["s:out"] = 0 * start
    zeros = Sampler(network, (), wanted=("l:out",)).deterministic(rows)["l:out"]
    assert np.abs(ours[:, 0] - zeros[:, 0]).min(axis=1).min() > 0
    h, c = start.astype(np.float64), start.astype(np.float64)
    w = {
        name.removeprefix("l."): value.astype(np.float64)
        for name, value in initial_parameters(graph, seed=3).items()
    }
    i, f, new, o = np.split(x[:, 0] @ w["xh"] + h @ w["hh"] + w["b"], 4, axis=1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(new)
    np.testing.assert_allclose(ours[:, 0], sigmoid(o) * np.tanh(c), rtol=1e-4, atol=1e-6)


def test_gradients_go_no_further_back_than_the_limit() -> None:
    reach = {}
    for limit in (None, 3):
        layer = {"form": "rnn", "size": 4, "bptt_limit": limit}
        graph = graph_of([{"form": "input", "shape": [STEPS, NIN]}, layer, {"form": "last"}])
        parameters = Parameters(graph.parameters, device=torch.device("cpu"))
        parameters.assign(initial_parameters(graph, seed=1))
        x = torch.from_numpy(X).requires_grad_()
        known = {"in:out": x}
        weights = trainable_weights(graph, parameters)
        out = evaluate(graph, weights, known, wanted=("out:out",))["out:out"]
        out.sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        reach[limit] = x.grad.abs().sum(dim=(0, 2)).numpy() > 0
    assert reach[None].all()
    assert reach[3].tolist() == [False] * 6 + [True]


@pytest.mark.parametrize("layer", [*(layer for layer, _ in FORMS),
                                   {"form": "bidirectional", "worker": "lstm"}],
                         ids=str)  # fmt: skip
def test_samples_are_the_same_in_any_piece_and_masks_change_readers_alone(
    layer: dict[str, Any],
) -> None:
    network, _ = network_of(layer)
    kind = "cell" if "lstm" in layer.values() else "pre" if layer["form"] != "scrn" else "state"
    spec = RegularizationSpec.model_validate(
        {
            "dropout": {f"hid1:{kind}": 0.5, "hid1:out": 0.25},
            "regularizers": [{"form": "drop_connect", "pattern": "hid1*.*", "weight": 0.1}],
        }
    )
    names = ("out:out", "hid1:out")
    sampler = Sampler(network, resolve(spec, network.graph), wanted=names, seed=3)
    whole = sampler.samples(rows_of(X), np.arange(ROWS), np.arange(6))
    part = sampler.samples(rows_of(X[2:4]), np.arange(2, 4), np.arange(1, 5))
    for name in names:
        assert np.isfinite(whole[name]).all()
        assert np.array_equal(part[name], whole[name][1:5, 2:4])


def test_a_mask_on_the_cell_leaves_the_output_as_it_is() -> None:
    network, _ = network_of({"form": "lstm"})
    spec = RegularizationSpec(dropout={"hid1:cell": 0.5})
    wanted = ("hid1:out", "hid1:cell")
    sampler = Sampler(network, resolve(spec, network.graph), wanted=wanted)
    assert sampler.stochastic == ("hid1:cell",)


def test_parameters_begin_as_they_are_said_to() -> None:
    graph = graph_of(
        [
            {"form": "input", "shape": [STEPS, NIN]},
            {"form": "lstm", "size": 8, "radius": 0.5},
            {"form": "rnn", "size": 8, "diagonal": 0.9},
            1,
        ]
    )
    values = initial_parameters(graph, seed=1)
    for block in np.split(values["hid1.hh"], 4, axis=1):
        assert np.linalg.norm(block, 2) == pytest.approx(0.5, rel=1e-5)
    assert np.array_equal(values["hid2.hh"], 0.9 * np.eye(8, dtype=np.float32))
    assert np.abs(values["hid2.xh"]).min() > 0
    assert values["hid1.b"].reshape(4, 8).mean(axis=1).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("layer", "key", "words"),
    [
        ({"form": "clockwork"}, "periods", "periods"),
        ({"form": "clockwork", "periods": [1, 2, 3, 4]}, "size", "4 modules"),
        ({"form": "bcrnn"}, "num_modules", "num_modules"),
        ({"form": "bidirectional", "size": 5}, "size", "odd"),
        ({"form": "bidirectional", "direction": "backwards"}, "direction", "direction"),
        ({"form": "bidirectional", "worker": "lstm", "factors": 3}, "factors", "factors"),
        ({"form": "rnn", "periods": [1]}, "periods", "periods"),
        ({"form": "lstm", "activation": "relu"}, "activation", "activation"),
        ({"form": "rnn", "h_0": "nothing"}, "h_0", "in:out"),
        ({"form": "rnn", "h_0": "in"}, "h_0", "numbers for each row"),
        ({"form": "scrn", "rate": "matrix"}, "rate", "vector"),
        ({"form": "mrnn", "radius": 0.9}, "radius", "square"),
        ({"form": "mrnn", "diagonal": 1.0}, "diagonal", "square"),
        ({"form": "bidirectional", "worker": "mrnn", "radius": 0.9}, "radius", "square"),
    ],
)
def test_what_a_form_cannot_do_is_refused(layer: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        network_of(layer)
    assert caught.value.pointer == f"#/network/layers/1/{key}"


@pytest.mark.parametrize(
    ("worker", "later"),
    [
        ("gru", {"form": "gru", "size": 2, "name": "hid1_fw"}),
        ("gru", {"size": 3, "name": "hid1_bw"}),
        ("rnn", {"form": "rnn", "size": 3, "name": "hid1_fw", "inputs": "in"}),
        ("lstm", {"form": "layer_norm", "name": "hid1_bw"}),
    ],
    ids=str,
)
def test_no_later_layer_shares_a_workers_parameters_by_its_name(
    worker: str, later: dict[str, Any]
) -> None:
    both = {"form": "bidirectional", "worker": worker, "size": SIZE}
    with pytest.raises(SpecError, match="give another name") as caught:
        graph_of([{"form": "input", "shape": [STEPS, NIN]}, both, later, 1])
    assert caught.value.pointer == "#/network/layers/2/name"
    graph = graph_of([{"form": "input", "shape": [STEPS, NIN]}, both, {**later, "name": "h"}, 1])
    assert len(graph.parameters) == sum(len(layer.own_parameters) for layer in graph.layers)


def test_a_recurrent_layer_reads_sequences_alone() -> None:
    with pytest.raises(SpecError, match="a sequence"):
        graph_of([4, {"form": "lstm", "size": 3}, 1])


@pytest.mark.parametrize("layer", [*(layer for layer, _ in FORMS), {"form": "rrnn", "rate": "log"},
                                   {"form": "bidirectional", "worker": "gru"},
                                   {"form": "rnn", "activation": "prelu", "bptt_limit": 2}],
                         ids=str)  # fmt: skip
def test_a_stored_layer_comes_back_whole(layer: dict[str, Any]) -> None:
    network, _ = network_of(layer)
    graph: Graph = network.graph
    values = initial_parameters(graph, seed=9)
    encoding = Encoding.identity({"in": (STEPS, NIN)}, (STEPS, 2), "regressor")
    stored = weights_of(values)
    document = document_of(
        graph, encoding, (), stored, spec=None, noise_precision=None, metrics={}, kept_epoch=None,
        version="1",
    )  # fmt: skip
    model = load_model(json.loads(json.dumps(document)), stored)
    assert model.graph.outputs == graph.outputs
    ours, again = computed(Network(graph, values)), computed(model.network)
    for kind, value in ours.items():
        assert np.array_equal(again[kind], value)
