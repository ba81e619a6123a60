"""Measuring on validation rows: where these are too many, by rows that stand for all of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from engine import evaluation
from engine.data.dataset import Data
from engine.mapped_rows import MappedInputs
from engine.plan import plan_training
from engine.run import Outcome, TrainingRun, encode_rows
from engine.spec import TrainSpec

ROWS = 1200


def table() -> Data:
    """Return rows in the order of their noise, which is as large as the row's number."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(ROWS)
    noise = rng.standard_normal(ROWS) * np.linspace(0, 2, ROWS)
    return Data(table=pa.table({"a": x, "y": x + noise}))


def outcome(data: Data, *, resident_bytes: int | None = None) -> Outcome:
    spec = {
        "network": {"layers": [None, 1]},
        "optimizer": {"form": "adam", "learning_rate": 0.05},
        "epochs": 20,
        "validation": {"fraction": 0.5, "seed": 2},
    }
    plan = plan_training(TrainSpec.model_validate(spec), data, resident_bytes=resident_bytes)
    rows = encode_rows(plan, data, None, torch.device("cpu"))
    assert rows.measured is not None
    assert isinstance(rows.measured.x, MappedInputs) == (resident_bytes is not None)
    run = TrainingRun(plan, rows)
    for _ in run.staged:
        pass
    return run.outcome()


def test_all_rows_are_measured_as_long_as_they_are_few() -> None:
    assert evaluation.sampled_rows(70, numbers=10**9, flops=1e30).tolist() == list(range(70))


def test_of_many_rows_any_are_drawn_and_always_the_same() -> None:
    drawn = evaluation.sampled_rows(100_000, numbers=5000, flops=1.0)
    assert len(drawn) == 1000
    assert (np.diff(drawn) > 0).all()
    assert drawn.mean() == pytest.approx(50_000, abs=5 * 100_000 / np.sqrt(12 * 1000))
    assert np.array_equal(drawn, evaluation.sampled_rows(100_000, numbers=5000, flops=1.0))


@pytest.mark.parametrize("resident_bytes", [None, 2000])
def test_the_noise_is_that_of_all_rows_whatever_their_order(
    resident_bytes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table()
    whole = outcome(data)
    monkeypatch.setattr(evaluation, "_MAX_SAMPLES", 200)
    few = outcome(data, resident_bytes=resident_bytes)
    assert whole.noise_precision is not None
    assert few.noise_precision is not None
    # Of 200 rows the variance has a relative error of 0.14; the first ones have a ninth of it.
    ratio = few.noise_precision["y"] / whole.noise_precision["y"]
    assert ratio == pytest.approx(1, abs=0.5)
    found = few.metrics["valid"]["log_likelihood"]
    assert found == pytest.approx(whole.metrics["valid"]["log_likelihood"], abs=0.4)
