"""Artifacts: what is stored is what is loaded, and nothing that does not fit is taken."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from engine.artifact import document_of, import_model, load_model, weights_of
from engine.data.encoding import Encoding
from engine.errors import ArtifactError, SpecError
from engine.initializers import initial_parameters
from engine.regularizers import resolve
from engine.spec import TrainSpec
from tests.engine.networks import graph_of

NETWORK = {"form": "regressor", "layers": [3, {"size": 5, "name": "code"}, 2]}


ENCODING = Encoding.identity({"in": (3,)}, (3,), "autoencoder")


def weights(**changes: Any) -> bytes:
    graph = graph_of(NETWORK["layers"])  # type: ignore[arg-type]
    values = initial_parameters(graph, seed=1) | changes
    return safetensors.numpy.save({k: v for k, v in values.items() if v is not None})


def test_an_imported_model_passes_inputs_and_outputs_unscaled() -> None:
    document, stored = import_model({"network": NETWORK}, weights(), version="1")
    model = load_model(json.loads(json.dumps(document)), stored)
    assert model.encoding.input_shapes == {"in": (3,)}
    assert model.encoding.decode(np.ones((1, 2))).tolist() == [[1.0, 1.0]]
    assert model.trained == ()
    assert model.noise_precision is None


def test_the_bytes_of_weights_depend_on_the_parameters_only() -> None:
    values = initial_parameters(graph_of([3, 5, 2]), seed=1)
    assert weights_of(values) == weights_of(dict(reversed(values.items())))


def test_a_trained_model_comes_back_whole() -> None:
    graph = graph_of([3, 5, "tied"], form="autoencoder")
    spec = TrainSpec.model_validate(
        {
            "network": {"form": "autoencoder", "layers": [3, 5, "tied"]},
            "dropout": {"hid1:out": 0.2},
            "regularizers": [{"form": "weight_l1", "weight": 0.1}],
        }
    )
    regularizers = resolve(spec, graph)
    stored = weights_of(initial_parameters(graph, seed=2))
    document = document_of(
        graph,
        ENCODING,
        regularizers,
        stored,
        spec=spec,
        noise_precision={name: 2.0 for name in ENCODING.target_names},
        metrics={"train": {"loss": 1.0}},
        kept_epoch=4,
        version="1",
    )
    model = load_model(json.loads(json.dumps(document)), stored)
    assert model.graph == graph
    assert model.trained == regularizers
    assert model.noise_precision is not None
    assert model.noise_precision.tolist() == [2.0, 2.0, 2.0]


def test_half_precision_is_taken_and_stored_as_float32() -> None:
    tensors = safetensors.torch.load(weights())
    halved = safetensors.torch.save({k: v.to(torch.bfloat16) for k, v in tensors.items()})
    document, stored = import_model({"network": NETWORK}, halved, version="1")
    assert document["parameters"]["code.w"] == {"shape": [3, 5], "dtype": "float32"}
    assert safetensors.torch.load(stored)["code.w"].dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable"),
        (b"\xff" * 100, "not a readable"),
        (weights()[:-3], "not a readable"),
        (weights(**{"code.b": None}), "missing: code.b"),
        (weights(extra=np.zeros(2, np.float32)), "not in it: extra"),
        (weights(**{"code.b": np.zeros(4, np.float32)}), r"shape \[4\], the network needs \[5\]"),
        (weights(**{"code.b": np.full(5, np.nan, np.float32)}), "not all finite"),
        (weights(**{"code.b": np.zeros(5, np.int32)}), "not floating-point"),
    ],
)
def test_weights_that_do_not_fit_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        import_model({"network": NETWORK}, content, version="1")
    assert caught.value.pointer == "#/weights"


@pytest.mark.parametrize(
    ("network", "pointer"),
    [
        ({"layers": [None, 5, 2]}, "#/network/layers/0/size"),
        ({"layers": [3, 5, None]}, "#/network/layers/2/size"),
        ({"form": "classifier", "layers": [3, 1]}, "#/network/layers/1/size"),
        ({"form": "autoencoder", "layers": [3, 2, 2]}, "#/network/layers/2/size"),
    ],
)
def test_an_imported_network_is_whole(network: dict[str, Any], pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        import_model({"network": network}, weights(), version="1")
    assert caught.value.pointer == pointer


def test_damaged_weights_are_never_served() -> None:
    document, stored = import_model({"network": NETWORK}, weights(), version="1")
    damaged = bytearray(stored)
    damaged[-1] ^= 1
    with pytest.raises(ArtifactError, match="hash"):
        load_model(document, bytes(damaged))
    with pytest.raises(ArtifactError, match="format"):
        load_model(document | {"format": 99}, stored)
