"""ESGD against a float64 loop with a known Hessian, resumed to the bit, through every layer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from engine.errors import SpecError
from engine.graph import build_graph
from engine.initializers import initial_parameters
from engine.optimizers import check_optimizer
from engine.regularizers import resolve
from engine.spec import OPTIMIZERS, EsgdSpec, TrainSpec
from engine.streams import generator
from engine.training import BlockEnd, EpochEnd, Training, TrainingData
from tests.engine.networks import graph_of, rows_of

RNG = np.random.default_rng(5)
X = RNG.standard_normal((48, 4)).astype(np.float32)
Y = (X[:, :2] * X[:, 2:] + 0.1).astype(np.float32)


def training_of(
    layers: list[Any],
    *,
    x: npt.NDArray[np.float32] = X,
    y: npt.NDArray[Any] = Y,
    form: Any = "regressor",
    **spec: Any,
) -> Training:
    parsed = TrainSpec.model_validate({"network": {"form": form, "layers": layers}, **spec})
    shape = (int(y.max()) + 1,) if form == "classifier" else y.shape[1:]
    graph = build_graph(
        parsed.network, form=form, input_shapes={"in": x.shape[1:]}, output_shape=shape
    )
    data = TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(y))
    return Training(graph, parsed, resolve(parsed, graph), data)


def reference(spec: EsgdSpec, epochs: int, batch: int, clip: float | None) -> Any:
    """Fit y = x w + b, whose Hessian is 2 z'z / (rows outputs), z = (x, 1), for each output."""
    start = initial_parameters(graph_of([4, 2]), seed=13)
    theta = np.concatenate([start["out.w"], start["out.b"][None]]).astype(np.float64)  # (5, 2)
    mean, velocity, draws = np.zeros_like(theta), np.zeros_like(theta), 0
    for epoch in range(1, epochs + 1):
        order = generator(13, "shuffle", epoch).permutation(48)
        for first in range(0, 48, batch):
            rows = order[first : first + batch]
            z = np.concatenate([X[rows], np.ones((len(rows), 1))], axis=1).astype(np.float64)
            gradient = 2 * z.T @ (z @ theta - Y[rows]) / Y[rows].size
            if clip is not None:
                gradient = gradient * min(1.0, clip / float(np.linalg.norm(gradient)))
            for _ in range(20 if draws == 0 else 1):
                drawn = generator(13, "esgd", draws).standard_normal(32, dtype=np.float32)
                # Each parameter starts at a multiple of 16 numbers.
                v = np.concatenate([drawn[:8].reshape(4, 2), drawn[16:18].reshape(1, 2)])
                product = 2 * z.T @ z @ v / Y[rows].size
                draws += 1
                mean = spec.decay * mean + (1 - spec.decay) * product**2
            size = np.sqrt(mean / (1 - spec.decay**draws)) + spec.epsilon
            delta = -float(spec.learning_rate) * gradient / size
            before, velocity = velocity, spec.momentum * velocity + delta
            # As downhill has Nesterov's momentum (Bengio et al. 2013, equation 7).
            ahead = spec.momentum**2 * before + (1 + spec.momentum) * delta
            theta = theta + (ahead if spec.nesterov else velocity)
    return theta


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"learning_rate": 0.1, "decay": 0.9517, "epsilon": 1e-8},
        {"momentum": 0.8},
        {"momentum": 0.8, "nesterov": True, "epsilon": 0.1},
        {"decay": 0.0},
    ],
)
@pytest.mark.parametrize("clip", [None, 0.05])
def test_its_steps_are_those_of_a_float64_loop(keys: dict[str, Any], clip: float | None) -> None:
    optimizer = {"form": "esgd", **keys}
    training = training_of(
        [None, None], optimizer=optimizer, epochs=4, batch_size=10, gradient_clip=clip
    )
    list(training)
    kept = training.kept_parameters()
    expected = reference(EsgdSpec.model_validate(optimizer), 4, 10, clip)
    ours = np.concatenate([kept["out.w"], kept["out.b"][None]])
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=2e-5)


