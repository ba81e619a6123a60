"""Compiled recurrence: an LSTM layer and its gradients are those of the steps taken by PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.graph import build_graph
from engine.kernels.builds import find_kernels, runnable_builds
from engine.kernels.recurrence import compiled_scans, scan_threads, scans_lstm
from engine.layers import Layer
from engine.regularizers import resolve
from engine.spec import TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import graph_of, rows_of

Tensors = dict[str, Tensor]


def layer_of(steps: int, inputs: int, size: int, **keys: Any) -> Layer:
    """An LSTM that starts from two other inputs."""
    graph = graph_of(
        [
            {"form": "input", "name": "h", "size": size},
            {"form": "input", "name": "c", "size": size},
            {"form": "input", "name": "x", "shape": [steps, inputs]},
            {"form": "lstm", "name": "l", "size": size, "inputs": ["x"], **keys},
            {"form": "last"},
            1,
        ]
    )
    return graph.layers[3]


def drawn(rows: int, steps: int, inputs: int, size: int, seed: int = 1) -> Tensors:
    """Weights, inputs, states and gradients by the outputs, in double precision."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.from_numpy(scale * rng.standard_normal(shape))

    return {
        "x": normal(rows, steps, inputs),
        "xh": normal(inputs, 4 * size, scale=inputs**-0.5),
        "hh": normal(size, 4 * size, scale=size**-0.5),
        "b": normal(4 * size),
        **{name: normal(size) for name in ("ci", "cf", "co")},
        "h_0": normal(rows, size),
        "c_0": normal(rows, size),
        "out": normal(rows, steps, size),
        "cell": normal(rows, steps, size),
    }


def computed(layer: Layer, values: Tensors, kinds: tuple[str, ...]) -> Tensors:
    """The outputs, and the gradients of what they come from by a sum of the outputs named."""
    given = ["x", "xh", "hh", "b", "ci", "cf", "co"]
    given += [{"h:out": "h_0", "c:out": "c_0"}[name] for name in layer.inputs[1:]]
    leaves = {name: values[name].clone().requires_grad_() for name in given}
    inputs = [leaves["x"], *(leaves[name] for name in given[7:])]
    outputs = layer.compute(inputs, {name: leaves[name] for name in given[1:7]})
    torch.stack([(outputs[f"l:{kind}"] * values[kind]).sum() for kind in kinds]).sum().backward()  # type: ignore[no-untyped-call]
    return {name: value.detach() for name, value in outputs.items()} | {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }


def terms_of(layer: Layer, values: Tensors, kinds: tuple[str, ...]) -> Tensors:
    """Sums of the absolute terms of the gradients that are sums of products of the gates'."""
    rows, steps, _ = values["x"].shape
    backwards = layer.spec.direction == "backwards"

    def scanned(states: Tensor) -> Tensor:
        return (states.flip(1) if backwards else states).abs()

    def before(states: Tensor, name: str) -> Tensor:
        given = getattr(layer.spec, name) is not None
        start = values[name].abs() if given else torch.zeros_like(states[:, 0])
        return torch.cat([start.unsqueeze(1), states[:, :-1]], dim=1)

    found = computed(layer, values, kinds)
    x, cell, out = scanned(values["x"]), scanned(found["l:cell"]), scanned(found["l:out"])
    # The gates' gradients are those of a bias that each row and step has for itself.
    of_each = values["b"].expand(rows * steps, -1)
    gates = computed(layer, values | {"b": of_each}, kinds)["b"].abs().reshape(rows, steps, -1)
    enters, forgets, _, leaves = gates.chunk(4, dim=-1)
    return {
        "x": gates @ values["xh"].abs().T,
        "xh": torch.einsum("rsi,rsg->ig", x, gates),
        "hh": torch.einsum("rsi,rsg->ig", before(out, "h_0"), gates),
        "b": gates.sum(dim=(0, 1)),
        "ci": (enters * before(cell, "c_0")).sum(dim=(0, 1)),
        "cf": (forgets * before(cell, "c_0")).sum(dim=(0, 1)),
        "co": (leaves * cell).sum(dim=(0, 1)),
        "h_0": gates[:, 0] @ values["hh"].abs().T,
    }


