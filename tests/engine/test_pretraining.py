"""Parts of a network may be trained before the whole, and resumed to the bit wherever they stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import SpecError
from engine.graph import Graph, build_graph
from engine.initializers import initial_parameters
from engine.pretraining import StagedTraining, StageEvent, plan_stages
from engine.regularizers import resolve
from engine.sampled_weights import sampled_parameters
from engine.spec import TrainSpec
from engine.training import EpochEnd, TrainingData
from tests.engine.networks import only, rows_of


def rows(count: int = 50) -> TrainingData:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((count, 6)).astype(np.float32)
    x[:, 3:] = x[:, :3] + 0.1 * x[:, 3:]
    y = np.tanh(x[:, :2]).astype(np.float32)
    return TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(y))


def planned(
    layers: list[Any], training: Any, form: str = "regressor", **spec: Any
) -> StagedTraining:
    return run_of(rows(), layers, training, form, **spec)[0]


def run_of(
    data: TrainingData, layers: list[Any], training: Any, form: str = "regressor", **spec: Any
) -> tuple[StagedTraining, Graph]:
    parsed = TrainSpec.model_validate(
        {"network": {"form": form, "layers": layers}, "epochs": 3, "training": training, **spec}
    )
    if form == "autoencoder":
        data = TrainingData(x=data.x, y=only(data.x))
    graph = build_graph(
        parsed.network,
        form=form,  # type: ignore[arg-type]
        input_shapes={"in": (6,)},
        output_shape=tuple(data.y.shape[1:]),
    )
    acting = resolve(parsed, graph)
    stages = plan_stages(parsed, graph, acting)
    return StagedTraining(graph, parsed, acting, data, data, stages=stages), graph


def stage_layers(run: StagedTraining) -> list[tuple[str, ...]]:
    seen = [event.layers for event in run if isinstance(event, StageEvent)]
    return list(dict.fromkeys(seen))


def test_a_layer_more_is_trained_at_each_stage() -> None:
    run = planned([None, 8, 7, 5, None], {"form": "layerwise"})
    assert stage_layers(run) == [("in", "hid1", "hid1_out"), ("in", "hid1", "hid2", "hid2_out")]
    assert run.whole is not None
    assert run.whole.epoch == 3


def test_tied_layers_are_trained_from_the_outermost_pair_inwards() -> None:
    layers = [None, [8, "tanh"], [5, "tanh"], [3, "tanh"], "tied", "tied", "tied"]
    run = planned(layers, {"form": "layerwise", "epochs": 2}, "autoencoder")
    assert stage_layers(run) == [
        ("in", "hid1", "hid1_tied1"),
        ("in", "hid1", "hid2", "hid2_tied2", "hid1_tied2"),
    ]


def test_unsupervised_stages_reconstruct_the_inputs() -> None:
    run = planned([None, [8, "tanh"], 5, None], {"form": "pretrain", "epochs": 40})
    losses: dict[tuple[str, ...], list[float]] = {}
    for event in run:
        if isinstance(event, StageEvent) and isinstance(event.event, EpochEnd):
            losses.setdefault(event.layers, []).append(event.event.train["loss"])
    assert list(losses) == [
        ("in", "hid1", "hid1_tied1"),
        ("in", "hid1", "hid2", "hid2_tied", "hid1_tied"),
    ]
    for history in losses.values():
        assert history[-1] < 0.85 * history[0]


def test_what_a_stage_learnt_is_where_the_next_begins() -> None:
    run = planned([None, 8, 7, None], {"form": "layerwise", "epochs": 4})
    for _ in run:
        if run.whole is not None:
            break
    fresh, graph = run_of(rows(), [None, 8, 7, None], None)
    start = initial_parameters(graph, seed=13)
    learnt = run._learnt
    assert not np.array_equal(learnt["hid1.w"], start["hid1.w"])
    assert np.array_equal(learnt["hid2.w"], start["hid2.w"])
    assert np.array_equal(learnt["out.w"], start["out.w"])
    assert fresh.stages == 0


def test_regularizers_aim_within_a_stage_at_what_it_has() -> None:
    run = planned(
        [None, 8, 7, None],
        {"form": "layerwise"},
        hidden_dropout=0.3,
        output_dropout=0.1,
        regularizers=[
            {"form": "weight_l2", "weight": 0.1},
            {"form": "concrete_dropout", "weight": 0.1},
            {"form": "hidden_l1", "pattern": "hid2:out", "weight": 0.1},
        ],
    )
    (stage,) = run._stages
    assert [r.matched for r in stage.regularizers] == [("hid1:out",), ("hid1.w",), ("hid1:out",)]
    assert stage_layers(run)


@pytest.mark.parametrize("stop", [1, 4, 7])
@pytest.mark.parametrize("form", ["layerwise", "pretrain"])
def test_stages_resume_to_the_bit(form: str, stop: int) -> None:
    make: Callable[[], StagedTraining] = lambda: planned(  # noqa: E731
        [None, 8, 7, None], {"form": form}, hidden_dropout=0.2
    )
    whole, first, second = make(), make(), make()
    for _ in whole:
        pass
    for number, _ in enumerate(first, start=1):
        if number == stop:
            break
    second.restore(first.state())
    assert second.stage_epochs == first.stage_epochs
    for _ in second:
        pass
    assert second.state() == whole.state()


def test_weights_may_begin_as_rows_of_the_data() -> None:
    data = rows()
    run, graph = run_of(data, [None, [8, "linear"], 60, None], {"form": "sample"})
    values = sampled_parameters(graph, initial_parameters(graph, seed=13), data, seed=13)
    x = only(data.x).numpy()
    known = x / np.linalg.norm(x, axis=1, keepdims=True)
    for column in values["hid1.w"].T:
        assert np.abs(known - column).sum(axis=1).min() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(values["hid2.w"], axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(values["out.w"], axis=1), 1, rtol=1e-5)
    assert len(np.unique(values["hid2.w"].round(5), axis=1).T) == 60  # 10 of them distorted
    assert run.stages == 0
    assert all(np.array_equal(value, run._learnt[name]) for name, value in values.items())


@pytest.mark.parametrize(
    ("layers", "form", "training"),
    [
        ([None, [8, "tanh"], {"form": "add", "inputs": ["hid1"]}, None], "regressor", "pretrain"),
        ([None, None], "regressor", "pretrain"),
        ([None, 8, "tied"], "autoencoder", "pretrain"),
        ([None, 8, 4, {"form": "tied", "partner": "hid2"}, None], "autoencoder", "layerwise"),
    ],
)
def test_networks_that_have_no_such_stages_are_refused(
    layers: list[Any], form: str, training: str
) -> None:
    with pytest.raises(SpecError) as caught:
        planned(layers, {"form": training}, form)
    assert caught.value.pointer == "#/training/form"