def test_with_a_decay_near_one_the_scale_is_the_plain_mean_of_the_paper() -> None:
    squares = np.random.default_rng(0).standard_normal(40) ** 2
    decay, mean = 1 - 1e-7, 0.0
    for square in squares:
        mean = decay * mean + (1 - decay) * square
    assert mean / (1 - decay**40) == pytest.approx(squares.mean(), rel=1e-5)


NOISY: dict[str, Any] = {
    "hidden_dropout": 0.2,
    "input_noise": 0.1,
    "regularizers": [
        {"form": "weight_l2", "weight": 0.01},
        {"form": "contractive", "weight": 0.01},
        {"form": "drop_connect", "pattern": "out.w", "weight": 0.1},
        {"form": "concrete_dropout", "pattern": "hid1:out", "weight": 0.01},
    ],
}


@pytest.mark.parametrize("optimizer", ["esgd", {"form": "esgd", "momentum": 0.9, "nesterov": True}])
def test_a_run_stopped_anywhere_and_resumed_ends_with_the_same_bytes(optimizer: Any) -> None:
    def fresh() -> Training:
        training = training_of(
            [None, [6, "tanh"], None], optimizer=optimizer, epochs=2, batch_size=8, **NOISY
        )
        training._steps.block_rows = lambda: 16  # type: ignore[method-assign]
        return training

    whole = fresh()
    assert BlockEnd in {type(event) for event in whole}
    for stop_after in (0, 1, 2, 5):
        first = fresh()
        for _ in itertools.islice(first, stop_after):
            pass
        second = fresh()
        second.restore(first.state())
        list(second)
        assert second.state() == whole.state(), stop_after


STEPS = RNG.standard_normal((48, 5, 4)).astype(np.float32)
ACTIVATIONS = ("relu", "gelu", "silu", "elu", "softplus", "prelu", "lgrelu", "maxout:2", "norm:z")


@pytest.mark.parametrize(
    ("layers", "x"),
    [
        *(([None, [12, activation], None], X) for activation in ACTIVATIONS),
        ([None, 12, {"form": "layer_norm", "activation": "tanh"}, None], X),
        ([None, 12, [12, "tanh"], {"form": "add", "inputs": ["hid1", "hid2"]}, None], X),
        ([None, 12, [12, "sigmoid"], {"form": "product", "inputs": ["hid1", "hid2"]}, None], X),
        ([None, [12, "tanh"], {"form": "last"}, None], STEPS),
    ],
)
def test_it_makes_progress_through_every_layer(
    layers: list[Any], x: npt.NDArray[np.float32]
) -> None:
    training = training_of(layers, x=x, optimizer="esgd", epochs=15, batch_size=16)
    ends = [event for event in training if isinstance(event, EpochEnd)]
    assert ends[-1].train["loss"] < (1 if x is STEPS else 0.8) * ends[0].train["loss"]


def test_it_trains_classifiers_and_tied_weights() -> None:
    labels = (X[:, 0] > 0).astype(np.int64)
    ends = [
        [event for event in training if isinstance(event, EpochEnd)]
        for training in (
            training_of([None, 8, None], y=labels, form="classifier", optimizer="esgd", epochs=60),
            training_of([None, [3, "linear"], "tied"], y=X, optimizer="esgd", epochs=60),
        )
    ]
    for end in ends:
        assert end[-1].train["loss"] < 0.8 * end[0].train["loss"]


def test_what_it_does_not_read_stays_and_a_loss_without_curvature_is_refused() -> None:
    training = training_of(
        [None, 5, {"size": 3, "inputs": ["in"]}, None], optimizer="esgd", epochs=5
    )
    list(training)
    start = initial_parameters(training.graph, seed=13)
    assert np.array_equal(training.kept_parameters()["hid1.w"], start["hid1.w"])
    with pytest.raises(SpecError, match="'mae'") as refused:
        check_optimizer(EsgdSpec(form="esgd"), graph_of([4, 3, 1], loss="mae"))
    assert refused.value.pointer == "#/optimizer/form"
    assert "esgd" in OPTIMIZERS
    with pytest.raises(ValueError, match="momentum"):
        EsgdSpec(form="esgd", nesterov=True)