def assert_exact(
    layer: Layer,
    values: Tensors,
    *,
    threads: int = 1,
    kinds: tuple[str, ...] = ("out", "cell"),
    build: str | None = None,
) -> None:
    """Compare the kernels with double precision, where single precision has its rounding.

    An error counts by the largest number, or by the terms that a gradient is a sum of: where they
    cancel, each rounds as before, and the sum is small.
    """
    expected = computed(layer, values, kinds)
    terms = terms_of(layer, values, kinds)
    single = {name: value.float() for name, value in values.items()}
    with compiled_scans(threads, find_kernels(build) if build else None):
        found = computed(layer, single, kinds)
    stepwise = computed(layer, single, kinds)
    for name, value in expected.items():
        scale = float(terms.get(name, value).abs().max()) + 1e-30
        error = float((found[name] - value).abs().max()) / scale
        usual = float((stepwise[name] - value).abs().max()) / scale
        assert error < 3 * usual + 4e-6, (name, error, usual)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 128])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("rows", [1, 5, 32])
def test_outputs_and_gradients_are_those_of_the_steps(rows: int, steps: int, size: int) -> None:
    starts = {"h_0": "h", "c_0": "c"} if (rows + steps + size) % 2 else {}
    layer = layer_of(steps, 3, size, **starts)
    assert_exact(layer, drawn(rows, steps, 3, size), threads=2)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_lstm(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 60), label="rows")
    steps = data.draw(st.integers(1, 12), label="steps")
    inputs = data.draw(st.integers(1, 40), label="inputs")
    size = data.draw(st.integers(1, 40), label="size")
    keys: dict[str, Any] = {}
    if data.draw(st.booleans(), label="backwards"):
        keys["direction"] = "backwards"
    if data.draw(st.booleans(), label="limited"):
        keys["bptt_limit"] = data.draw(st.integers(1, 13), label="limit")
    chosen = data.draw(st.sampled_from([(), ("h_0",), ("c_0",), ("h_0", "c_0")]), label="starts")
    keys |= {key: key[0] for key in chosen}
    kinds = data.draw(st.sampled_from([("out",), ("cell",), ("out", "cell")]), label="kinds")
    values = drawn(rows, steps, inputs, size, seed=data.draw(st.integers(0, 99), label="seed"))
    threads = data.draw(st.integers(1, 4), label="threads")
    assert_exact(layer_of(steps, inputs, size, **keys), values, threads=threads, kinds=kinds)


@pytest.mark.parametrize("build", runnable_builds())
def test_every_build(build: str) -> None:
    if find_kernels(build) is None:
        pytest.skip(f"the build {build} is not installed")
    layer = layer_of(9, 5, 35, h_0="h", c_0="c", bptt_limit=4)
    assert_exact(layer, drawn(50, 9, 5, 35), threads=2, build=build)


