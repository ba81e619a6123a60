"""The scenarios of theanets' tests that compare numbers: activations, initial weights, models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy

from tests.theanets.conftest import Lab
from tests.theanets.datasets import BASES

Array = npt.NDArray[Any]
PROBE = np.array([-10, -1, -0.1, 0, 0.1, 1, 10], dtype=np.float64)


def imported(lab: Lab, layers: list[Any], weights: Mapping[str, Array]) -> str:
    """Return the id of a model with these weights."""
    stored = {name: np.asarray(value, dtype=np.float32) for name, value in weights.items()}
    files: Any = {
        "spec": (None, json.dumps({"network": {"layers": layers}}), "application/json"),
        "weights": ("weights.safetensors", safetensors.numpy.save(stored)),
    }
    answer = lab.api.post("/models", files=files)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def activated(lab: Lab, activation: str, **parameters: Array) -> Array:
    """Return what an activation makes of the probe, through a layer that changes nothing else."""
    named = {f"out.{name}": value for name, value in parameters.items()}
    weights = {"out.w": np.eye(7), "out.b": np.zeros(7), **named}
    model = imported(lab, [7, {"size": 7, "activation": activation}], weights)
    answer = lab.api.post("/predict", json={"model": model, "inputs": [PROBE.tolist()]})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"]["prediction"][0])


def z_scores(x: Array) -> Array:
    scores: Array = (x - x.mean()) / x.std()
    return scores


SOFTPLUS = np.log1p(np.exp(PROBE))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("linear", PROBE),
        ("logistic", 1 / (1 + np.exp(-PROBE))),
        ("sigmoid", 1 / (1 + np.exp(-PROBE))),
        ("tanh", np.tanh(PROBE)),
        ("softmax", np.exp(PROBE) / np.exp(PROBE).sum()),
        ("softplus", SOFTPLUS),
        ("relu", PROBE.clip(0)),
        ("rect:max", PROBE.clip(0)),
        ("rect:min", PROBE.clip(max=1)),
        ("rect:minmax", PROBE.clip(0, 1)),
        ("norm:mean", PROBE - PROBE.mean()),
        ("norm:max", PROBE / 10),
        ("norm:std", PROBE / PROBE.std()),
        ("norm:z", z_scores(PROBE)),
        ("elu", np.where(PROBE < 0, np.expm1(PROBE), PROBE)),
        ("relu+tanh", np.tanh(PROBE.clip(0))),
        ("softplus+norm:z", z_scores(SOFTPLUS)),
    ],
)
def test_an_activation_is_its_formula(lab: Lab, activation: str, expected: Array) -> None:
    np.testing.assert_allclose(activated(lab, activation), expected, rtol=2e-6, atol=2e-7)


def test_a_learnt_piecewise_activation_is_its_formula(lab: Lab) -> None:
    rng = np.random.default_rng(13)
    slope, intercept = rng.standard_normal((2, 7, 3)).astype(np.float32)
    expected = (PROBE[:, None] * slope + intercept).max(axis=1)
    found = activated(lab, "maxout:3", slope=slope, intercept=intercept)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7)


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [
        ("prelu", {"leak"}),
        ("lgrelu", {"gain", "leak"}),
        ("maxout:4", {"intercept", "slope"}),
        ("relu+norm:z", set()),
    ],
)
def test_what_an_activation_learns_is_named(
    lab: Lab, activation: str, parameters: set[str]
) -> None:
    model = lab.model(lab.once("vectors", layers=[None, [3, activation], None]))
    named = {name.split(".")[1] for name in model["parameters"] if name.startswith("hid1.")}
    assert named == {"w", "b"} | parameters


def initial(lab: Lab, base: str, layer: dict[str, Any], name: str) -> Array:
    """Return a parameter as it was drawn: the steps of training are too short to be seen."""
    sgd = {"form": "sgd", "learning_rate": 1e-30}
    job = lab.train(base, {**BASES[base].spec(layers=[None, layer, None]), "optimizer": sgd})
    answer = lab.api.get(f"/models/{job['model']}/weights")
    weights: Array = safetensors.numpy.load(answer.content)[name]
    return weights.astype(np.float64)


def test_sparse_weights_are_zero_at_their_share(lab: Lab) -> None:
    w = initial(lab, "vectors", {"size": 2000, "sparsity": 0.1, "std": 1.0}, "hid1.w")
    assert w.shape == (7, 2000)
    share = (np.abs(w) < 1e-12).mean()
    assert abs(share - 0.1) < 0.01  # 4 standard errors, as the diagonal is kept
    assert abs(w.mean()) < 4 / np.sqrt(w.size)


def test_diagonal_weights_are_zero_elsewhere(lab: Lab) -> None:
    w = initial(lab, "vectors", {"size": 20, "diagonal": 0.9}, "hid1.w")
    np.testing.assert_allclose(w, 0.9 * np.eye(7, 20), rtol=1e-6, atol=1e-12)


def test_recurrent_weights_have_their_radius(lab: Lab) -> None:
    w = initial(lab, "sequences", {"form": "rnn", "size": 20, "radius": 2.0}, "hid1.hh")
    singular = np.linalg.svd(w, compute_uv=False)
    assert singular[0] == pytest.approx(2.0, rel=1e-5)
    assert singular[1] < 2


def test_a_model_that_is_fetched_and_sent_back_is_the_same(lab: Lab) -> None:
    job = lab.once("alone", layers=[None, 3, [4, "relu+norm:z"], None])
    bundle = lab.api.get(f"/models/{job['model']}/bundle")
    assert bundle.status_code == 200, bundle.text
    sent = lab.api.post(
        "/models", content=bundle.content, headers={"Content-Type": "application/zip"}
    )
    assert sent.status_code == 201, sent.text
    other = sent.json()["id"]
    assert other != job["model"]
    paths = [f"/models/{model}/weights" for model in (job["model"], other)]
    assert lab.api.get(paths[0]).content == lab.api.get(paths[1]).content
    assert lab.predict("alone", job) == lab.predict("alone", {**job, "model": other})


def test_a_parameter_that_does_not_exist_is_not_among_the_weights(lab: Lab) -> None:
    job = lab.once("vectors")
    weights = safetensors.numpy.load(lab.api.get(f"/models/{job['model']}/weights").content)
    assert set(weights) == {"hid1.w", "hid1.b", "out.w", "out.b"}
