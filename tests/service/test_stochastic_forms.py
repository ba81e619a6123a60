"""Dropped weights, shared masks and learnt rates, from training to prediction over HTTP."""

from __future__ import annotations

import numpy as np
import pytest

from tests.service.conftest import Api, assert_problem


@pytest.fixture
def model(api: Api) -> str:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((120, 3))
    lines = ["a,b,y", *(f"{a:.4f},{b:.4f},{a - b + 0.3 * e:.4f}" for a, b, e in rows)]
    dataset = api.upload("\n".join(lines).encode())
    job = api.train(
        dataset,
        network={"layers": [None, 20, None]},
        epochs=3,
        regularizers=[
            {"form": "concrete_dropout", "weight": 0.01, "weight_regularizer": 0.001},
            {"form": "drop_connect", "pattern": "out.w", "weight": 0.25},
        ],
    )
    api.work()
    ended = api.get(f"/jobs/{job['id']}").json()
    assert ended["status"] == "succeeded", ended["error"]
    log = api.get(f"/jobs/{job['id']}/regularizers").json()["data"]
    assert [entry["form"] for entry in log] == ["concrete_dropout", "drop_connect"]
    assert all(0 < epoch["rates"]["hid1:out"] < 1 for epoch in log[0]["history"])
    assert log[1]["matched"] == ["out.w"]
    assert set(log[1]["history"][0]["rates"]) == {"out.w"}
    return str(ended["model"])


def test_a_model_predicts_with_the_rates_it_learnt(api: Api, model: str) -> None:
    request = {"model": model, "inputs": [[1, 2], [3, 4]], "num_samples": 50, "seed": 4}
    answer = api.post("/predict", json=request).json()
    (dropout,) = answer["dropout"]
    (connections,) = answer["drop_connect"]
    assert dropout["pattern"] == "hid1:out"
    assert 0.05 < dropout["rate"] < 0.2
    assert connections["rate"] == 0.25
    assert min(row[0] for row in answer["outputs"]["std"]) > 0
    # The answer says enough to ask for the same numbers again.
    again = api.post(
        "/predict",
        json={
            **request,
            "dropout": {dropout["pattern"]: dropout["rate"]},
            "regularizers": [{"form": "drop_connect", "pattern": "out.w", "weight": 0.25}],
        },
    ).json()
    assert again["outputs"] == answer["outputs"]
    assert api.get(f"/models/{model}").json()["rates"] == {"0": {"hid1:out": dropout["rate"]}}


def test_learnt_rates_are_not_given(api: Api, model: str) -> None:
    answer = api.post(
        "/predict",
        json={
            "model": model,
            "inputs": [[1, 2]],
            "regularizers": [{"form": "concrete_dropout", "weight": 0.1}],
        },
    )
    assert_problem(answer, 422, "#/regularizers/0")
