"""Activations against their formulas, worked in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional

from engine.activations import ACTIVATIONS, Activation
from engine.errors import SpecError
from engine.graph import build_graph
from engine.initializers import initial_parameters
from engine.network import Network
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import NetworkSpec, RegularizationSpec, TrainSpec
from engine.training import Training, TrainingData
from tests.engine.networks import Floats, graph_of, random_network, rows_of

X = np.linspace(-6, 6, 97).reshape(1, -1)

FORMULAS = {
    "linear": X,
    "relu": np.maximum(X, 0),
    "tanh": np.tanh(X),
    "sigmoid": special.expit(X),
    "softplus": np.logaddexp(0, X),
    "softmax": special.softmax(X, axis=1),
    "elu": np.where(X > 0, X, np.expm1(X)),
    "gelu": X * special.ndtr(X),
    "silu": X * special.expit(X),
    "rect:max": np.maximum(X, 0),
    "rect:min": np.minimum(X, 1),
    "rect:minmax": np.clip(X, 0, 1),
    "norm:mean": X - X.mean(),
    "norm:max": X / (np.abs(X).max() + 1e-8),
    "norm:std": X / (X.std() + 1e-8),
    "norm:z": (X - X.mean()) / (X.std() + 1e-8),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_formula(name: str) -> None:
    ours = ACTIVATIONS[name](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(ours, FORMULAS[name], rtol=1e-12, atol=1e-15)


def test_activations_joined_by_plus_apply_from_left_to_right() -> None:
    ours = Activation(name="tanh+norm:max", size=97)(torch.from_numpy(X), {}).numpy()
    np.testing.assert_allclose(ours, np.tanh(X) / (np.abs(np.tanh(X)).max() + 1e-8), rtol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x = torch.linspace(-3, 3, 8, dtype=torch.float64) + 0.01  # not on the kink of relu
    x = x.reshape(1, -1).requires_grad_()
    assert torch.autograd.gradcheck(ACTIVATIONS[name], (x,))


LEARNT = {
    "prelu": {"leak": (5,)},
    "lgrelu": {"gain": (5,), "leak": (5,)},
    "maxout:3": {"slope": (5, 3), "intercept": (5, 3)},
    "tanh+maxout:2+norm:z": {"slope": (5, 2), "intercept": (5, 2)},
    "prelu+lgrelu": {"leak": (5,), "gain": (5,), "leak_2": (5,)},
    "norm:mean+relu": {},
}
ROWS = np.random.default_rng(4).standard_normal((7, 5))


def drawn(activation: Activation) -> dict[str, Any]:
    rng = np.random.default_rng(6)
    return {name: rng.standard_normal(shape) for name, shape in activation.parameters.items()}


def formula(name: str, x: Any, w: dict[str, Any]) -> Any:
    """In float64, from theanets' documentation."""
    if name == "prelu":
        return np.where(x < 0, w["leak"] * x, x)
    if name == "lgrelu":
        return np.where(x < 0, w["leak"] * x, w["gain"] * x)
    if name.startswith("maxout"):
        return (x[..., None] * w["slope"] + w["intercept"]).max(axis=-1)
    if name == "tanh+maxout:2+norm:z":
        z = formula("maxout:2", np.tanh(x), w)
        return (z - z.mean(-1, keepdims=True)) / (z.std(-1, keepdims=True) + 1e-8)
    if name == "prelu+lgrelu":
        return formula("lgrelu", formula("prelu", x, w), {**w, "leak": w["leak_2"]})
    return np.maximum(x - x.mean(-1, keepdims=True), 0)


