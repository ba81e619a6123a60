"""A tied linear autoencoder finds the principal components of a real data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits, load_wine
from sklearn.decomposition import PCA

from engine.data.dataset import Data
from engine.network import Network
from engine.plan import plan_training
from engine.sampling import Sampler
from engine.spec import TrainSpec
from engine.training import Training, TrainingData
from tests.engine.networks import only

Array = npt.NDArray[Any]


def trained(body: dict[str, Any], x: Array) -> tuple[Array, Array]:
    """Train what a caller sends to `POST /train`; return its rows, encoded and reconstructed."""
    data = Data(table=pa.table({f"x{i}": column for i, column in enumerate(x.T)}))
    plan = plan_training(TrainSpec.model_validate(body), data)
    rows = plan.split.train
    inputs = plan.encoding.encode_inputs(data, rows)
    targets = np.ascontiguousarray(plan.encoding.encode_targets(data, rows))
    train = TrainingData(x=inputs.map(torch.from_numpy), y=torch.from_numpy(targets))
    training = Training(plan.graph, plan.spec, plan.regularizers, train)
    for _ in training:
        pass
    network = Network(plan.graph, training.kept_parameters())
    return only(inputs), Sampler(network, (), wanted=("out:out",)).deterministic(inputs)["out:out"]


@pytest.mark.parametrize(
    ("load", "components", "optimizer"),
    [
        (load_wine, 4, {"form": "adam", "learning_rate": 0.01}),
        (load_wine, 4, {"form": "esgd", "learning_rate": 0.1}),
        (load_digits, 16, {"form": "adam", "learning_rate": 0.003}),
    ],
)
def test_it_reconstructs_as_well_as_principal_components(
    load: Any, components: int, optimizer: Any
) -> None:
    body = {
        "network": {
            "form": "autoencoder",
            "layers": [None, {"size": components, "activation": "linear"}, "tied"],
        },
        "optimizer": optimizer,
        "epochs": 150,
        "batch_size": 64,
        "validation": None,
    }
    x, reconstruction = trained(body, load().data[:600])
    pca = PCA(components).fit(x)
    best = np.square(x - pca.inverse_transform(pca.transform(x))).mean()
    error = np.square(x - reconstruction).mean()
    assert best * (1 - 1e-6) <= error < 1.01 * best
