"""Texts over HTTP: a table of characters, a model that learns to spell it, and goes on with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.data.conftest import npz
from tests.service.conftest import Api, assert_problem
from tests.service.test_sequences import predict, trained

VERSE = "The tide goes out, the tide comes in,\nand all the sand is smooth again.\n"
TEXT = VERSE * 20
WINDOW = 16


@pytest.fixture(scope="module")
def speller(shared: Api) -> str:
    """A model that has learnt the verse by heart."""
    answer = shared.post(
        "/datasets", content=TEXT.encode(), headers={"Content-Type": "text/plain; charset=utf-8"}
    )
    dataset = answer.json()
    assert (dataset["kind"], dataset["rows"]) == ("table", len(TEXT))
    assert [column["name"] for column in dataset["columns"]] == ["position", "character"]
    job = trained(
        shared,
        dataset["id"],
        [None, [48, "lstm"], None],
        sequence={"order": "position", "window": WINDOW},
        epochs=8,
        batch_size=16,
        hidden_dropout=0.05,
        optimizer={"form": "adam", "learning_rate": 0.02},
    )
    assert job["metrics"]["valid"]["accuracy"] > 0.8
    return str(job["model"])


def test_a_model_learns_to_spell(shared: Api, speller: str) -> None:
    seeds = [VERSE[at : at + WINDOW] for at in (0, 9, 30)]
    greedy = {"steps": 60, "temperature": 0}
    outputs = predict(shared, speller, seeds, generate=greedy)
    for text, at in zip(outputs["text"], (0, 9, 30), strict=True):
        assert text == (VERSE * 3)[at + WINDOW : at + WINDOW + 60]
    assert outputs["generated"][0] == list(outputs["text"][0])
    # Lists of characters, of records and columns say the same; and shorter seeds go on as well.
    for inputs in (
        [list(seed) for seed in seeds],
        [[{"character": character} for character in seed] for seed in seeds],
        {"character": seeds},
    ):
        assert predict(shared, speller, inputs, generate=greedy) == outputs
    short = predict(shared, speller, ["The t"], generate={"steps": 20, "temperature": 0})
    assert short["text"][0].startswith("ide")


def test_what_is_drawn_is_a_function_of_the_seed_and_the_row(shared: Api, speller: str) -> None:
    seeds = ["The tide comes in", "The tide comes in", "the tide goes out"]
    wild = {"steps": 40, "temperature": 5}
    body = {"model": speller, "inputs": seeds, "generate": wild, "seed": 5}
    answer = shared.post("/predict", json=body).json()
    texts = answer["outputs"]["text"]
    assert answer["seed"] == 5
    assert texts[0] != texts[1]
    again = predict(shared, speller, seeds[1:], generate=wild, seed=5, row_offset=1)["text"]
    assert again == texts[1:]
    first = predict(shared, speller, seeds, generate={**wild, "steps": 12}, seed=5)["text"]
    assert first == [text[:12] for text in texts]
    other = shared.post("/predict", json={**body, "seed": None}).json()
    assert other["seed"] is not None
    assert other["outputs"]["text"] != texts
    dropped = predict(shared, speller, seeds, generate=wild, seed=5, hidden_dropout=0.5)["text"]
    assert dropped != texts
    alone = predict(
        shared, speller, seeds[2:], generate=wild, seed=5, hidden_dropout=0.5, row_offset=2
    )
    assert alone["text"] == dropped[2:]


@pytest.mark.parametrize(
    ("request_", "pointer"),
    [
        ({"generate": {"steps": 0}}, "#/generate/steps"),
        ({"generate": {"steps": 5, "temperature": -1}}, "#/generate/temperature"),
        ({"generate": {"steps": 5, "top_k": 0}}, "#/generate/top_k"),
        ({"generate": {"steps": 5, "top_p": 0.5}}, "#/generate/top_p"),
        ({"generate": {}}, "#/generate/steps"),
        ({"generate": {"steps": 5}, "num_samples": 3}, "#/num_samples"),
        ({"generate": {"steps": 5}, "num_samples": 3, "statistics": ["label"]}, "#/num_samples"),
        ({"generate": {"steps": 5}, "outputs": ["hid1:out"]}, "#/outputs"),
        ({"generate": {"steps": 5}, "inputs": ["The @"]}, "#/inputs/0/4"),
        ({"generate": {"steps": 5}, "inputs": [""]}, "#/inputs/0"),
        ({"generate": {"steps": 5}, "inputs": []}, "#/inputs"),
        ({"generate": {"steps": 5}, "inputs": [1]}, "#/inputs/0"),
        ({"generate": {"steps": 5}, "inputs": [None]}, "#/inputs/0"),
        ({"generate": {"steps": 5}, "inputs": ["ab", "abc"]}, "#/inputs/1"),
        ({"inputs": {"character": "The"}}, "#/inputs/character"),
    ],
    ids=str,
)
def test_odd_requests_to_generate_are_pointed_at(
    shared: Api, speller: str, request_: dict[str, Any], pointer: str
) -> None:
    body = {"model": speller, "inputs": ["The tide"], **request_}
    assert_problem(shared.post("/predict", json=body), 422, pointer)


def test_too_much_text_is_too_large_for_an_answer(shared: Api, speller: str) -> None:
    body = {"model": speller, "inputs": ["The tide"] * 9999, "generate": {"steps": 100_000}}
    assert "times the limit" in assert_problem(shared.post("/predict", json=body), 413)["detail"]


def test_only_what_predicts_its_own_input_goes_on(shared: Api) -> None:
    x = np.array([list("ab" * 3), list("ba" * 3)] * 15)
    dataset = shared.upload(npz(x=x, y=np.roll(x, -1, axis=1)), "application/x-npz")
    adam = {"form": "adam", "learning_rate": 0.1}
    job = trained(shared, dataset, [None, [6, "rnn"], None], epochs=20, optimizer=adam)
    outputs = predict(shared, job["model"], ["ab", "ba"], generate={"steps": 5, "temperature": 0})
    assert outputs["text"] == ["ababa", "babab"]
    other = shared.upload(npz(x=x, y=np.char.upper(x)), "application/x-npz")
    upper = trained(shared, other, [None, [6, "rnn"], None])
    body = {"model": upper["model"], "inputs": ["ab"], "generate": {"steps": 5}}
    assert_problem(shared.post("/predict", json=body), 422, "#/generate")
    summing = shared.import_model().json()["id"]
    body = {"model": summing, "inputs": [[1, 2]], "generate": {"steps": 5}}
    assert_problem(shared.post("/predict", json=body), 422, "#/generate")


def test_a_text_comes_in_other_encodings_and_as_a_file(shared: Api) -> None:
    latin = {"Content-Type": "text/plain; charset=iso-8859-1"}
    answer = shared.post("/datasets", content="né".encode("latin-1"), headers=latin)
    assert answer.json()["columns"][1]["categories"] == ["n", "é"]
    files = {"file": ("verse.txt", VERSE.encode(), "application/octet-stream")}
    assert shared.post("/datasets", files=files).json()["rows"] == len(VERSE)
    plain = {"Content-Type": "text/plain"}
    assert_problem(shared.post("/datasets", content=b"", headers=plain), 422)
    assert_problem(shared.post("/datasets", content=b"\xff", headers=plain), 422)
