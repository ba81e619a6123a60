"""Compiled training: the general path's numbers, to rounding, whatever a dense network asks for."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.dense_training import DenseSteps
from engine.errors import DivergedError
from engine.graph import build_graph
from engine.kernels.builds import find_kernels, runnable_builds
from engine.regularizers import resolve
from engine.spec import Form, TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import rows_of

ACTIVATIONS = [
    "linear",
    "relu",
    "rect:max",
    "tanh",
    "sigmoid",
    "softplus",
    "elu",
    "silu",
    "rect:min",
    "rect:minmax",
    "gelu",
]
OPTIMIZERS: tuple[dict[str, Any], ...] = (
    {"form": "sgd", "learning_rate": 0.05},
    {"form": "sgd", "learning_rate": 0.05, "momentum": 0.5},
    {"form": "nag", "learning_rate": 0.05},
    {"form": "adam", "learning_rate": 0.01},
    {"form": "adamw", "learning_rate": 0.01, "weight_decay": 0.3},
    {"form": "rmsprop", "learning_rate": 0.01, "epsilon": 1e-3},
    {"form": "rmsprop", "learning_rate": 0.01, "epsilon": 1e-2, "momentum": 0.5},
    {"form": "rmsprop", "learning_rate": 0.01, "epsilon": 1e-2, "centered": True},
    {"form": "adagrad", "learning_rate": 0.05, "epsilon": 1e-3},
    {"form": "adadelta", "epsilon": 1e-3},
)


def rows(count: int, inputs: int, outputs: int, *, classes: bool, weighted: bool) -> TrainingData:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((count, inputs)).astype(np.float32)
    y: Any = rng.integers(0, outputs, count)
    if not classes:
        y = (x[:, :1] + rng.standard_normal((count, outputs))).astype(np.float32)
    weights = rng.exponential(size=count).astype(np.float32)
    weights[::7] = 0
    return TrainingData(
        x=rows_of(torch.from_numpy(x)),
        y=torch.from_numpy(y),
        weights=torch.from_numpy(weights) if weighted else None,
    )


def size_of(layer: Any) -> int:
    if isinstance(layer, dict):
        return int(layer["size"])
    return int(layer[0] if isinstance(layer, list) else layer)


def trained(
    data: TrainingData,
    layers: list[Any],
    *,
    compiled: bool = True,
    threads: int = 1,
    valid: TrainingData | None = None,
    **given_spec: Any,
) -> tuple[Training, list[EpochEnd]]:
    form: Form = "classifier" if data.y.dtype == torch.int64 else "regressor"
    terms = {name: given_spec.pop(name, None) for name in ("loss", "losses")}
    spec = TrainSpec.model_validate(
        {
            "network": {"form": form, "layers": layers, **terms},
            "epochs": 2,
            "batch_size": 16,
            **given_spec,
        }
    )
    graph = build_graph(
        spec.network,
        form=form,
        input_shapes={"in": (layers[0],)},
        output_shape=(size_of(layers[-1]),),
    )
    training = Training(
        graph, spec, resolve(spec, graph), data, valid, threads=threads, compiled=compiled
    )
    assert ("kernels" in training.path) == compiled, training.path
    return training, [event for event in training if isinstance(event, EpochEnd)]


def assert_alike(data: TrainingData, layers: list[Any], **spec: Any) -> None:
    valid = data[: max(1, data.rows // 2)]
    ours, events = trained(data, layers, valid=valid, **spec)
    general, expected = trained(data, layers, valid=valid, compiled=False, **spec)
    for event, other in zip(events, expected, strict=True):
        assert event.train["loss"] == pytest.approx(other.train["loss"], rel=1e-4, abs=1e-6)
        assert event.valid == pytest.approx(other.valid, rel=1e-3, abs=1e-4, nan_ok=True)
        for one, two in zip(event.regularizers, other.regularizers, strict=True):
            assert one["rates"] == two["rates"]  # the same draws
            assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-6)
    for name, value in general.kept_parameters().items():
        np.testing.assert_allclose(
            ours.kept_parameters()[name], value, rtol=2e-3, atol=2e-4, err_msg=name
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str) -> None:
    data = rows(70, 5, 3, classes=False, weighted=False)
    layers = [5, [20, activation], [17, activation], [3, activation]]
    assert_alike(data, layers, optimizer={"form": "sgd", "learning_rate": 0.05})


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda given: "-".join(map(str, given)))
def test_every_optimizer(optimizer: dict[str, Any]) -> None:
    data = rows(70, 5, 2, classes=False, weighted=False)
    assert_alike(data, [5, [20, "tanh"], 2], optimizer=optimizer)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["mse", "mae", "xe"])
def test_every_loss_and_weights_of_rows(loss: str, weighted: bool) -> None:
    data = rows(70, 5, 4, classes=loss == "xe", weighted=weighted)
    sgd = {"form": "sgd", "learning_rate": 0.05}
    assert_alike(data, [5, [20, "tanh"], 4], loss=loss, optimizer=sgd)


def with_variances(layers: list[Any], activation: str = "softplus", source: str = "hid1") -> Any:
    """Let a layer before the last tell the variances of what the last one tells."""
    *before, last = layers
    covar = {"name": "covar", "size": last, "activation": activation, "inputs": source}
    return [*before, covar, {"name": "out", "size": last, "inputs": source}]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ["softplus", "linear", "sigmoid"])
def test_the_likelihood_of_learnt_variances(activation: str, weighted: bool) -> None:
    data = rows(70, 5, 3, classes=False, weighted=weighted)
    layers = with_variances([5, [20, "tanh"], 3], activation)
    term = {"form": "gll", "weight": 0.5, "covar_eps": 0.2}
    sgd = {"form": "sgd", "learning_rate": 0.02}
    assert_alike(data, layers, losses=[term], optimizer=sgd)


def test_layers_that_several_others_read_add_up_their_gradients() -> None:
    data = rows(70, 5, 2, classes=False, weighted=True)
    layers: list[Any] = [
        5,
        {"size": 20, "activation": "tanh"},
        {"name": "near", "size": 17, "activation": "tanh", "inputs": "hid1"},
        {"name": "far", "size": 9, "activation": "tanh", "inputs": "in"},
        {"name": "covar", "size": 2, "activation": "softplus", "inputs": "hid1"},
        {"name": "out", "size": 2, "inputs": "near"},
    ]
    told: dict[str, Any] = {
        "dropout": {"*:out": 0.2},
        "noise": {"hid1:out": 0.1, "covar:out": 0.1},
        "gradient_clip": 0.5,
        "regularizers": [
            {"form": "weight_l2", "weight": 0.1},
            {"form": "hidden_l1", "pattern": "*:out", "weight": 0.1},
        ],
    }
    everyone_read = [*layers[:3], *layers[4:]]
    assert_alike(data, everyone_read, loss="gll", **told)
    with pytest.raises(AssertionError, match="nothing reads 'far:out'"):
        trained(data, layers, loss="gll", **told)
    read_by_two = [*layers[:4], layers[4] | {"inputs": "far"}, layers[5]]
    assert_alike(data, read_by_two, loss="gll", **told)
    with_read_variances = [*layers[:3], layers[4], layers[5] | {"inputs": "covar"}]
    with pytest.raises(AssertionError, match="nothing reads 'near:out'"):
        trained(data, with_read_variances, loss="gll", **told)
    assert_alike(data, [*layers[:2], *with_read_variances[3:]], loss="gll", **told)


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (
            [5, [20, "tanh"], {"name": "covar", "size": 2}, {"inputs": ["covar", "hid1"]}],
            "does not read the `out` of one layer",
        ),
        ([5, [20, "tanh"], {"name": "covar", "size": 2}, {"inputs": "hid1:pre"}], "one layer"),
    ],
)
def test_layers_that_read_otherwise_are_left_to_the_general_path(
    layers: list[Any], why: str
) -> None:
    data = rows(40, 5, 2, classes=False, weighted=False)
    *before, last = layers
    with pytest.raises(AssertionError, match=why):
        trained(data, [*before, {"name": "out", "size": 2, **last}], loss="gll")


def test_a_batch_larger_than_the_rows_takes_the_memory_of_the_rows() -> None:
    data = rows(70, 5, 1, classes=False, weighted=False)
    layers = [5, [500, "tanh"], 1]
    tracemalloc.start()
    whole, _ = trained(data, layers, batch_size=10_000_000, valid=data[:1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    own, _ = trained(data, layers, batch_size=70, valid=data[:1])
    for name, value in own.kept_parameters().items():
        np.testing.assert_array_equal(whole.kept_parameters()[name], value)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_dense_job(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=4), label="sizes")
    count = data.draw(st.integers(1, 60), label="rows")
    classes = data.draw(st.booleans(), label="classes") and sizes[-1] > 1
    outputs = ["in:out", *(f"hid{i}:out" for i in range(1, len(sizes) - 1))]
    rates = st.sampled_from([0.0, 0.1, 0.5])
    chosen = st.lists(st.sampled_from(outputs), unique=True)
    spec: dict[str, Any] = {
        "dropout": {name: data.draw(rates) for name in data.draw(chosen, label="dropped")},
        "noise": {name: 0.3 for name in data.draw(chosen, label="noisy")},
        "optimizer": {"form": "sgd", "learning_rate": 0.02, "momentum": 0.5},
        "batch_size": data.draw(st.integers(1, 64), label="batch"),
        "seed": data.draw(st.integers(0, 99), label="seed"),
        "gradient_clip": data.draw(st.sampled_from([None, 0.5]), label="clip"),
        "regularizers": data.draw(
            st.lists(
                st.sampled_from(
                    [
                        {"form": "weight_l2", "weight": 0.1},
                        {"form": "weight_l1", "weight": 0.01, "reduction": "sum"},
                        {"form": "bernoulli_dropout", "pattern": "in:out", "weight": 0.2},
                    ]
                ),
                unique_by=lambda each: str(each["form"]),
            ),
            label="regularizers",
        ),
    }
    if len(sizes) > 2:
        spec["regularizers"] += [{"form": "hidden_l1", "weight": 0.2}]
    weighted = data.draw(st.booleans(), label="weighted")
    table = rows(count, sizes[0], sizes[-1], classes=classes, weighted=weighted)
    hidden = [[size, "tanh"] for size in sizes[1:-1]]
    layers = [sizes[0], *hidden, sizes[-1]]
    if not classes and data.draw(st.booleans(), label="learns variances"):
        last_read = f"hid{len(hidden)}" if hidden else "in"
        layers = with_variances(layers, source=last_read)
        # Steps on small variances are as large as they like, and as far apart after some of them.
        spec |= {"losses": [{"form": "gll", "covar_eps": 0.5}], "gradient_clip": 0.5}
    assert_alike(table, layers, **spec)


@pytest.mark.parametrize("build", runnable_builds())
def test_every_build_takes_the_same_steps(build: str) -> None:
    data = rows(50, 9, 2, classes=False, weighted=True)
    found = find_kernels(build)
    if found is None:
        pytest.skip(f"the build {build} is not installed")
    spec: dict[str, Any] = {"dropout": {"*:out": 0.2}, "noise": {"hid1:out": 0.1}, "epochs": 1}
    training, _ = trained(data, [9, [33, "softplus"], 2], compiled=False, **spec)
    other, _ = trained(data, [9, [33, "softplus"], 2], **(spec | {"epochs": 1}))
    fresh = _with_build(data, [9, [33, "softplus"], 2], found, spec)
    for name, value in training.kept_parameters().items():
        np.testing.assert_allclose(fresh[name], value, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(other.kept_parameters()[name], value, rtol=1e-3, atol=1e-5)


def _with_build(data: TrainingData, layers: list[Any], build: Any, spec: Any) -> Any:
    parsed = TrainSpec.model_validate({"network": {"layers": layers}, "batch_size": 16, **spec})
    graph = build_graph(
        parsed.network, form="regressor", input_shapes={"in": (9,)}, output_shape=(2,)
    )
    training = Training(graph, parsed, resolve(parsed, graph), data)
    training._steps = DenseSteps(
        graph,
        parsed,
        training.regularizers,
        data,
        parameters=training._parameters,
        optimizer=training._optimizer,
        masks=training._masks,
        build=build,
    )
    for _ in training:
        pass
    return training.kept_parameters()


@pytest.mark.parametrize("classes", [True, False])
def test_large_products_and_several_threads(classes: bool) -> None:
    data = rows(300, 200, 10, classes=classes, weighted=False)
    layers: list[Any] = [200, 320, [300, "tanh"], 10]
    if not classes:
        between = {"name": "variances", "size": 100, "activation": "tanh", "inputs": "hid1"}
        covar = {"name": "covar", "size": 10, "activation": "softplus"}
        layers = [200, 320, between, covar, {"name": "hid2", "size": 300, "inputs": "hid1"}, 10]
    spec: dict[str, Any] = {
        "batch_size": 128,
        "epochs": 1,
        "loss": "xe" if classes else "gll",
        "dropout": {"hid*:out": 0.5},
        "regularizers": [
            {"form": "weight_l2", "weight": 0.1},
            {"form": "hidden_l1", "weight": 0.1},
        ],
        "optimizer": {"form": "sgd", "learning_rate": 0.05},
    }
    for clip in (None, 0.01):
        general, _ = trained(data, layers, compiled=False, gradient_clip=clip, **spec)
        for threads in (1, 2, 3):
            ours, _ = trained(data, layers, threads=threads, gradient_clip=clip, **spec)
            again, _ = trained(data, layers, threads=threads, gradient_clip=clip, **spec)
            for name, value in general.kept_parameters().items():
                np.testing.assert_allclose(
                    ours.kept_parameters()[name], value, rtol=1e-3, atol=1e-5
                )
                assert np.array_equal(ours.kept_parameters()[name], again.kept_parameters()[name])


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda given: "-".join(map(str, given)))
def test_stopped_anywhere_it_goes_on_to_the_same_bits(optimizer: dict[str, Any]) -> None:
    data = rows(70, 5, 2, classes=False, weighted=False)
    spec: dict[str, Any] = {"dropout": {"*:out": 0.2}, "optimizer": optimizer, "epochs": 3}
    layers = [5, [21, "tanh"], 2]
    whole, events = trained(data, layers, **spec)
    state: bytes | None = None
    seen: list[EpochEnd] = []
    for _ in itertools.count():
        part, _ = trained(data, layers, **(spec | {"epochs": 1}))
        part = Training(part.graph, whole.spec, part.regularizers, data)
        part._steps.block_rows = lambda: 32  # type: ignore[method-assign]
        if state is not None:
            part.restore(state)
        event = next(iter(part), None)
        if event is None:
            break
        seen += [event] if isinstance(event, EpochEnd) else []
        state = part.state()
    assert [event.train for event in seen] == [event.train for event in events]
    for name, value in whole.kept_parameters().items():
        assert np.array_equal(part.kept_parameters()[name], value), name


def test_a_penalty_on_probabilities_is_left_to_the_general_path() -> None:
    """These add up to 1 in every row, so it has no gradient at all."""
    data = rows(40, 5, 3, classes=True, weighted=False)
    spec: dict[str, Any] = {"optimizer": {"form": "sgd", "learning_rate": 0.05}}
    plain, _ = trained(data, [5, 4, 3], **spec)
    penalty = {"form": "hidden_l1", "pattern": "out:out", "weight": 0.5}
    parsed = TrainSpec.model_validate(plain.spec.model_dump() | {"regularizers": [penalty]})
    run = Training(plain.graph, parsed, resolve(parsed, plain.graph), data)
    assert "a penalty is on its probabilities" in run.path
    *_, last = run
    assert isinstance(last, EpochEnd)
    assert last.regularizers[0]["loss"] == pytest.approx(0.5 / 3)
    for name, value in plain.kept_parameters().items():
        np.testing.assert_allclose(run.kept_parameters()[name], value, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_it_and_changes_nothing() -> None:
    data = rows(40, 3, 1, classes=False, weighted=False)
    training, _ = trained(data, [3, 4, 1], epochs=1)
    fresh = Training(training.graph, training.spec, training.regularizers, data)
    x = next(iter(data.x.values.values()))
    before = fresh._parameters.flat.clone()
    x[:] = 1e30
    with pytest.raises(DivergedError, match="epoch 1"):
        list(fresh)
    assert torch.equal(fresh._parameters.flat, before)
