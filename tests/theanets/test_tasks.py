"""Recurrent models solve the tasks of theanets' examples, from upload to prediction."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.theanets.conftest import Lab

Floats = npt.NDArray[np.float32]


def trained(lab: Lab, arrays: dict[str, Floats], **spec: Any) -> str:
    """Upload arrays, train on them and return the model."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    dataset = lab.api.upload(content.getvalue(), "application/x-npz")
    job = lab.api.train(dataset, gradient_clip=1.0, **spec)
    lab.work()
    ended: dict[str, Any] = lab.api.get(f"/jobs/{job['id']}").json()
    assert ended["status"] == "succeeded", ended["error"]
    return str(ended["model"])


def predicted(lab: Lab, model: str, x: Floats) -> Floats:
    answer = lab.api.post("/predict", json={"model": model, "inputs": x.tolist()})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"]["prediction"], dtype=np.float32)


def sums(count: int, steps: int, seed: int) -> tuple[Floats, Floats]:
    """Numbers, two of them marked, and the sum of these two (Hochreiter & Schmidhuber 1997)."""
    draw = np.random.default_rng(seed)
    x = np.zeros((count, steps, 2), dtype=np.float32)
    x[..., 0] = draw.random((count, steps))
    for row in x:
        row[draw.choice(steps, 2, replace=False), 1] = 1
    return x, (x[..., :1] * x[..., 1:]).sum(axis=1)


def test_marked_numbers_are_added_wherever_they_stand(lab: Lab) -> None:
    x, y = sums(1500, 8, seed=0)
    model = trained(
        lab,
        {"x": x, "y": y},
        network={"layers": [None, [16, "gru"], "last", None]},
        optimizer={"form": "adam", "learning_rate": 0.01},
        epochs=12,
        batch_size=20,
    )
    x, y = sums(300, 8, seed=1)
    error = np.mean((predicted(lab, model, x) - y) ** 2)
    assert error < 0.002  # of a variance of 1/6; always saying 1 comes to that


def test_what_came_first_is_said_last(lab: Lab) -> None:
    kept, steps = 2, 6

    def rows(count: int, seed: int) -> tuple[Floats, Floats]:
        draw = np.random.default_rng(seed)
        x, y = draw.standard_normal((2, count, steps, 1)).astype(np.float32)
        y[:, -kept:] = x[:, :kept]
        return x, y

    x, y = rows(1000, 0)
    weights = np.zeros((len(x), steps), dtype=np.float32)
    weights[:, -kept:] = 1
    recurrent = {"form": "rnn", "size": 32, "activation": "relu", "diagonal": 1.0}
    model = trained(
        lab,
        {"x": x, "y": y, "w": weights},
        sample_weight="w",
        network={"layers": [None, recurrent, None]},
        optimizer={"form": "adam", "learning_rate": 0.01},
        epochs=30,
    )
    x, y = rows(300, 1)
    error = np.mean((predicted(lab, model, x) - y)[:, -kept:] ** 2)
    assert error < 0.05  # of a variance of 1


def test_a_wave_is_made_of_nothing(lab: Lab) -> None:
    time = np.linspace(0, 2 * np.pi, 64)
    parts = ((1, 1.5), (2, 1.8), (3, 1.1))
    wave = sum(size * np.sin(2 * np.pi * rate * time) for size, rate in parts)
    y = np.repeat(np.asarray(wave, dtype=np.float32)[None, :, None], 2, axis=0)
    clockwork = {
        "form": "clockwork",
        "size": 48,
        "activation": "linear",
        "periods": [1, 4, 16],
    }
    model = trained(
        lab,
        {"x": np.zeros_like(y), "y": y},
        network={"layers": [None, clockwork, None]},
        optimizer={"form": "adam", "learning_rate": 0.01},
        epochs=150,
        batch_size=2,
        validation=None,
    )
    errors = predicted(lab, model, np.zeros_like(y)) - y
    assert np.mean(errors**2) < 0.01 * y.var()
