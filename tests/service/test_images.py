"""Images over HTTP, from upload to prediction: convolutions, pooling, codes and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest
import safetensors.numpy
from sklearn.datasets import load_digits

from engine.initializers import initial_parameters
from tests.engine.data.conftest import npz
from tests.engine.networks import graph_of
from tests.service.conftest import Api, assert_problem
from tests.service.test_sequences import predict, trained

DIGITS, LABELS = load_digits(return_X_y=True)
X = DIGITS[:200].reshape(-1, 1, 8, 8)
RATE = {"form": "adam", "learning_rate": 0.01}
LAYERS: list[Any] = [
    None,
    {"form": "conv2", "size": 8, "filter_size": 3, "border_mode": "same"},
    {"form": "pool2", "pool_size": 2},
    "flatten",
    None,
]


@pytest.fixture(scope="module")
def dataset(shared: Api) -> str:
    return shared.upload(npz(x=X, y=LABELS[:200]), "application/x-npz")


@pytest.fixture(scope="module")
def classifier(shared: Api, dataset: str) -> str:
    network = {"form": "classifier"}
    spec: dict[str, Any] = {"dropout": {"hid1:out": 0.3}, "epochs": 12, "optimizer": RATE}
    return str(trained(shared, dataset, LAYERS, network=network, **spec)["model"])


def test_images_train_and_predict_with_their_uncertainty(
    shared: Api, dataset: str, classifier: str
) -> None:
    model = shared.get(f"/models/{classifier}").json()
    assert model["outputs"]["hid1:out"] == {"size": 8, "shape": [8, 8, 8]}
    assert model["outputs"]["hid2:out"]["shape"] == [8, 4, 4]
    assert model["parameters"]["hid1.w"]["shape"] == [8, 1, 3, 3]
    rows = X[:3].tolist()
    asked: dict[str, Any] = {"num_samples": 20, "seed": 7, "outputs": ["hid1:out"]}
    many = predict(shared, classifier, rows, **asked)
    assert np.shape(many["probabilities"]) == (3, 10)
    assert np.shape(many["hid1:out"]["std"]) == (3, 8, 8, 8)
    assert np.all(np.array(many["entropy"]) >= np.array(many["expected_entropy"]))
    stored = {"dataset": dataset, "rows": [0, 1, 2]}
    assert predict(shared, classifier, stored, **asked) == many
    alone = predict(shared, classifier, rows[2:], row_offset=2, **asked)
    assert alone["probabilities"] == many["probabilities"][2:]
    every = predict(shared, classifier, {"dataset": dataset})
    assert np.mean(np.array(every["label"]) == LABELS[:200]) > 0.8


@pytest.mark.parametrize(
    ("inputs", "pointer"),
    [
        ([X[0, 0].tolist()], "#/inputs/0"),
        ([[[[1.0] * 8] * 7 + [[1.0] * 7]]], "#/inputs/0/0/7"),
        ([[[[1.0] * 9] * 8]], "#/inputs/0/0/0"),
    ],
    ids=["no channels", "a short line", "too wide"],
)
def test_images_of_another_shape_are_pointed_at(
    shared: Api, classifier: str, inputs: Any, pointer: str
) -> None:
    body = {"model": classifier, "inputs": inputs}
    problem = assert_problem(shared.post("/predict", json=body), 422)
    assert problem["errors"][0]["pointer"].startswith(pointer)


#: Autoencoders of images: convolutions alone, and a code that is a vector.
AUTOENCODERS: dict[str, list[Any]] = {
    "convolutions": [
        None,
        {"form": "conv2", "size": 8, "filter_size": 3, "border_mode": "same"},
        {"form": "conv2", "filter_size": 3, "border_mode": "same"},
    ],
    "code": [None, "flatten", [12, "tanh"], {"size": 64, "activation": "linear"}, "reshape"],
}


@pytest.mark.parametrize("layers", AUTOENCODERS.values(), ids=AUTOENCODERS)
def test_an_autoencoder_gives_images_back_in_their_own_units(
    shared: Api, dataset: str, layers: list[Any]
) -> None:
    network = {"form": "autoencoder"}
    spec: dict[str, Any] = {"inputs": ["x"], "dropout": {"hid1:out": 0.05}, "epochs": 40}
    model = str(trained(shared, dataset, layers, network=network, **spec)["model"])
    rows = {"dataset": dataset, "rows": list(range(50))}
    one = np.array(predict(shared, model, rows)["prediction"])
    assert one.shape == (50, 1, 8, 8)
    spread = X[:50].var()  # pixels go from 0 to 16
    assert ((one - X[:50]) ** 2).mean() < 0.6 * spread
    many = predict(shared, model, rows, num_samples=10, seed=1)
    errors = ((np.array(many["mean"]) - X[:50]) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(many["reconstruction_error"], errors, rtol=1e-6)


NETWORK: dict[str, Any] = {
    "layers": [
        {"form": "input", "shape": [2, 5, 4]},
        {"form": "conv2", "size": 3, "filter_size": [3, 2], "name": "c"},
        {"form": "pool2", "pool_size": [3, 1], "mode": "mean"},
        "flatten",
        2,
    ]
}


def sent(api: Api, network: dict[str, Any], weights: dict[str, Any]) -> httpx.Response:
    files: Any = {
        "spec": (None, json.dumps({"network": network})),
        "weights": ("w.safetensors", safetensors.numpy.save(weights)),
    }
    return api.post("/models", files=files)


def test_an_imported_convolution_predicts_what_its_weights_say(shared: Api) -> None:
    weights = initial_parameters(graph_of(NETWORK["layers"]), seed=1)
    answer = sent(shared, NETWORK, weights)
    assert answer.status_code == 201, answer.text
    x = np.random.default_rng(1).standard_normal((2, 2, 5, 4))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(2, 3))
    hidden = np.einsum("nchwij,fcij->nfhw", windows, weights["c.w"].astype(np.float64))
    flat = np.maximum(hidden, 0).mean(axis=2).reshape(2, -1)
    expected = flat @ weights["out.w"] + weights["out.b"]
    ours = predict(shared, answer.json()["id"], x.tolist())["prediction"]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_an_imported_convolution_is_whole(shared: Api) -> None:
    weights = initial_parameters(graph_of(NETWORK["layers"]), seed=1)
    for change, pointer in (
        ({"size": None}, "#/network/layers/1/size"),
        ({"filter_size": 3}, None),
        ({"filter_size": [6, 2]}, "#/network/layers/1/filter_size"),
    ):
        layers = list(NETWORK["layers"])
        layers[1] = layers[1] | change
        problem = assert_problem(sent(shared, {"layers": layers}, weights), 422)
        if pointer is not None:
            assert problem["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("keywords", "pointer"),
    [
        ({"stride": 0}, "stride"),
        ({"stride": [1, 0]}, "stride/1"),
        ({"stride": True}, "stride"),
        ({"filter_size": 9}, "filter_size"),
        ({"filter_size": "3"}, "filter_size"),
        ({"filter_size": [3, 3, 3]}, "filter_size"),
        ({"filter_size": []}, "filter_size"),
        ({"filter_size": 2.5}, "filter_size"),
        ({"border_mode": "half"}, "border_mode"),
        ({"mode": "max"}, "mode"),
        ({"form": "pool2"}, "size"),
    ],
    ids=str,
)
def test_what_a_convolution_cannot_be_is_refused_before_the_job(
    shared: Api, dataset: str, keywords: dict[str, Any], pointer: str
) -> None:
    layer = {"form": "conv2", "size": 4, "filter_size": 3, **keywords}
    if pointer == "size":
        layer = {"form": "pool2", "pool_size": 2, "size": 4}
    body = {"dataset": dataset, "network": {"layers": [None, layer, "flatten", None]}}
    assert_problem(shared.post("/train", json=body), 422, f"#/network/layers/1/{pointer}")


def test_an_image_is_flattened_before_a_dense_layer(shared: Api, dataset: str) -> None:
    body = {"dataset": dataset, "network": {"layers": [None, 4, None]}}
    problem = assert_problem(shared.post("/train", json=body), 422, "#/network/layers/1")
    assert "flatten" in problem["detail"] + problem["errors"][0]["detail"]
