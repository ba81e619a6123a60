"""Every spec that cannot be trained is refused before the 202, with a pointer to what is wrong."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from tests.service.conftest import Api, assert_problem

TABLE = b"a,b,kind,y\n" + b"".join(b"%d,%d,k%d,%d\n" % (i, i * i, i % 3, i) for i in range(40))


@pytest.fixture
def table(api: Api) -> str:
    return api.upload(TABLE)


@pytest.fixture
def arrays(api: Api) -> str:
    content = io.BytesIO()
    x = np.zeros((12, 6, 3), dtype=np.float32)
    np.savez(content, x=x, image=np.zeros((12, 1, 8, 8), dtype=np.float32), y=np.zeros((12, 2)))
    return api.upload(content.getvalue(), "application/x-npz")


def refused(api: Api, dataset: str, network: dict[str, Any], pointer: str, **spec: Any) -> str:
    body = {"dataset": dataset, "network": network, **spec}
    for query in ({}, {"validate_only": "true"}):
        problem = assert_problem(api.post("/train", params=query, json=body), 422, pointer)
    assert api.get("/jobs").json()["data"] == []
    return str(problem["errors"][0]["detail"])


@pytest.mark.parametrize(
    ("network", "pointer", "says"),
    [
        ({"layers": [None, 5, 7]}, "#/network/layers/2/size", "1"),
        ({"layers": [9, 5, None]}, "#/network/layers/0/size", "inputs"),
        ({"layers": [None, {"size": 5, "inputs": ["hid2"]}, 5, None]},
         "#/network/layers/1/inputs/0", "no earlier layer"),
        ({"layers": [None, {"size": 5, "inputs": ["hid1"]}, None]},
         "#/network/layers/1/inputs/0", "no earlier layer"),
        ({"layers": [None, {"size": 5, "inputs": ["in:cell"]}, None]},
         "#/network/layers/1/inputs/0", "in:out"),
        ({"layers": [None, 10**12, None]}, "#/network/layers/1", "1000000"),
        ({"layers": [None, 100_000, 100_000, None]}, "#/network/layers", "parameters"),
        ({"layers": [None, *([3] * 300), None]}, "#/network/layers", "256"),
        ({"layers": [None, "softmaxx", None]}, "#/network/layers/1", "softmaxx"),
        ({"layers": [None, [5, "lstm"], None]}, "#/network/layers/1", "sequence"),
        ({"layers": [None, {"form": "conv2", "size": 3, "filter_size": 3}, None]},
         "#/network/layers/1", "image"),
        ({"layers": [None, {"form": "tied"}, None]}, "#/network/layers/1", "tied"),
        ({"layers": [None, {"size": 3, "name": "in"}, None]}, "#/network/layers/1/name", "in"),
        ({"layers": [None, {"size": 3, "periods": [1]}, None]},
         "#/network/layers/1/periods", "periods"),
        ({"layers": [None, 5, None], "loss": "xe"}, "#/network/loss", "regressor"),
        ({"form": "classifier", "layers": [None, 5, None], "loss": "mse"},
         "#/network/loss", "classifier"),
        ({"form": "autoencoder", "layers": [None, 5, None]}, "#/inputs", "text"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_are_refused(
    api: Api, table: str, network: dict[str, Any], pointer: str, says: str
) -> None:
    more = {"targets": ["kind"]} if network.get("form") == "classifier" else {}
    assert says in refused(api, table, network, pointer, **more)


@pytest.mark.parametrize(
    ("network", "spec", "pointer"),
    [
        ({"layers": [None, 5, None]}, {}, "#/network/layers/2"),
        ({"layers": [None, [5, "gru"], None]}, {}, "#/network/layers/2"),
        ({"layers": [None, 5, None]}, {"inputs": ["image"]}, "#/network/layers/1"),
        ({"layers": [None, {"form": "conv2", "size": 2, "filter_size": 20}, "flatten", None]},
         {"inputs": ["image"]}, "#/network/layers/1/filter_size"),
        ({"layers": [None, {"form": "reshape", "shape": [5, 5]}, "flatten", None]},
         {"inputs": ["image"]}, "#/network/layers/1/shape"),
        ({"layers": [None, "flatten", None]}, {"inputs": ["x", "image"]}, "#/inputs"),
        ({"layers": [None, "last", None]}, {"dropout": {"lstm*:cell": 0.1}},
         "#/dropout/lstm*:cell"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(
    api: Api, arrays: str, network: dict[str, Any], spec: dict[str, Any], pointer: str
) -> None:
    refused(api, arrays, network, pointer, **spec)
