"""Schedules: the rates of torch.optim.lr_scheduler, step by step, on every path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from engine.epochs import EpochEnd
from engine.graph import build_graph
from engine.schedules import Schedule
from engine.spec import AdamSpec, TrainSpec
from engine.training import Training, TrainingData
from tests.engine.networks import rows_of

RATE, EPOCHS, STEPS = 0.02, 8, 5
TOTAL = EPOCHS * STEPS


def schedule_of(**schedule: Any) -> Schedule:
    optimizer = {"form": "adam", "learning_rate": RATE, "schedule": schedule or None}
    return Schedule(AdamSpec.model_validate(optimizer), epochs=EPOCHS, steps=STEPS)


def all_rates(schedule: Schedule, epochs: int = EPOCHS) -> list[float]:
    return [rate for e in range(1, epochs + 1) for rate in schedule.rates(e, 0, STEPS)]


def warmed(optimizer: Any, after: Callable[[Any], Any], epochs: int) -> Any:
    count = epochs * STEPS
    growing = lr_scheduler.LinearLR(optimizer, 1 / count, 1.0, total_iters=count - 1)
    return lr_scheduler.SequentialLR(optimizer, [growing, after(optimizer)], [count])


REFERENCES: list[tuple[dict[str, Any], Callable[[Any], Any]]] = [
    (
        {"form": "cosine", "min_factor": 0.1},
        lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1 * RATE),
    ),
    (
        {"form": "cosine", "warmup_epochs": 2},
        lambda o: warmed(o, lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL - 2 * STEPS), 2),
    ),
    (
        {"form": "linear", "min_factor": 0.2, "epochs": 6},
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=6 * STEPS),
    ),
    (
        {"form": "one_cycle", "pct_start": 0.4, "div_factor": 10.0, "final_div_factor": 50.0},
        lambda o: lr_scheduler.OneCycleLR(
            o, RATE, TOTAL, pct_start=0.4, div_factor=10, final_div_factor=50, cycle_momentum=False
        ),
    ),
    (
        {"form": "step", "step_size": 3, "gamma": 0.5},
        lambda o: lr_scheduler.StepLR(o, 3 * STEPS, gamma=0.5),
    ),
    (
        {"form": "step", "step_size": 3, "gamma": 0.5, "warmup_epochs": 1},
        lambda o: warmed(o, lambda o: lr_scheduler.StepLR(o, 3 * STEPS, gamma=0.5), 1),
    ),
    (
        {"form": "exponential", "gamma": 0.7},
        lambda o: lr_scheduler.StepLR(o, STEPS, gamma=0.7),
    ),
]


@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")  # SequentialLR's own
@pytest.mark.parametrize(("spec", "make"), REFERENCES)
def test_rates_are_those_of_torch(spec: dict[str, Any], make: Callable[[Any], Any]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    reference = make(optimizer)
    expected = []
    for step in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < TOTAL:
            reference.step()
    np.testing.assert_allclose(all_rates(schedule_of(**spec)), expected, rtol=1e-9, atol=1e-15)


@given(
    losses=st.lists(st.integers(1, 6).map(float), min_size=20, max_size=40),
    patience=st.integers(0, 3),
    cooldown=st.integers(0, 3),
)
@settings(deadline=None)
def test_a_plateau_is_that_of_torch_and_goes_on_where_it_stood(
    losses: list[float], patience: int, cooldown: int
) -> None:
    spec = {"form": "plateau", "factor": 0.5, "patience": patience, "cooldown": cooldown}
    spec |= {"threshold": 0.1, "min_factor": 0.05}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    reference = lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=0.5,
        patience=patience,
        cooldown=cooldown,
        threshold=0.1,
        min_lr=0.05 * RATE,
    )
    schedule = schedule_of(**spec)
    for epoch, loss in enumerate(losses, start=1):
        rates = schedule.rates(epoch, 0, STEPS)
        np.testing.assert_allclose(rates, optimizer.param_groups[0]["lr"], rtol=1e-9)
        schedule.end_epoch(loss)
        reference.step(loss)
        state = schedule.state()
        schedule = schedule_of(**spec)
        schedule.restore(state)


@pytest.mark.parametrize("spec", [spec for spec, _ in REFERENCES])
def test_rates_depend_on_the_step_alone_and_stay_after_the_last(spec: dict[str, Any]) -> None:
    schedule = schedule_of(**spec)
    for epoch in (1, 4, EPOCHS):
        whole = schedule.rates(epoch, 0, STEPS)
        parts = [schedule.rates(epoch, 0, 2), schedule.rates(epoch, 2, STEPS - 2)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        assert whole.dtype == np.float64
    assert all(0 <= rate <= RATE * (1 + 1e-12) for rate in all_rates(schedule, EPOCHS + 5))


def test_without_a_schedule_the_rate_stays() -> None:
    assert set(all_rates(schedule_of())) == {RATE}


@pytest.mark.parametrize("optimizer", ["sgd", "nag", "adam", "rmsprop", "adadelta", "esgd"])
@pytest.mark.parametrize("compiled", [False, True])
def test_steps_take_the_rates_of_their_schedule(optimizer: str, compiled: bool) -> None:
    """Rates that end at zero after the first epoch leave the parameters where they were."""
    schedule = {"form": "linear", "epochs": 1}
    given = {"form": optimizer, "learning_rate": 0.05, "schedule": schedule}
    events, parameters = trained(given, compiled=compiled)
    assert events[0].train["learning_rate"] == pytest.approx(0.05 / 4)
    assert [event.train["learning_rate"] for event in events[1:]] == [0, 0]
    assert events[1].train["loss"] == pytest.approx(events[2].train["loss"], rel=1e-5)
    general, expected = trained(given, compiled=False)
    for name, value in parameters.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=2e-6)
    assert general[0].train["loss"] > general[1].train["loss"]


def test_without_a_schedule_epochs_tell_no_rate() -> None:
    events, _ = trained({"form": "adam"}, compiled=True)
    assert all("learning_rate" not in event.train for event in events)


def trained(
    optimizer: dict[str, Any], *, compiled: bool
) -> tuple[list[EpochEnd], dict[str, np.ndarray[Any, Any]]]:
    x = np.random.default_rng(3).standard_normal((40, 4)).astype(np.float32)
    data = TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(np.tanh(x[:, :2])))
    network = {"form": "regressor", "layers": [None, [6, "tanh"], None]}
    spec = TrainSpec.model_validate(
        {"network": network, "epochs": 3, "batch_size": 10, "optimizer": optimizer}
    )
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (4,)}, output_shape=(2,)
    )
    training = Training(graph, spec, (), data, compiled=compiled)
    events = [event for event in training if isinstance(event, EpochEnd)]
    return events, dict(training.kept_parameters())