def test_gates_that_are_wide_open_or_shut_have_finite_gradients() -> None:
    layer = layer_of(4, 3, 20, h_0="h", c_0="c")
    values = {name: value.float() for name, value in drawn(6, 4, 3, 20).items()}
    values["b"] *= 200
    values["c_0"] *= 1e4
    with compiled_scans(1):
        found = computed(layer, values, ("out", "cell"))
    for name, value in computed(layer, values, ("out", "cell")).items():
        assert torch.isfinite(found[name]).all()
        scale = float(value.abs().max()) + 1e-30
        np.testing.assert_allclose(found[name] / scale, value / scale, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so_and_harms_no_other_row(bad: float) -> None:
    layer = layer_of(4, 3, 20)
    values = {name: value.float() for name, value in drawn(6, 4, 3, 20).items()}
    values["x"][2, 1, 0] = bad
    values["xh"][0] = 0.1 * values["xh"][0].abs()  # so that infinity enters no difference
    with compiled_scans(1):
        found = computed(layer, values, ("out", "cell"))
    expected = computed(layer, values, ("out", "cell"))
    for name in ("l:out", "l:cell"):
        np.testing.assert_array_equal(torch.isnan(found[name]), torch.isnan(expected[name]))
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_one_half_of_a_batch_has_the_bits_of_that_half_on_its_own_thread() -> None:
    values = {name: value.float() for name, value in drawn(32, 30, 8, 64).items()}
    layer = layer_of(30, 8, 64)
    assert scan_threads(rows=32, steps=30, inputs=8, size=64, most=2) == 2
    half = {
        name: value[16:] if name in ("x", "h_0", "c_0", "out", "cell") else value
        for name, value in values.items()
    }
    with compiled_scans(2):
        whole = computed(layer, values, ("out",))
        again = computed(layer, values, ("out",))
    with compiled_scans(1):
        part = computed(layer, half, ("out",))
    for name, value in whole.items():
        np.testing.assert_array_equal(value, again[name])
    for name in ("l:out", "l:cell", "x"):
        np.testing.assert_array_equal(whole[name][16:], part[name])


def test_kernels_scan_only_where_they_are_let_to_and_know_the_shapes() -> None:
    values = {name: value.float().requires_grad_() for name, value in drawn(2, 3, 4, 5).items()}
    x = values["x"]
    assert not scans_lstm(x, values, {})  # not let to
    with compiled_scans(1):
        assert scans_lstm(x, values, {"h_0": values["h_0"]})
        with torch.no_grad():
            assert not scans_lstm(x, values, {})  # a prediction, whose bits are promised
        assert not scans_lstm(x.double(), values, {})
        own = values | {"hh": values["hh"].expand(2, 5, 20)}
        assert not scans_lstm(x, own, {})  # weights of each row's own
        padded = values | {"xh": torch.zeros(4, 32), "hh": torch.zeros(5, 32)}
        assert not scans_lstm(x, padded, {})
        with compiled_scans(None):
            assert not scans_lstm(x, values, {})


def training_of(
    layers: list[Any], *, compiled: bool = True, threads: int = 1, **keys: Any
) -> Training:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((40, 6, 3)).astype(np.float32)
    y = np.tanh(x.sum(axis=2, keepdims=True)).cumsum(axis=1).astype(np.float32)
    spec = TrainSpec.model_validate(
        {
            "network": {"form": "regressor", "layers": layers},
            "optimizer": {"form": "sgd", "learning_rate": 0.05},
            "epochs": 2,
            "batch_size": 16,
            **keys,
        }
    )
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (6, 3)}, output_shape=(6, 1)
    )
    data = TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(y))
    return Training(
        graph, spec, resolve(spec, graph), data, data, compiled=compiled, threads=threads
    )


JOBS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "plain": ([3, [20, "lstm"], 1], {}),
    "stacked and dropped": (
        [3, [20, "lstm"], [9, "lstm"], 1],
        {"dropout": {"hid*:out": 0.3, "hid1:cell": 0.2}, "noise": {"hid2:out": 0.1}},
    ),
    "bidirectional": ([3, {"form": "bidirectional", "worker": "lstm", "size": 12}, 1], {}),
    "cell penalised": (
        [3, [20, "lstm"], 1],
        {"regularizers": [{"form": "hidden_l1", "weight": 0.1, "pattern": "hid1:cell"}]},
    ),
    "weights dropped": (
        [3, [20, "lstm"], 1],
        {"regularizers": [{"form": "drop_connect", "pattern": "hid1.hh", "weight": 0.3}]},
    ),
    "derived twice": ([3, [6, "lstm"], 1], {"optimizer": {"form": "esgd"}}),
    "contracted": (
        [3, [6, "lstm"], 1],
        {"regularizers": [{"form": "contractive", "pattern": "hid1:out", "weight": 0.1}]},
    ),
}


@pytest.mark.parametrize("job", JOBS)
def test_training_takes_the_general_paths_steps(job: str) -> None:
    layers, keys = JOBS[job]
    ours = training_of(layers, threads=2, **keys)
    other = training_of(layers, compiled=False, **keys)
    ends = ([event for event in each if isinstance(event, EpochEnd)] for each in (ours, other))
    for event, usual in zip(*ends, strict=True):
        assert event.train["loss"] == pytest.approx(usual.train["loss"], rel=1e-4)
        assert event.valid == pytest.approx(usual.valid, rel=1e-3)
    for name, value in other.kept_parameters().items():
        np.testing.assert_allclose(
            ours.kept_parameters()[name], value, rtol=2e-3, atol=2e-4, err_msg=name
        )


def test_a_run_that_is_resumed_ends_with_the_bits_of_one_that_was_not() -> None:
    layers: list[Any] = [3, [150, "lstm"], 1]
    whole = training_of(layers, threads=2)
    assert whole.threads == 2
    stopped = training_of(layers, threads=2)
    next(iter(stopped))
    resumed = training_of(layers, threads=2)
    resumed.restore(stopped.state())
    for run in (whole, resumed):
        for _ in run:
            pass
    for name, value in whole.kept_parameters().items():
        np.testing.assert_array_equal(resumed.kept_parameters()[name], value)