@pytest.mark.parametrize(("name", "shapes"), LEARNT.items())
def test_what_is_learnt_is_for_each_unit(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    activation = Activation(name=name, size=5)
    assert activation.parameters == shapes
    values = drawn(activation)
    weights = {key: torch.from_numpy(value) for key, value in values.items()}
    ours = activation(torch.from_numpy(ROWS), weights).numpy()
    np.testing.assert_allclose(ours, formula(name, ROWS, values), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LEARNT)
def test_the_units_of_images_are_channels_and_of_sequences_the_last_axis(name: str) -> None:
    values = drawn(Activation(name=name, size=5))
    weights = {key: torch.from_numpy(value) for key, value in values.items()}
    images = np.random.default_rng(1).standard_normal((2, 5, 4, 3))
    ours = Activation(name=name, size=5, axis=1)(torch.from_numpy(images), weights).numpy()
    expected = np.moveaxis(formula(name, np.moveaxis(images, 1, -1), values), -1, 1)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)
    steps = np.random.default_rng(1).standard_normal((2, 6, 5))
    ours = Activation(name=name, size=5)(torch.from_numpy(steps), weights).numpy()
    np.testing.assert_allclose(ours, formula(name, steps, values), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LEARNT)
def test_padding_changes_nothing_and_each_row_may_have_parameters_of_its_own(name: str) -> None:
    activation = Activation(name=name, size=5)
    x = torch.from_numpy(ROWS)
    weights = {key: torch.from_numpy(value) for key, value in drawn(activation).items()}
    padded = {key: functional.pad(value, (0, 11), value=9.0) for key, value in weights.items()}
    assert torch.equal(activation(x, padded), activation(x, weights))
    own = {key: torch.stack([value + row for row in range(7)]) for key, value in weights.items()}
    for row in range(7):
        one = {key: value[row] for key, value in own.items()}
        alone = activation(x[row : row + 1], one)[0]
        torch.testing.assert_close(activation(x, own)[row], alone, rtol=1e-12, atol=1e-14)
    steps = x.reshape(7, 1, 5).expand(7, 2, 5)
    second = activation(steps, own)[:, 1]
    torch.testing.assert_close(second, activation(x, own), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", LEARNT)
def test_gradients_of_what_is_learnt_are_those_of_finite_differences(name: str) -> None:
    activation = Activation(name=name, size=5)
    values = drawn(activation)

    def compute(x: Tensor, *parameters: Tensor) -> Tensor:
        return activation(x, dict(zip(values, parameters, strict=True)))

    tensors = [torch.from_numpy(v).requires_grad_() for v in (ROWS, *values.values())]
    assert torch.autograd.gradcheck(compute, tensors)
    assert torch.autograd.gradgradcheck(compute, tensors)


def test_prelu_is_that_of_torch() -> None:
    x, leak = torch.from_numpy(ROWS), torch.linspace(-1, 1, 5, dtype=torch.float64)
    ours = Activation(name="prelu", size=5)(x, {"leak": leak})
    assert torch.equal(ours, functional.prelu(x, leak))


def begun(*layers: Any) -> dict[str, Floats]:
    return initial_parameters(graph_of([3, *layers, 1]), seed=13)


def test_leaks_begin_small_gains_near_one_and_pieces_normal() -> None:
    values = begun([4000, "lgrelu"], [4000, "maxout:2"], [4000, "leaky-relu"])
    half_normal = np.sqrt(2 / np.pi)
    for leaks in (values["hid1.leak"], values["hid1.gain"] - 1, values["hid3.leak"]):
        assert (leaks >= 0).all()
        standard_error = 0.1 * np.sqrt((1 - 2 / np.pi) / 4000)
        assert abs(leaks.mean() - 0.1 * half_normal) < 4 * standard_error
    assert not np.array_equal(values["hid1.leak"], values["hid3.leak"])
    for pieces in (values["hid2.slope"], values["hid2.intercept"]):
        assert abs(pieces.mean()) < 4 / np.sqrt(8000)
        assert abs(pieces.std() - 1) < 4 / np.sqrt(2 * 8000)


def test_what_is_learnt_may_begin_otherwise_and_the_layers_keys_are_of_its_weights() -> None:
    layer = {"size": 4, "activation": "prelu", "initial": {"leak": {"mean": 0.25}}}
    assert (begun(layer)["hid1.leak"] == 0.25).all()
    of_weights = begun({"size": 4, "activation": "maxout:3", "diagonal": 1.0})
    assert np.array_equal(of_weights["hid1.slope"], begun([4, "maxout:3"])["hid1.slope"])


@pytest.mark.parametrize("name", LEARNT)
def test_samples_are_the_same_in_any_piece(name: str) -> None:
    network = random_network([6, [21, name], {"size": 9, "activation": name}, 2])
    spec = RegularizationSpec.model_validate(
        {
            "hidden_dropout": 0.5,
            "regularizers": [{"form": "drop_connect", "pattern": "hid1.*", "weight": 0.2}],
        }
    )
    x = np.random.default_rng(2).standard_normal((9, 6)).astype(np.float32)
    sampler = Sampler(network, resolve(spec, network.graph), wanted=("out:out",), seed=3)
    whole = sampler.samples(rows_of(x), np.arange(9), np.arange(70))["out:out"]
    part = sampler.samples(rows_of(x[4:6]), np.arange(4, 6), np.arange(7, 30))["out:out"]
    assert np.isfinite(whole).all()
    assert np.array_equal(part, whole[7:30, 4:6])


@pytest.mark.parametrize("layers", [[[6, "prelu+maxout:2"], "tied"], [[6, "lgrelu"], None]])
def test_what_is_learnt_learns_and_is_stored_by_name(layers: list[Any]) -> None:
    spec = TrainSpec.model_validate(
        {
            "network": {"layers": [None, *layers]},
            "epochs": 20,
            "optimizer": {"form": "adam", "learning_rate": 0.01},
        }
    )
    x = torch.from_numpy(np.random.default_rng(3).standard_normal((64, 4)).astype(np.float32))
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (4,)}, output_shape=(4,)
    )
    training = Training(graph, spec, (), TrainingData(x=rows_of(x), y=x))
    for _ in training:
        pass
    kept, start = training.kept_parameters(), initial_parameters(graph, seed=13)
    learnt = [name for name in kept if name.startswith("hid1.") and name[5:] not in ("w", "b")]
    assert len(learnt) in (2, 3)
    for name in learnt:
        assert (kept[name] != start[name]).any(), name
    outputs = Sampler(Network(graph, kept), (), wanted=("hid1:out", "hid1:pre")).deterministic(
        rows_of(x.numpy())
    )
    pre = x.numpy() @ kept["hid1.w"] + kept["hid1.b"]
    own = {name[5:]: kept[name].astype(np.float64) for name in learnt}
    expected = formula("prelu" if "slope" in own else "lgrelu", pre, own)
    expected = formula("maxout:2", expected, own) if "slope" in own else expected
    np.testing.assert_allclose(outputs["hid1:out"], expected, rtol=1e-5, atol=1e-5)


def test_weight_penalties_are_of_matrices_and_so_of_pieces_but_not_of_leaks() -> None:
    graph = graph_of([3, [4, "prelu+maxout:2"], 1])
    spec = RegularizationSpec.model_validate({"regularizers": [{"form": "weight_l2", "weight": 1}]})
    (penalty,) = resolve(spec, graph)
    assert penalty.matched == ("hid1.w", "hid1.slope", "hid1.intercept", "out.w")


@pytest.mark.parametrize("name", ["maxout", "maxout:", "maxout:0", "maxout:k", "maxout:-1", "trec"])
def test_an_unknown_activation_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(ValueError, match="maxout:k"):
        NetworkSpec.model_validate({"layers": [3, {"size": 4, "activation": name}, 1]})


def test_a_classifiers_softmax_is_not_exchanged() -> None:
    with pytest.raises(SpecError, match="softmax"):
        graph_of([3, {"size": 2, "activation": "prelu"}], "classifier")
