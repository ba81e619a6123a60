"""A convolutional network learns handwritten digits; bench/digits.py shows what it can reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from engine.graph import build_graph
from engine.network import Network
from engine.regularizers import resolve
from engine.sampling import Sampler
from engine.spec import TrainSpec
from engine.training import EpochEnd, Training, TrainingData
from tests.engine.networks import rows_of

CONVOLUTION = {"form": "conv2", "filter_size": 3, "border_mode": "same"}
POOL = {"form": "pool2", "pool_size": 2}


def training_of(spec: TrainSpec, x: Any, y: Any) -> Training:
    graph = build_graph(
        spec.network, form="classifier", input_shapes={"in": (1, 8, 8)}, output_shape=(10,)
    )
    rows = TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(y))
    return Training(graph, spec, resolve(spec, graph), rows)


def test_a_convolutional_network_tells_unseen_digits_after_a_few_epochs() -> None:
    pixels, labels = load_digits(return_X_y=True)
    x = ((pixels - 5) / 6).reshape(-1, 1, 8, 8).astype(np.float32)
    test, rest = np.split(np.random.default_rng(13).permutation(len(x)), [len(x) // 4])
    layers = [None, {**CONVOLUTION, "size": 16}, POOL, {**CONVOLUTION, "size": 32}, POOL, "flat"]
    spec = TrainSpec.model_validate(
        {
            "network": {"form": "classifier", "layers": [*layers, 64, None]},
            "dropout": {"hid[24]:out": 0.1, "hid6:out": 0.3},
            "optimizer": {"form": "adam", "learning_rate": 0.003},
            "epochs": 8,
        }
    )
    training = training_of(spec, x[rest], labels[rest])
    losses = [event.train["loss"] for event in training if isinstance(event, EpochEnd)]
    assert losses[-1] < 0.2 * losses[0]
    sampler = Sampler(
        Network(training.graph, training.kept_parameters()),
        training.regularizers,
        wanted=("out:out",),
        seed=1,
    )
    samples = sampler.samples(rows_of(x[test]), test, np.arange(10))["out:out"]
    assert (samples.mean(axis=0).argmax(axis=1) == labels[test]).mean() > 0.95


def test_convolutions_go_on_to_the_same_bits_after_an_interruption() -> None:
    pixels, labels = load_digits(return_X_y=True)
    x, y = pixels[:100].reshape(-1, 1, 8, 8).astype(np.float32), labels[:100]
    network = {"layers": [None, {**CONVOLUTION, "size": 40}, POOL, "flat", None]}
    spec = TrainSpec.model_validate(
        {"network": network, "hidden_dropout": 0.2, "batch_size": 7, "epochs": 3}
    )
    whole, interrupted = training_of(spec, x, y), training_of(spec, x, y)
    for _ in whole:
        pass
    for _, _ in zip(range(2), interrupted, strict=False):
        pass
    other = training_of(spec, x, y)
    other.restore(interrupted.state())
    for _ in other:
        pass
    ours, theirs = other.kept_parameters(), whole.kept_parameters()
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
