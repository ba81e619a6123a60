"""A whole model goes from one server to another as one file, or not at all."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import Api, Serve, assert_problem

ZIP = {"Content-Type": "application/zip"}
ROWS = "".join(f"{city},{age},{age % 7 + (city == 'Rome')}\n" for city in ("Rome", "Oslo")
               for age in range(20, 60))  # fmt: skip


@pytest.fixture
def trained(api: Api) -> str:
    dataset = api.upload(f"city,age,y\n{ROWS}".encode())
    job = api.train(
        dataset, network={"layers": [None, 8, None]}, epochs=2, hidden_dropout=0.2, input_noise=0.1
    )
    api.work()
    return str(api.get(f"/jobs/{job['id']}").json()["model"])


def bundle(api: Api, model: str) -> bytes:
    answer = api.get(f"/models/{model}/bundle")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    return answer.content


def test_a_model_predicts_the_same_on_another_server(
    api: Api, trained: str, serve: Serve, tmp_path: Path
) -> None:
    content = bundle(api, trained)
    assert bundle(api, trained) == content
    (tmp_path / "other").mkdir()
    other = serve(data=tmp_path / "other")
    sent = other.post("/models", content=content, headers=ZIP)
    assert sent.status_code == 201, sent.text
    request = {"inputs": [{"city": "Rome", "age": 30}, {"city": None, "age": 41}]}
    passes = {**request, "num_samples": 20, "seed": 3}
    for body in (request, passes):
        there = other.post("/predict", json={"model": sent.json()["id"], **body}).json()
        here = api.post("/predict", json={"model": trained, **body}).json()
        assert there | {"model": trained} == here
    kept = ("spec", "network", "parameters", "outputs", "encoding", "regularizers", "metrics")
    assert {k: sent.json()[k] for k in kept} == {
        k: api.get(f"/models/{trained}").json()[k] for k in kept
    }


def rewritten(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        document = json.loads(archive.read("document.json"))
        weights = archive.read("weights.safetensors")
    change(document)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("document.json", json.dumps(document))
        archive.writestr("weights.safetensors", weights)
    return target.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=99),
        lambda d: d.pop("network"),
        lambda d: d.update(encoding={}),
        lambda d: d["encoding"]["inputs"].pop(),
        lambda d: d.update(noise_precision={"nothing": 1}),
        lambda d: d.update(rates=[1]),
        lambda d: d.update(spec=3),
        lambda d: d["network"]["layers"][1].update(size=9),
    ],
)
def test_a_document_that_makes_no_model_is_refused(
    api: Api, trained: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    content = rewritten(bundle(api, trained), change)
    assert_problem(api.post("/models", content=content, headers=ZIP), 422)


def test_damaged_bundles_are_refused_and_never_an_error_of_the_server(
    api: Api, trained: str
) -> None:
    content = bundle(api, trained)
    draw = random.Random(7)
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        damaged = damaged[: draw.randint(1, len(damaged))] if draw.random() < 0.3 else damaged
        assert api.post("/models", content=bytes(damaged), headers=ZIP).status_code in (201, 422)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("document.json", b" " * (65 * 2**20))
        archive.writestr("weights.safetensors", b"")
    answer = api.post("/models", content=bomb.getvalue(), headers=ZIP)
    assert "unpacked" in assert_problem(answer, 422)["detail"]
