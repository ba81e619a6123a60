"""Class labels are texts, integers, booleans or whole numbers, and come back as they were."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.conftest import Api


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        (("no", "yes"), ["no", "yes"]),
        (("-3", "12"), [-3, 12]),
        (("false", "true"), [False, True]),
        (("1.0", "2.0"), [1, 2]),
    ],
    ids=["texts", "integers", "booleans", "whole numbers"],
)
def test_labels_come_back_in_their_own_type(
    api: Api, written: tuple[str, str], labels: list[Any]
) -> None:
    rows = "x,y\n" + "".join(f"{i % 2 * 5 + i / 60},{written[i % 2]}\n" for i in range(60))
    job = api.train(
        api.upload(rows.encode()),
        network={"form": "classifier", "layers": [None, 8, None]},
        optimizer={"form": "adam", "learning_rate": 0.05},
        epochs=20,
    )
    api.work()
    model = api.get(f"/jobs/{job['id']}").json()["model"]
    answer = api.post("/predict", json={"model": model, "inputs": [[0.2], [5.8]]})
    assert answer.status_code == 200, answer.text
    told = answer.json()["outputs"]["label"]
    assert told == labels
    assert [type(label) for label in told] == [type(label) for label in labels]
