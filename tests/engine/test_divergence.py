"""Divergence: what a training goes back to when its loss has become NaN or infinite."""

from __future__ import annotations

from typing import Any

import pytest

from engine.epochs import EpochEnd
from engine.errors import DivergedError
from engine.training import Training
from engine.training_data import TrainingData
from tests.engine.test_training import data_of, training_of


def sgd(rate: float, **options: Any) -> dict[str, Any]:
    return {"optimizer": {"form": "sgd", "learning_rate": rate, **options}}


def diverged(training: Training) -> str:
    """Train until the loss diverges, and return what is said of it."""
    with pytest.raises(DivergedError) as caught:
        list(training)
    assert caught.value.pointer == "#/optimizer/learning_rate"
    training.go_back()
    return caught.value.detail


def gone_on(training: Training, **spec: Any) -> tuple[Training, list[EpochEnd]]:
    """Go on from where a training stands, by another spec on the same rows."""
    train, valid = training._train, training._valid
    assert isinstance(train, TrainingData)
    assert valid is None or isinstance(valid, TrainingData)
    other, _ = training_of(train, valid, **spec)
    other.restore(training.state())
    return other, [event for event in other if isinstance(event, EpochEnd)]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("validates", [True, False])
def test_where_no_epoch_has_ended_the_next_job_is_one_that_begins(
    validates: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("engine.dense_training.kernels", lambda: None)
    train, valid = data_of(60), data_of(20) if validates else None
    common: dict[str, Any] = {"epochs": 3, "batch_size": 4, "hidden_dropout": 0.2}
    training, _ = training_of(train, valid, **common, **sgd(1e6, momentum=0.9))
    assert training.is_compiled == compiled
    detail = diverged(training)
    assert "epoch 1" in detail
    assert "learning_rate" in detail
    assert training.epoch == 0
    smaller = common | sgd(0.01, momentum=0.9)
    rest, _ = gone_on(training, **smaller)
    fresh, _ = training_of(train, valid, **smaller)
    list(fresh)
    assert rest.state() == fresh.state()


@pytest.mark.parametrize("keeps", ["best", "last", "unvalidated"])
def test_parameters_at_the_brink_of_infinity_are_not_gone_back_to(keeps: str) -> None:
    """One step an epoch, each some hundred times farther off: the best of them is no good."""
    train = data_of(40)
    valid = None if keeps == "unvalidated" else data_of(20)
    common: dict[str, Any] = {
        "layers": [None, None],
        "epochs": 100,
        "batch_size": 40,
        "restore_best": keeps == "best",
    }
    training, _ = training_of(train, valid, **common, **sgd(1e9))
    diverged(training)
    assert training.epoch <= (keeps != "best")
    _, epochs = gone_on(training, **common, **sgd(0.3))
    assert epochs[-1].epoch == 100
    assert epochs[-1].train["loss"] < epochs[0].train["loss"] / 2


@pytest.mark.parametrize("keeps", ["best", "last", "unvalidated"])
def test_after_good_epochs_it_goes_back_to_a_good_one(keeps: str) -> None:
    train = data_of(60)
    valid = None if keeps == "unvalidated" else data_of(20)
    common: dict[str, Any] = {"batch_size": 10, "restore_best": keeps == "best"}
    good, _ = training_of(train, valid, epochs=5, **common, **sgd(0.05))
    before = [event for event in good if isinstance(event, EpochEnd)]
    # Each step of the sixth epoch goes too far, but not to infinity within that epoch.
    training, _ = training_of(train, valid, epochs=50, **common, **sgd(8.0))
    training.restore(good.state())
    diverged(training)
    assert training.epoch == training.kept_epoch == 5
    assert training.kept_metrics["train"] == before[-1].train
    rest, epochs = gone_on(training, epochs=10, **common, **sgd(0.05))
    assert [event.epoch for event in epochs] == [6, 7, 8, 9, 10]
    assert epochs[-1].train["loss"] < before[-1].train["loss"]
    whole, _ = training_of(train, valid, epochs=10, **common, **sgd(0.05))
    list(whole)  # plain descent remembers nothing, so its new optimizer is the old one
    assert rest.state() == whole.state()
