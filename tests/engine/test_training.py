"""Training: equal to the textbook, stopped and resumed to the bit, early stopping by its rules."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from engine.errors import ArtifactError, DivergedError
from engine.graph import Graph, build_graph
from engine.initializers import initial_parameters
from engine.masks import Tally
from engine.regularizers import resolve
from engine.spec import TrainSpec
from engine.streams import generator
from engine.training import BlockEnd, EpochEnd, Training, TrainingData
from tests.engine.networks import only, rows_of
from tests.thoroughness import examples


def data_of(rows: int = 60, inputs: int = 4, classes: int | None = None) -> TrainingData:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    if classes is None:
        y = np.tanh(x[:, :2]) + 0.1 * rng.standard_normal((rows, 2))
        return TrainingData(
            x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(y.astype(np.float32))
        )
    labels = (np.abs(x).sum(axis=1) * 2).astype(np.int64) % classes
    return TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(labels))


def training_of(
    train: TrainingData, valid: TrainingData | None = None, **spec: Any
) -> tuple[Training, Graph]:
    form = spec.pop("form", "regressor")
    layers = spec.pop("layers", [None, 7, None])
    losses = {key: spec.pop(key, None) for key in ("loss", "losses")}
    parsed = TrainSpec.model_validate(
        {"network": {"form": form, "layers": layers, **losses}, **spec}
    )
    outputs = int(train.y.max()) + 1 if form == "classifier" else train.y.shape[1]
    graph = build_graph(
        parsed.network,
        form=form,
        input_shapes={"in": only(train.x).shape[1:]},
        output_shape=(outputs,),
    )
    return Training(graph, parsed, resolve(parsed, graph), train, valid), graph


OPTIMIZERS: dict[str, Any] = {
    "sgd": (
        {"form": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "nag": (
        {"form": "nag", "learning_rate": 0.1, "momentum": 0.8},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    ),
    "rprop": (
        {"form": "rprop", "learning_rate": 1e-3, "grow": 1.1, "min_step": 9e-4, "max_step": 2e-3},
        lambda p: torch.optim.Rprop(p, lr=0.001, etas=(0.5, 1.1), step_sizes=(9e-4, 2e-3)),
    ),
    "adagrad": (
        {"form": "adagrad", "learning_rate": 0.1},
        lambda p: torch.optim.Adagrad(p, lr=0.1),
    ),
    "adadelta": (
        {"form": "adadelta", "decay": 0.8},
        lambda p: torch.optim.Adadelta(p, rho=0.8),
    ),
    "rmsprop": (
        {"form": "rmsprop", "learning_rate": 0.01, "decay": 0.9, "centered": True},
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, centered=True),
    ),
    "adam": (
        {"form": "adam", "learning_rate": 0.01, "beta1": 0.8},
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.999)),
    ),
    "adamw": (
        {"form": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_without_dropout_is_the_textbook_loop(name: str) -> None:
    """The same weights, batches, loss and penalty in plain modules and float64."""
    given_spec, make = OPTIMIZERS[name]
    train = data_of()
    training, graph = training_of(
        train,
        layers=[None, [7, "tanh"], None],
        optimizer=given_spec,
        epochs=3,
        batch_size=16,
        regularizers=[
            {"form": "weight_l2", "pattern": "*", "weight": 0.3},
            {"form": "weight_l1", "pattern": "out.*", "weight": 0.01, "reduction": "sum"},
        ],
        validation=None,
    )
    events = [event for event in training if isinstance(event, EpochEnd)]

    start = initial_parameters(graph, seed=13)
    weights = {k: torch.from_numpy(v).double().clone().requires_grad_() for k, v in start.items()}
    optimizer = make(list(weights.values()))
    losses = []
    for epoch in (1, 2, 3):
        order = generator(13, "shuffle", epoch).permutation(60)
        total = 0.0
        for rows in np.array_split(order, [16, 32, 48]):
            x, y = only(train.x)[rows].double(), train.y[rows].double()
            hidden = torch.tanh(x @ weights["hid1.w"] + weights["hid1.b"])
            out = hidden @ weights["out.w"] + weights["out.b"]
            loss = functional.mse_loss(out, y)
            loss = loss + 0.3 * (weights["hid1.w"] ** 2).mean() / 2
            loss = loss + 0.3 * (weights["out.w"] ** 2).mean() / 2
            loss = loss + 0.01 * weights["out.w"].abs().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 60)
    np.testing.assert_allclose([e.train["loss"] for e in events], losses, rtol=1e-4)
    for key, value in training.kept_parameters().items():
        np.testing.assert_allclose(value, weights[key].detach().numpy(), rtol=2e-3, atol=2e-5)


def test_gradients_under_dropout_are_those_of_the_masked_network() -> None:
    """One step of plain gradient descent, with the masks that the run drew."""
    train = data_of(rows=8)
    training, graph = training_of(
        train,
        optimizer={"form": "sgd", "learning_rate": 1.0},
        epochs=1,
        batch_size=8,
        input_dropout=0.3,
        hidden_dropout=0.5,
        validation=None,
    )
    masks = {
        site[1]: mask.double() for site, mask in training._masks.block(1, 0, 8, Tally()).items()
    }
    start = {k: torch.from_numpy(v).double() for k, v in initial_parameters(graph, seed=13).items()}
    for value in start.values():
        value.requires_grad_()
    order = generator(13, "shuffle", 1).permutation(8)
    x = only(train.x)[order].double() * masks["in:out"]
    hidden = torch.relu(x @ start["hid1.w"] + start["hid1.b"]) * masks["hid1:out"]
    loss = functional.mse_loss(hidden @ start["out.w"] + start["out.b"], train.y[order].double())
    loss.backward()  # type: ignore[no-untyped-call]
    (end,) = list(training)
    assert isinstance(end, EpochEnd)
    assert end.train["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for key, kept in training.kept_parameters().items():
        gradient = start[key].grad
        assert gradient is not None
        np.testing.assert_allclose(
            kept, (start[key] - gradient).detach().numpy(), rtol=1e-4, atol=1e-5
        )
    dropped = float((masks["hid1:out"] == 0).double().mean())
    assert end.regularizers[1]["rates"] == {"hid1:out": pytest.approx(dropped)}


@pytest.mark.parametrize("form", ["regressor", "classifier"])
def test_sample_weights_count_rows_as_often(form: str) -> None:
    """A weight of 2 is a row given twice, of 0 a row left out, when all fit in one batch."""
    classes = 3 if form == "classifier" else None
    train = data_of(rows=12, classes=classes)
    weights = torch.tensor([2.0, 0.0, 1.0] * 4)
    weighted = TrainingData(x=train.x, y=train.y, weights=weights)
    keep = np.repeat(np.arange(12), weights.int().tolist())
    repeated = TrainingData(x=train.x[keep], y=train.y[keep])
    ends = []
    for data in (weighted, repeated):
        training, _ = training_of(data, form=form, epochs=5, batch_size=100, validation=None)
        ends.append((list(training)[-1], training.kept_parameters()))
    assert ends[0][0].train["loss"] == pytest.approx(ends[1][0].train["loss"], rel=1e-4)  # type: ignore[union-attr]
    for key, value in ends[0][1].items():
        np.testing.assert_allclose(value, ends[1][1][key], rtol=1e-3, atol=1e-5)


def test_mae_and_cross_entropy_are_their_formulas() -> None:
    train = data_of(rows=10)
    training, graph = training_of(
        train,
        loss="mae",
        optimizer={"form": "sgd", "learning_rate": 1e-9},
        epochs=1,
        validation=None,
    )
    start = {k: torch.from_numpy(v) for k, v in initial_parameters(graph, seed=13).items()}
    hidden = torch.relu(only(train.x) @ start["hid1.w"] + start["hid1.b"])
    out = hidden @ start["out.w"] + start["out.b"]
    (end,) = list(training)
    assert isinstance(end, EpochEnd)
    assert end.train["loss"] == pytest.approx(functional.l1_loss(out, train.y).item(), rel=1e-5)

    labelled = data_of(rows=10, classes=3)
    training, graph = training_of(
        labelled,
        form="classifier",
        optimizer={"form": "sgd", "learning_rate": 1e-9},
        epochs=1,
        validation=None,
    )
    start = {k: torch.from_numpy(v) for k, v in initial_parameters(graph, seed=13).items()}
    hidden = torch.relu(only(labelled.x) @ start["hid1.w"] + start["hid1.b"])
    out = hidden @ start["out.w"] + start["out.b"]
    (end,) = list(training)
    assert isinstance(end, EpochEnd)
    expected = functional.cross_entropy(out, labelled.y).item()
    assert end.train["loss"] == pytest.approx(expected, rel=1e-5)


def test_dropped_probabilities_are_clipped_in_the_loss() -> None:
    """All probabilities dropped: the loss is -log 1e-7, not infinite."""
    labelled = data_of(rows=50, classes=3)
    training, _ = training_of(
        labelled,
        form="classifier",
        epochs=1,
        output_dropout=0.9999,
        optimizer={"form": "sgd", "learning_rate": 1e-9},
        validation=None,
    )
    (end,) = list(training)
    assert isinstance(end, EpochEnd)
    assert end.train["loss"] == pytest.approx(-np.log(1e-7), rel=0.05)


SPEC = {
    "epochs": 4,
    "batch_size": 8,
    "input_dropout": 0.1,
    "hidden_dropout": 0.4,
    "hidden_noise": 0.1,
    "monitors": {"hid1:out": 0.5},
    "regularizers": [{"form": "weight_l2", "weight": 0.1}],
    "patience": 2,
}


@settings(max_examples=examples(20, 200), deadline=None)
@given(
    stop_after=st.integers(0, 12),
    optimizer=st.sampled_from([name for name in OPTIMIZERS if name != "nag"]),
    classes=st.sampled_from([None, 3]),
)
def test_a_run_stopped_anywhere_and_resumed_ends_with_the_same_bytes(
    stop_after: int, optimizer: str, classes: int | None
) -> None:
    train, valid = data_of(60, classes=classes), data_of(20, classes=classes)
    keywords: dict[str, Any] = {
        **SPEC,
        "optimizer": optimizer,
        "form": "regressor" if classes is None else "classifier",
    }

    def fresh() -> Training:
        training, _ = training_of(train, valid, **keywords)
        training._steps.block_rows = lambda: 16  # type: ignore[method-assign]
        return training

    whole = fresh()
    history = [event for event in whole if isinstance(event, EpochEnd)]
    first = fresh()
    events = iter(first)
    seen = []
    for _ in range(stop_after):
        event = next(events, None)
        if isinstance(event, EpochEnd):
            seen.append(event)
    second = fresh()
    second.restore(first.state())
    seen += [event for event in second if isinstance(event, EpochEnd)]
    assert second.state() == whole.state()
    assert seen == history
    assert second.kept_metrics == whole.kept_metrics


@pytest.mark.parametrize("stop_after", [1, 3, 4, 7])
def test_several_losses_stopped_anywhere_and_resumed_end_with_the_same_bytes(
    stop_after: int,
) -> None:
    """With their sums over the epoch, and targets and weights of their own rows."""
    rows, layers = data_of(60), [None, 7, {"name": "covar", "size": 2, "inputs": "hid1"}]
    layers += [{"name": "aux", "form": "softmax", "size": 3, "inputs": "hid1"}]
    layers += [{"name": "out", "inputs": "hid1"}]
    losses: list[dict[str, Any]] = [
        {"form": "gll", "covar_eps": 0.1},
        {"form": "mmd", "weight": 0.5, "kernel": 2.0},
        {"form": "xe", "weight": 0.3, "output_name": "aux", "targets": ["kind"]},
        {"form": "mse", "weight": 0.1, "output_name": "covar"},
    ]
    kinds = torch.arange(60) % 3
    train = TrainingData(x=rows.x, y=rows.y, weights=torch.linspace(0.1, 1, 60), auxiliary=(kinds,))

    def fresh() -> Training:
        training, _ = training_of(
            train, train[:20], **(SPEC | {"patience": None}), layers=layers, losses=losses
        )
        training._steps.block_rows = lambda: 16  # type: ignore[method-assign]
        return training

    whole = fresh()
    history = [event for event in whole if isinstance(event, EpochEnd)]
    for metrics in (history[-1].train, history[-1].valid):
        assert set(metrics) >= {"gll(out:out)", "mmd(out:out)", "xe(aux:out)", "mse(covar:out)"}
    first = fresh()
    seen = list(itertools.islice(first, stop_after))
    second = fresh()
    second.restore(first.state())
    seen += list(second)
    assert second.state() == whole.state()
    assert [event for event in seen if isinstance(event, EpochEnd)] == history


def test_training_is_a_function_of_its_seed() -> None:
    train = data_of()

    def parameters(seed: int) -> bytes:
        training, _ = training_of(train, epochs=2, hidden_dropout=0.5, seed=seed)
        list(training)
        return training.state()

    assert parameters(3) == parameters(3)
    assert parameters(3) != parameters(4)


def test_patience_stops_and_the_best_epoch_is_kept() -> None:
    train, valid = data_of(20), data_of(60)
    training, _ = training_of(
        train,
        valid,
        epochs=500,
        patience=5,
        optimizer={"form": "adam", "learning_rate": 0.05},
        layers=[None, 50, None],
    )
    epochs = [event for event in training if isinstance(event, EpochEnd)]
    losses = [event.valid["loss"] for event in epochs]
    best = int(np.argmin(losses)) + 1
    assert len(epochs) == best + 5 < 500
    assert training.kept_epoch == best
    assert training.kept_metrics["valid"] == epochs[best - 1].valid
    assert [event.is_best for event in epochs][best - 1]


def test_the_last_epoch_is_kept_where_the_best_is_not_to_be_restored() -> None:
    spec: dict[str, Any] = {"epochs": 100, "optimizer": {"form": "adam", "learning_rate": 0.05}}
    restored, _ = training_of(data_of(20), data_of(60), **spec)
    *_, last = restored
    assert restored.kept_epoch < 100
    training, _ = training_of(data_of(20), data_of(60), restore_best=False, **spec)
    *_, same = training
    assert isinstance(last, EpochEnd)
    assert isinstance(same, EpochEnd)
    assert training.kept_epoch == 100
    assert training.kept_metrics["valid"] == same.valid == last.valid


def test_min_improvement_asks_for_more_than_any_gain() -> None:
    train, valid = data_of(40), data_of(40)
    slow = {"form": "sgd", "learning_rate": 1e-4}
    patient, _ = training_of(train, valid, epochs=20, patience=3, optimizer=slow)
    assert len([e for e in patient if isinstance(e, EpochEnd)]) == 20
    demanding, _ = training_of(
        train, valid, epochs=20, patience=3, min_improvement=0.1, optimizer=slow
    )
    assert len([e for e in demanding if isinstance(e, EpochEnd)]) == 4
    assert demanding.kept_epoch == 4  # any gain is kept, though too small to go on for


def test_without_validation_rows_the_last_epoch_is_kept() -> None:
    training, _ = training_of(data_of(), epochs=3, validation=None)
    list(training)
    assert training.kept_epoch == 3
    assert training.kept_metrics["valid"] == {}


def test_a_loss_that_diverges_says_so() -> None:
    training, _ = training_of(
        data_of(), epochs=200, optimizer={"form": "sgd", "learning_rate": 1e6}, validation=None
    )
    with pytest.raises(DivergedError, match="learning_rate"):
        list(training)


def test_parameters_that_overflow_in_the_last_step_are_not_kept() -> None:
    training, _ = training_of(
        data_of(),
        epochs=1,
        batch_size=60,
        optimizer={"form": "sgd", "learning_rate": 1e39},
        validation=None,
    )
    with pytest.raises(DivergedError, match="parameters became infinite"):
        list(training)


def test_gradient_clip_bounds_the_step() -> None:
    train = data_of(rows=16)
    training, graph = training_of(
        train,
        epochs=1,
        batch_size=16,
        gradient_clip=1e-3,
        optimizer={"form": "sgd", "learning_rate": 1.0},
        validation=None,
    )
    list(training)
    start = initial_parameters(graph, seed=13)
    moved = sum(
        float(((value - start[key]) ** 2).sum())
        for key, value in training.kept_parameters().items()
    )
    assert np.sqrt(moved) == pytest.approx(1e-3, rel=1e-3)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    one, _ = training_of(data_of(), epochs=1)
    other, _ = training_of(data_of(), layers=[None, 90, None], epochs=1)
    for state in (one.state(), b"not a checkpoint", b""):
        with pytest.raises(ArtifactError):
            other.restore(state)


def test_a_long_epoch_is_cut_into_blocks() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((800_000, 4)).astype(np.float32))
    training, _ = training_of(
        TrainingData(x=rows_of(x), y=x[:, :2].clone()), epochs=1, validation=None
    )
    events = list(training)
    assert sum(isinstance(event, BlockEnd) for event in events) >= 3
    assert isinstance(events[-1], EpochEnd)
