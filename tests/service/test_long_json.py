"""Long JSON is written and read piece by piece: the same bytes and values, others going on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.answers import json_of
from service.bodies import parse_json
from service.json_pieces import PIECE, json_pieces, read_pieces
from tests.service.conftest import Api
from tests.thoroughness import examples

MANY = 2_000_000


def whole(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize(
    "shape",
    [
        (0,),
        (0, 3),
        (3, 0),
        (1,),
        (PIECE,),
        (PIECE + 1,),
        (3 * PIECE + 1, 2),
        (2, 3 * PIECE),
        (1, 1, 2 * PIECE + 5),
        (100, 7, 50),
    ],
)
def test_pieces_are_the_bytes_of_the_whole(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape)
    values.reshape(-1)[::3] = np.nan
    values.reshape(-1)[1::5] = np.inf
    answer = {"model": "mdl_é", "outputs": {"mean": values, "of": {"0.05": values[:1]}}, "n": None}
    assert b"".join(json_pieces(answer)) == whole(answer)
    assert json_of({**answer, "outputs": answer["outputs"]}) == whole(answer)


@pytest.mark.parametrize("count", [0, 1, PIECE, PIECE + 1, 5 * PIECE])
def test_labels_are_pieces_too(count: int) -> None:
    labels = np.array(["a", "ü", "]"], dtype=object)[np.arange(count) % 3]
    answer = {"outputs": {"label": labels}, "rows": list(range(count))}
    assert json_of(answer) == whole({"outputs": {"label": labels.tolist()}, "rows": answer["rows"]})


async def beats_during(work: Callable[[], object]) -> int:
    """Return how often an event loop came round while a thread was at work."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    beats = 0
    while not task.done():
        beats += 1
        await asyncio.sleep(0)
    await task
    return beats


def test_a_loop_comes_round_while_a_long_answer_is_written() -> None:
    answer = {"outputs": {"mean": np.random.default_rng(0).standard_normal((MANY // 10, 10))}}
    assert asyncio.run(beats_during(lambda: json_of(answer))) > 10


def test_a_loop_comes_round_while_a_long_body_is_read() -> None:
    rows = np.random.default_rng(0).standard_normal((MANY // 40, 10)).tolist()
    content = orjson.dumps({"model": "m", "inputs": rows, "num_samples": 2})
    found: list[Any] = []
    beats = asyncio.run(
        beats_during(lambda: found.append(read_pieces(content, "inputs", parse_json)))
    )
    assert beats > 10
    assert found == [orjson.loads(content)]


def test_small_requests_are_answered_beside_a_long_one(shared: Api) -> None:
    model = shared.import_model().json()["id"]
    rows = np.random.default_rng(0).standard_normal((60_000, 2)).tolist()
    long = {"model": model, "inputs": rows, "outputs": ["*:out", "*:pre"]}

    async def beside() -> tuple[int, int]:
        task = asyncio.ensure_future(asyncio.to_thread(shared.post, "/predict", json=long))
        answered = 0
        while not task.done():
            small = {"model": model, "inputs": [[1, 2]]}
            answer = await asyncio.to_thread(shared.post, "/predict", json=small)
            assert answer.status_code == 200, answer.text
            answered += 1
        return answered, len((await task).json()["outputs"]["prediction"])

    answered, count = asyncio.run(beside())
    assert count == len(rows)
    assert answered > 3


# -- reading ---------------------------------------------------------------------------------------


def body(inputs: str, before: str = '"model": "m", ', after: str = ', "seed": 1') -> bytes:
    return f'{{{before}"inputs": {inputs}{after}}}'.encode()


ROWS = [[float(i), i, None, "],[", "}, {"] for i in range(15_000)]
OBJECTS = [{"a": i, "b": {"c": [i]}} for i in range(15_000)]
# Numbers of many digits: as long a list of short ones takes much longer to read.
LONG_ROWS = json.dumps([[i, 1 / (i + 3)] for i in range(12_000)])


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("rows", [ROWS, [row[:3] for row in ROWS], [[row[:2]] * 2 for row in ROWS]])
def test_lists_are_read_as_the_whole_is(rows: list[Any], indent: int | None) -> None:
    content = body(json.dumps(rows, indent=indent), after=', "quantiles": [0.1, 0.5], "x": [[1]]')
    found = read_pieces(content, "inputs", parse_json)
    assert found is None or found == orjson.loads(content)
    if indent is None and rows is not ROWS:
        assert found is not None
        assert list(found) == list(orjson.loads(content))


def test_objects_are_read_as_the_whole_is() -> None:
    plain = [{"a": i, "b": 2} for i in range(15_000)]
    for rows in (plain, OBJECTS):
        content = body(json.dumps(rows))
        assert read_pieces(content, "inputs", parse_json) in (None, orjson.loads(content))
    assert read_pieces(body(json.dumps(plain)), "inputs", parse_json) is not None


MISTAKES: dict[str, Callable[[bytes], bytes]] = {
    "a comma too many at the end": lambda c: c.replace(b']], "seed"', b']],], "seed"'),
    "an empty place": lambda c: c.replace(b"], [6000", b"],, [6000"),
    "a bracket too many": lambda c: c.replace(b"], [6000", b"]], [6000"),
    "a row that opens twice": lambda c: c.replace(b"], [6000", b"], [[6000"),
    "no comma": lambda c: c.replace(b"], [6000", b"] [6000"),
    "NaN": lambda c: c.replace(b"[6000", b"[NaN"),
    "a cut": lambda c: c[: len(c) // 2],
    "no end": lambda c: c[:-1],
    "two ends": lambda c: c + b"}",
    "a key within a text": lambda c: b'"' + c,
    "a second key": lambda c: c.replace(b'"seed": 1', b'"inputs": [[1]]'),
    "within another": lambda c: b'{"a": ' + c + b"}",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_nothing_is_read_that_the_whole_would_not_have(mistake: str) -> None:
    sound = body(LONG_ROWS)
    assert read_pieces(sound, "inputs", parse_json) is not None
    content = MISTAKES[mistake](sound)
    assert content != sound
    try:
        expected = parse_json(content)
    except json.JSONDecodeError:
        expected = None
    assert read_pieces(content, "inputs", parse_json) in (None, expected)


@given(
    st.lists(st.text(alphabet='[]{},": 1', max_size=8), max_size=6).map("".join),
    st.integers(0, 40),
)
@settings(max_examples=examples(40, 400))
def test_no_tampering_is_taken_for_something_else(junk: str, place: int) -> None:
    at = len(LONG_ROWS) * place // 40
    content = body(LONG_ROWS[:at] + junk + LONG_ROWS[at:])
    try:
        expected = orjson.loads(content)
    except orjson.JSONDecodeError:
        expected = None
    assert read_pieces(content, "inputs", parse_json) in (None, expected)


def test_depth_is_limited_as_of_the_whole() -> None:
    rows = [[1 / 3, 2 / 3]] * 5_000
    for depth in (250, 251, 252, 253, 254, 255):
        deep: Any = 1
        for _ in range(depth):
            deep = [deep]
        content = body(json.dumps([*rows, deep, *rows]))
        try:
            expected = parse_json(content)
        except json.JSONDecodeError:
            expected = None
        assert read_pieces(content, "inputs", parse_json) in (None, expected)
