"""Columns read as the caller says, rows divided by groups, and several losses, over HTTP."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.service.conftest import Api, assert_problem


@pytest.fixture
def dataset(api: Api) -> str:
    rng = np.random.default_rng(0)
    lines = ["zone,patient,size,kind,y"]
    for row in range(120):
        zone, size = rng.integers(1, 4), rng.normal()
        gap = "" if row % 10 == 3 else f"{size:.3f}"
        kind = "ab"[int(size > 0)]
        lines.append(f"{zone},{row // 6},{gap},{kind},{zone * 2 + size:.3f}")
    return api.upload("\n".join(lines).encode())


def trained(api: Api, dataset: str, **spec: Any) -> dict[str, Any]:
    job = api.train(dataset, epochs=30, **spec)
    api.work()
    ended: dict[str, Any] = api.get(f"/jobs/{job['id']}").json()
    assert ended["status"] == "succeeded", ended["error"]
    return ended


LAYERS = [
    None,
    {"name": "h", "size": 20, "activation": "tanh"},
    {"name": "which", "form": "softmax", "size": 2, "inputs": ["h"]},
    {"name": "out", "size": 1, "inputs": ["h"]},
]


def test_a_table_is_read_divided_and_compared_as_asked(api: Api, dataset: str) -> None:
    job = trained(
        api,
        dataset,
        inputs=["zone", "size"],
        columns={"zone": {"type": "category", "unknown": "column"}, "size": {"missing": "mean"}},
        validation={"fraction": 0.2, "group": "patient"},
        network={
            "layers": LAYERS,
            "losses": [
                {"form": "mse"},
                {"form": "xe", "weight": 0.5, "output_name": "which", "targets": ["kind"]},
            ],
        },
        optimizer={"form": "adam", "learning_rate": 0.02},
        hidden_dropout=0.05,
    )
    valid = job["metrics"]["valid"]
    assert valid["loss"] == pytest.approx(valid["mse(out:out)"] + valid["xe(which:out)"], rel=1e-5)
    model = api.get(f"/models/{job['model']}").json()
    zone, size = model["encoding"]["inputs"]
    assert (zone["of"], zone["categories"], zone["unknown"]) == ("integer", ["1", "2", "3"], True)
    assert size["indicator"] is True
    assert model["encoding"]["auxiliary"][0]["classes"] == ["a", "b"]
    answer = api.post(
        "/predict",
        json={
            "model": job["model"],
            "inputs": [{"zone": 3, "size": 1.0}, {"zone": 9, "size": None}],
            "outputs": ["which:out"],
        },
    )
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["outputs"]
    assert outputs["prediction"][0][0] == pytest.approx(7, abs=1.0)
    assert outputs["which:out"][0][1] > 0.5


def test_learnt_noise_is_told_in_original_units(api: Api, dataset: str) -> None:
    network = {
        "layers": [
            None,
            {"name": "h", "size": 20},
            {"name": "covar", "size": 1, "inputs": ["h"], "activation": "softplus"},
            {"name": "mean", "size": 1, "inputs": ["h"]},
        ],
        "loss": "gll",
    }
    job = trained(api, dataset, inputs=["zone"], network=network, hidden_dropout=0.1)
    model = api.get(f"/models/{job['model']}").json()
    assert model["noise_precision"] is None
    assert job["metrics"]["valid"]["log_likelihood"] > -3
    request = {
        "model": job["model"],
        "inputs": [[1], [3]],
        "num_samples": 200,
        "seed": 1,
        "statistics": ["mean", "variance", "predictive_quantiles"],
    }
    answer = api.post("/predict", json=request).json()
    assert answer["warnings"] == []
    variance = answer["outputs"]["variance"]
    aleatoric = np.array(variance["aleatoric"])
    assert np.all((aleatoric > 0.2) & (aleatoric < 5))  # of `size`, which the network cannot see: 1
    assert aleatoric[0] != aleatoric[1]
    np.testing.assert_allclose(
        np.array(variance["total"]), np.array(variance["epistemic"]) + aleatoric
    )
    quantiles = answer["outputs"]["predictive_quantiles"]
    spread = np.array(quantiles["0.95"]) - np.array(quantiles["0.05"])
    total = np.sqrt(np.array(variance["total"]))
    np.testing.assert_allclose(spread, 3.29 * total, rtol=0.15)


def test_a_table_is_read_as_its_country_writes_it(api: Api) -> None:
    rng = np.random.default_rng(1)
    lines = ['\ufeff"Tag";"Preis";"Ort; Land";"aktiv"']
    for row in range(80):
        price = f"{100 + row + rng.normal():.2f}".replace(".", ",")
        gap = "" if row % 9 == 4 else f"{row % 28 + 1:02}.{row // 28 + 1:02}.2021"
        lines.append(f'"{gap}";"{price}";"{"Basel; CH" if row % 2 else "Köln; DE"}";true')
    answer = api.post(
        "/datasets?decimal=,",
        content="\r\n".join(lines).encode(),
        headers={"Content-Type": "text/csv"},
    )
    assert answer.status_code == 201, answer.text
    types = {column["name"]: column["type"] for column in answer.json()["columns"]}
    assert types == {"Tag": "text", "Preis": "number", "Ort; Land": "text", "aktiv": "boolean"}
    job = trained(
        api,
        answer.json()["id"],
        targets=["Preis"],
        columns={"Tag": {"type": "datetime", "format": "%d.%m.%Y"}},
        optimizer={"form": "adam", "learning_rate": 0.02},
    )
    model = api.get(f"/models/{job['model']}").json()
    day = next(field for field in model["encoding"]["inputs"] if field["name"] == "Tag")
    assert (day["type"], day["format"], day["indicator"]) == ("date", "%d.%m.%Y", True)
    record = {"Tag": "15.02.2021", "Ort; Land": "Köln; DE", "aktiv": True}
    body = {"model": job["model"], "inputs": [record, {**record, "Tag": None}]}
    predicted = api.post("/predict", json=body).json()["outputs"]["prediction"]
    assert predicted[0][0] == pytest.approx(142, abs=25)  # of 100 to 180, in its own units
    body["inputs"] = [{**record, "Tag": "2021-02-15"}]
    problem = assert_problem(api.post("/predict", json=body), 422, "#/inputs/0/Tag")
    assert "'%d.%m.%Y', got '2021-02-15'" in problem["detail"]


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"columns": {"kind": {"missing": "mean"}}}, "#/columns/kind/missing"),
        ({"columns": {"none": {}}}, "#/columns/none"),
        ({"columns": {"k*": {"type": "number"}}}, "#/columns/k*/type"),
        ({"columns": {"*": {"missing": "refuse"}}}, "#/columns/*/missing"),
        ({"columns": {"size": {"missing": "refuse", "indicator": True}}}, "#/columns/size"),
        ({"columns": {"kind": {"type": "datetime", "format": "%d"}}}, "#/columns/kind/format"),
        ({"columns": {"kind": {"format": "%d.%m.%Y"}}}, "#/columns/kind"),
        ({"validation": {"fraction": 0.1, "time": "kind"}}, "#/validation/time"),
        ({"targets": ["size"], "network": {"layers": [None, 3, None]}}, "#/targets"),
        (
            {
                "rows": [0, 1, 2, 4, 5],
                "targets": ["size"],
                "network": {"layers": [None, 3, None], "form": "classifier"},
            },
            "#/targets",
        ),
        ({"validation": {"fraction": 0.1, "group": "none"}}, "#/validation/group"),
        ({"network": {"layers": [None, 3, None], "loss": "kl"}}, "#/network/loss"),
    ],
)
def test_what_makes_no_sense_is_pointed_at(
    api: Api, dataset: str, spec: dict[str, Any], pointer: str
) -> None:
    body = {"dataset": dataset, "network": {"layers": [None, 3, None]}, **spec}
    assert_problem(api.post("/train", json=body), 422, pointer)
