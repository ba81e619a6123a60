"""Finding a learning rate: its steps' losses, what they speak for, and what is trained then."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from engine.epochs import EpochEnd
from engine.initializers import initial_parameters
from engine.pretraining import StagedTraining
from engine.rate_finding import RATES, RateFound, found
from engine.regularizers import resolve
from engine.spec import TrainSpec
from engine.streams import Permutations
from tests.engine.networks import only
from tests.engine.test_training import data_of, training_of

SPEC: dict[str, Any] = {"epochs": 4, "batch_size": 12, "hidden_dropout": 0.2}


def run_of(rate: Any = "find", *, form: str = "sgd", **spec: Any) -> StagedTraining:
    given = SPEC | {"optimizer": {"form": form, "learning_rate": rate}} | spec
    _, graph = training_of(data_of(60), **SPEC)
    network = {"form": "regressor", "layers": [None, 7, None]}
    parsed = TrainSpec.model_validate({"network": network, **given})
    return StagedTraining(graph, parsed, resolve(parsed, graph), data_of(60), data_of(20))


def found_by(run: StagedTraining) -> RateFound:
    return next(event for event in run if isinstance(event, RateFound))


def test_the_smaller_of_the_steepest_fall_and_a_tenth_of_the_least_loss_is_taken() -> None:
    logs = np.log10(RATES)
    # Falls fastest at 10^-3, is least at 10^-1, then rises.
    means = np.where(logs < -1, -np.tanh(2 * (logs + 3)), (logs + 1) ** 2 - np.tanh(4.0)).tolist()
    told = found(means, stopped=False, default=0.5)
    spacing = math.log10(RATES[1] / RATES[0])
    assert told.steepest is not None
    assert told.tenth is not None
    assert abs(math.log10(told.steepest) + 3) <= spacing
    assert abs(math.log10(told.tenth) + 2) <= spacing
    assert told.learning_rate == told.steepest
    assert [rate for rate, _ in told.curve] == list(RATES)


@pytest.mark.parametrize("means", [[], [1.0], [1.0, 1.1, 1.2], list(np.linspace(1, 2, 100))])
def test_where_no_rate_lowers_the_loss_the_default_is_taken(means: list[float]) -> None:
    told = found(means, stopped=False, default=0.5)
    assert (told.learning_rate, told.steepest, told.tenth) == (0.5, None, None)


@pytest.mark.parametrize("compiled", [True, False])
def test_its_losses_are_those_of_the_textbook_loop(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of descent at each rate, through a linear network, in float64."""
    if not compiled:
        monkeypatch.setattr("engine.dense_training.kernels", lambda: None)
    data = data_of(60)
    _, graph = training_of(data, layers=[None, None])
    spec = TrainSpec.model_validate(
        {
            "network": {"form": "regressor", "layers": [None, None]},
            "batch_size": 24,
            "optimizer": {"form": "sgd", "learning_rate": "find"},
        }
    )
    run = StagedTraining(graph, spec, (), data)
    assert run.is_compiled == compiled
    told = found_by(run)
    x, y = only(data.x).numpy().astype(np.float64), data.y.numpy().astype(np.float64)
    begun = initial_parameters(graph, seed=spec.seed)
    w, b = (begun[name].astype(np.float64) for name in ("out.w", "out.b"))
    orders = Permutations(60, seed=spec.seed)
    batches = [orders.of(1 + step // 3)[24 * (step % 3) :][:24] for step in range(len(RATES))]
    before = [((x[rows] @ w + b - y[rows]) ** 2).mean() for rows in batches]
    total = weight = 0.0
    expected = []
    for step, rate in enumerate(RATES[: len(told.curve)]):
        rows = batches[step]
        wrong = x[rows] @ w + b - y[rows]
        total = 0.9 * total + 0.1 * ((wrong**2).mean() - before[step])
        weight = 0.9 * weight + 0.1
        expected.append(np.mean(before) + total / weight)
        scale = 2 / wrong.size * rate
        w, b = w - scale * x[rows].T @ wrong, b - scale * wrong.sum(axis=0)
    assert np.allclose([mean for _, mean in told.curve], expected, rtol=1e-4, atol=1e-5)
    assert told.stopped
    # The next would have been more than four times the least.
    assert told.curve[-1][1] <= 4 * min(mean for _, mean in told.curve)


@pytest.mark.parametrize("form", ["sgd", "adam", "esgd", "rmsprop", "adagrad", "adadelta", "nag"])
def test_what_follows_is_training_with_the_rate_that_was_found(form: str) -> None:
    run = run_of(form=form)
    events = list(run)
    (told,) = [event for event in events if isinstance(event, RateFound)]
    assert 1e-7 < told.learning_rate < 10
    assert run.found_rate == told.learning_rate
    given = run_of(told.learning_rate, form=form)
    list(given)
    assert run.whole is not None
    assert given.whole is not None
    one, two = run.whole.kept_parameters(), given.whole.kept_parameters()
    assert all(np.array_equal(one[name], two[name]) for name in two)
    epochs = [event for event in events if isinstance(event, EpochEnd)]
    assert [event.train["learning_rate"] for event in epochs] == [told.learning_rate] * 4
    assert epochs[-1].train["loss"] < epochs[0].train["loss"]


def test_a_schedule_begins_with_the_rate_that_was_found() -> None:
    schedule = {"form": "exponential", "gamma": 0.5}
    run = run_of(optimizer={"form": "adam", "learning_rate": "find", "schedule": schedule})
    events = list(run)
    rates = [event.train["learning_rate"] for event in events if isinstance(event, EpochEnd)]
    assert rates == [run.found_rate * 0.5**epoch for epoch in range(4)]  # type: ignore[operator]


@pytest.mark.parametrize("stop", [1, 130, 204, 207])
def test_a_run_stopped_while_it_looks_or_after_it_ends_with_the_same_bytes(stop: int) -> None:
    whole = run_of()
    events = list(whole)
    first = run_of()
    seen = [event for _, event in zip(range(stop), first, strict=False)]
    second = run_of()
    second.restore(first.state())
    rest = list(second)
    assert second.state() == whole.state()
    looked = any(isinstance(event, RateFound) for event in seen)
    assert looked != any(isinstance(event, RateFound) for event in rest)
    epochs = [e for e in (*seen, *rest) if isinstance(e, EpochEnd)]
    assert epochs == [event for event in events if isinstance(event, EpochEnd)]
