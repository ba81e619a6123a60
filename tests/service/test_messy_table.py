"""A real table with gaps, categories, names and numbers trains and predicts as it comes.

It is the passenger list of the Titanic, 1309 rows, as scikit-learn's own tests keep it.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets

from tests.service.conftest import Api, assert_problem

SOURCE = (
    Path(sklearn.datasets.__file__).parent
    / "tests/data/openml/id_40945/data-v1-dl-16826755.arff.gz"
)


def passengers() -> list[dict[str, str]]:
    """The rows, with nothing where a value is missing."""
    head, _, body = gzip.decompress(SOURCE.read_bytes()).decode().partition("@data\n")
    names = [line.split("'")[1] for line in head.splitlines() if line.startswith("@attribute")]
    rows = csv.reader(io.StringIO(body), quotechar='"', escapechar="\\")
    return [
        dict(zip(names, ("" if cell == "?" else cell for cell in row), strict=True))
        for row in rows
        if row
    ]


ROWS = passengers()


@pytest.fixture(scope="module")
def content() -> bytes:
    written = io.StringIO()
    table = csv.DictWriter(written, fieldnames=list(ROWS[0]))
    table.writeheader()
    table.writerows(ROWS)
    return written.getvalue().encode()


@pytest.fixture
def dataset(api: Api, content: bytes) -> str:
    return api.upload(content)


def trained(api: Api, dataset: str, **spec: Any) -> dict[str, Any]:
    job = api.train(
        dataset,
        epochs=15,
        hidden_dropout=0.2,
        network={"layers": [None, 32, None], **spec.pop("network", {})},
        **spec,
    )
    api.work()
    ended: dict[str, Any] = api.get(f"/jobs/{job['id']}").json()
    assert ended["status"] == "succeeded", ended["error"]
    return ended


def record(row: int, *without: str) -> dict[str, Any]:
    """A passenger as a caller has them: numbers as numbers, nothing as null."""
    numbers = ("pclass", "survived", "age", "sibsp", "parch", "fare", "body")
    cells = {name: value for name, value in ROWS[row].items() if name not in without}
    return {
        name: None if value == "" else float(value) if name in numbers else value
        for name, value in cells.items()
    }


def test_a_table_as_it_comes_is_trained_and_predicted(api: Api, dataset: str) -> None:
    plan = api.post(
        "/train",
        params={"validate_only": True},
        json={"dataset": dataset, "targets": ["sex"], "network": {"layers": [None, 32, None]}},
    ).json()
    assert any("'name'" in warning for warning in plan["warnings"])
    assert "name" not in plan["inputs"]
    assert plan["classes"] == ["female", "male"]

    job = trained(api, dataset, targets=["sex"])
    men = np.mean([row["sex"] == "male" for row in ROWS])
    assert job["metrics"]["valid"]["accuracy"] > men
    encoding = api.get(f"/models/{job['model']}").json()["encoding"]
    fields = {field["name"]: field for field in encoding["inputs"]}
    assert fields["embarked"]["categories"] == ["C", "Q", "S"]
    assert fields["age"]["indicator"] is True
    answer = api.post(
        "/predict",
        json={
            "model": job["model"],
            "inputs": [record(0, "sex"), record(15)],
            "num_samples": 50,
        },
    )
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["outputs"]["label"]) <= {"female", "male"}

    stranger = {**record(0, "sex"), "embarked": "Z"}
    refused = api.post("/predict", json={"model": job["model"], "inputs": [stranger]})
    assert "'C', 'Q', 'S'" in assert_problem(refused, 422, "#/inputs/0/embarked")["detail"]


def test_numbers_come_back_in_their_own_units(api: Api, dataset: str) -> None:
    paid = [row for row, cells in enumerate(ROWS) if cells["fare"]]
    refused = api.post(
        "/train",
        json={"dataset": dataset, "targets": ["fare"], "network": {"layers": [None, 8, None]}},
    )
    assert "'fare' (1)" in assert_problem(refused, 422, "#/targets")["detail"]
    job = trained(
        api,
        dataset,
        targets=["fare"],
        inputs=["pclass", "age", "sibsp", "parch", "embarked", "cabin"],
        columns={"pclass": {"type": "category"}, "cabin": {"unknown": "column"}},
        rows=paid,
    )
    inputs = [record(0, "name", "sex", "fare"), record(1200, "name", "sex", "fare")]
    kept = ("pclass", "age", "sibsp", "parch", "embarked", "cabin")
    asked = [{name: row[name] for name in kept} for row in inputs]
    for row in asked:
        row["pclass"] = int(row["pclass"])
    asked[1]["cabin"] = "Z99"
    answer = api.post("/predict", json={"model": job["model"], "inputs": asked})
    assert answer.status_code == 200, answer.text
    first, third = (row[0] for row in answer.json()["outputs"]["prediction"])
    assert first > third + 20  # pounds, of a cabin in the first class and a berth in the third
