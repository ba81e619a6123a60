"""Mixed precision: near float32, with losses scaled for small gradients, resumed to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.epochs import EpochEnd
from engine.mixed_precision import LossScale, precisions_of
from engine.training import Training, TrainingData
from tests.engine.networks import rows_of
from tests.engine.test_training import data_of, training_of

#: Relative rounding: half the distance of 1 to the next number.
ROUNDING = {"bfloat16": 2.0**-9, "float16": 2.0**-12}
SPEC: dict[str, Any] = {
    "layers": [None, [16, "tanh"], [12, "relu"], None],
    "epochs": 4,
    "batch_size": 16,
    "hidden_dropout": 0.2,
    "optimizer": {"form": "sgd", "learning_rate": 0.05, "momentum": 0.5},
    "regularizers": [{"form": "weight_l2", "weight": 0.01}],
}


def losses(training: Training) -> tuple[list[float], list[float]]:
    epochs = [event for event in training if isinstance(event, EpochEnd)]
    return [e.train["loss"] for e in epochs], [e.valid["loss"] for e in epochs]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    ("classes", "optimizer"),
    [(None, None), (3, None), (None, "adam")],
)
def test_it_is_float32_to_the_rounding_of_its_products(
    precision: str, classes: int | None, optimizer: str | None
) -> None:
    """Each step rounds some products; their errors add up over a handful of layers and steps."""
    spec = SPEC | {"form": "regressor" if classes is None else "classifier"}
    if optimizer is not None:
        spec |= {"optimizer": {"form": optimizer}}
    train, valid = data_of(64, classes=classes), data_of(32, classes=classes)
    whole, _ = training_of(train, valid, **spec)
    half, _ = training_of(train, valid, **spec, precision=precision)
    assert not half.is_compiled
    assert precision in half.path
    for exact, rounded in zip(losses(whole), losses(half), strict=True):
        assert rounded != exact
        assert np.allclose(rounded, exact, rtol=20 * ROUNDING[precision])
    assert half._parameters.flat.dtype == torch.float32


@pytest.mark.parametrize("form", ["rnn", "lstm", "gru"])
def test_recurrent_layers_are_trained_in_it(form: str) -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.standard_normal((40, 5, 3)).astype(np.float32))
    y = x.sum(dim=(1, 2))[:, None]
    train = TrainingData(x=rows_of(x), y=y)
    found = {}
    for precision in ("float32", "bfloat16"):
        training, _ = training_of(
            train,
            layers=[None, [6, form], {"form": "last"}, None],
            epochs=2,
            batch_size=10,
            precision=precision,
            validation=None,
        )
        found[precision] = [e.train["loss"] for e in training if isinstance(e, EpochEnd)]
    assert np.allclose(found["bfloat16"], found["float32"], rtol=20 * ROUNDING["bfloat16"])


def test_a_scale_grows_after_many_steps_and_shrinks_at_once() -> None:
    scale = LossScale()
    for _ in range(LossScale.GROWTH_STEPS - 1):
        scale.see(True)
    assert scale.scale == 2.0**16
    scale.see(True)
    assert scale.scale == 2.0**17
    scale.see(False)
    scale.see(False)
    assert (scale.scale, scale.taken) == (2.0**15, 0)


def test_a_gradient_that_16_bits_cannot_hold_changes_nothing_but_the_scale() -> None:
    train = data_of(16)
    spec = SPEC | {"epochs": 1, "batch_size": 16, "hidden_dropout": 0.0}
    training, _ = training_of(train, **spec, validation=None, precision="float16")
    scale = training._loss_scale
    assert scale is not None
    scale.scale = 2.0**40
    before = training._parameters.flat.clone()
    list(training)
    assert torch.equal(training._parameters.flat, before)
    assert scale.scale == 2.0**39


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_stopped_and_resumed_ends_with_the_same_bytes(precision: str, stop: int) -> None:
    def fresh() -> Training:
        training, _ = training_of(data_of(64), data_of(32), **SPEC, precision=precision)
        if training._loss_scale is not None:
            training._loss_scale.scale = 2.0**40  # so that it changes
        return training

    whole, first = fresh(), fresh()
    list(whole)
    for _, _ in zip(range(stop), first, strict=False):
        pass
    second, _ = training_of(data_of(64), data_of(32), **SPEC, precision=precision)
    second.restore(first.state())
    list(second)
    assert second.state() == whole.state()


def test_float32_is_had_everywhere() -> None:
    assert precisions_of(torch.device("cpu"))[0] == "float32"
    assert "float16" not in precisions_of(torch.device("cpu"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_on_cuda_it_is_float32_to_the_rounding_of_its_products(precision: str) -> None:
    def on_cuda(data: TrainingData) -> TrainingData:
        return TrainingData(x=data.x.map(lambda rows: rows.cuda()), y=data.y.cuda())

    train, valid = on_cuda(data_of(64)), on_cuda(data_of(32))
    whole, _ = training_of(train, valid, **SPEC)
    half, _ = training_of(train, valid, **SPEC, precision=precision)
    for exact, rounded in zip(losses(whole), losses(half), strict=True):
        assert np.allclose(rounded, exact, rtol=20 * ROUNDING[precision])
