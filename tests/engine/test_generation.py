"""Drawing classes: as often as their probabilities say, sharpened by temperature, cut by rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.generation import drawn
from engine.spec import GenerateSpec
from engine.streams import row_states, stream_key, uniforms

SHARES = np.array([0.5, 0.3, 0.2, 0.0])
DRAWS = 20_000


def _counts(**spec: Any) -> Any:
    ids = np.arange(DRAWS)
    uniform = uniforms(row_states(stream_key(3, "generate"), np.zeros_like(ids), ids), 1)[:, 0]
    shares = np.broadcast_to(SHARES, (DRAWS, 4))
    classes = drawn(shares, uniform, GenerateSpec(steps=1, **spec))
    return np.bincount(classes, minlength=4) / DRAWS


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_classes_come_as_often_as_their_tempered_probabilities_say(temperature: float) -> None:
    expected = SHARES ** (1 / temperature) * (SHARES > 0)
    expected = expected / expected.sum()
    error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(_counts(temperature=temperature) - expected) <= 4.5 * error).all()


def test_temperatures_at_the_ends_take_the_likeliest() -> None:
    assert _counts(temperature=0.0)[0] == 1
    assert _counts(temperature=1e-300)[0] == 1
    even = _counts(temperature=1e300)
    assert even[3] == 0
    assert np.abs(even[:3] - 1 / 3).max() < 0.02


def test_only_the_likeliest_few_are_drawn() -> None:
    counts = _counts(top_k=2)
    assert counts[2] == counts[3] == 0
    assert abs(counts[0] - 0.5 / 0.8) < 4.5 * np.sqrt(0.25 / DRAWS)
    assert _counts(top_k=1)[0] == 1
    assert (_counts(top_k=9) == _counts()).all()


def test_uniform_numbers_are_uniform() -> None:
    ids = np.arange(DRAWS)
    numbers: Any = uniforms(row_states(5, np.zeros_like(ids), ids), 2)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert np.abs(numbers.mean(axis=0) - 0.5).max() < 4.5 / np.sqrt(12 * DRAWS)
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 4.5 / np.sqrt(DRAWS)
