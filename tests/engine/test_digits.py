"""A convolutional network learns handwritten digits; bench/digits.py shows what it can reach."""

from __future__ import annotations

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


def test_a_convolutional_network_tells_unseen_digits_after_a_few_epochs() -> None:
    pixels, labels = load_digits(return_X_y=True)
    x = ((pixels - 5) / 6).reshape(-1, 1, 8, 8).astype(np.float32)
    test, rest = np.split(np.random.default_rng(13).permutation(len(x)), [len(x) // 4])
    convolution = {"form": "conv2", "filter_size": 3, "border_mode": "same"}
    pool = {"form": "pool2", "pool_size": 2}
    layers = [None, {**convolution, "size": 16}, pool, {**convolution, "size": 32}, pool, "flat"]
    spec = TrainSpec.model_validate(
        {
            "network": {"form": "classifier", "layers": [*layers, 64, None]},
            "dropout": {"hid[24]:out": 0.1, "hid6:out": 0.3},
            "optimizer": {"form": "adam", "learning_rate": 0.003},
            "epochs": 8,
        }
    )
    graph = build_graph(
        spec.network, form="classifier", input_shapes={"in": (1, 8, 8)}, output_shape=(10,)
    )
    regularizers = resolve(spec, graph)
    rows = TrainingData(x=rows_of(torch.from_numpy(x[rest])), y=torch.from_numpy(labels[rest]))
    training = Training(graph, spec, regularizers, rows)
    losses = [event.train["loss"] for event in training if isinstance(event, EpochEnd)]
    assert losses[-1] < 0.2 * losses[0]
    sampler = Sampler(
        Network(graph, training.kept_parameters()), regularizers, wanted=("out:out",), seed=1
    )
    samples = sampler.samples(rows_of(x[test]), test, np.arange(10))["out:out"]
    assert (samples.mean(axis=0).argmax(axis=1) == labels[test]).mean() > 0.95
