"""Resuming: a run stopped at a random step goes on in another process, to the same bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch

from engine.autograd import AutogradSteps
from engine.dense_training import DenseSteps
from engine.epochs import EpochEnd
from engine.graph import build_graph
from engine.pretraining import StagedTraining, StageEvent, plan_stages
from engine.regularizers import resolve
from engine.spec import TrainSpec
from engine.training import TrainingData
from tests.engine.networks import rows_of

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": {"form": "sgd", "momentum": 0.9}},
    "nag": {"optimizer": {"form": "nag"}},
    "rprop": {"optimizer": {"form": "rprop"}},
    "rmsprop": {"optimizer": {"form": "rmsprop", "momentum": 0.5, "centered": True}},
    "adagrad": {"optimizer": {"form": "adagrad"}},
    "adadelta": {"optimizer": {"form": "adadelta"}},
    "esgd": {"optimizer": {"form": "esgd", "momentum": 0.5}},
    "adam": {"optimizer": {"form": "adam"}, "gradient_clip": 0.5},
    "adamw": {"optimizer": {"form": "adamw"}, "min_improvement": 0.01},
    "monitored": {"monitors": {"hid1:out": 0.5}, "monitor_gradients": True},
    "layerwise": {"training": {"form": "layerwise", "epochs": 2}},
    "pretrained": {"training": {"form": "pretrain", "epochs": 2}},
    "sampled": {"training": {"form": "sample"}},
    "one cycle": {"optimizer": {"form": "adam", "schedule": {"form": "one_cycle"}}},
    "plateau": {
        "optimizer": {
            "form": "rmsprop",
            "schedule": {"form": "plateau", "patience": 0, "threshold": 0.5},
        },
        "patience": None,
    },
    "learnt rates": {
        "regularizers": [{"form": "concrete_dropout", "pattern": "hid1:out", "weight": 0.01}]
    },
    "penalties": {
        "regularizers": [
            {"form": "weight_l2", "weight": 0.1},
            {"form": "hidden_l1", "weight": 0.1},
        ]
    },
}


def data_of(rows: int, seed: int) -> TrainingData:
    x = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)
    y = np.tanh(x[:, :2]) + 0.1 * x[:, 2:]
    weights = torch.linspace(0.1, 1, rows)
    return TrainingData(x=rows_of(torch.from_numpy(x)), y=torch.from_numpy(y), weights=weights)


def run_of(case: str) -> StagedTraining:
    """Return a run at its beginning."""
    given = {
        "epochs": 4,
        "batch_size": 8,
        "patience": 2,
        "input_dropout": 0.1,
        "hidden_dropout": 0.4,
        "hidden_noise": 0.1,
        **CASES[case],
    }
    network = {"form": "regressor", "layers": [None, [7, "tanh"], [6, "tanh"], None]}
    spec = TrainSpec.model_validate({"network": network, **given})
    graph = build_graph(
        spec.network, form="regressor", input_shapes={"in": (4,)}, output_shape=(2,)
    )
    regularizers = resolve(spec, graph)
    return StagedTraining(
        graph,
        spec,
        regularizers,
        data_of(60, 5),
        data_of(20, 6),
        stages=plan_stages(spec, graph, regularizers),
    )


def events_of(run: StagedTraining) -> Iterator[Any]:
    """Iterate over a run in blocks of two steps."""
    with pytest.MonkeyPatch.context() as patch:
        for steps in (DenseSteps, AutogradSteps):
            patch.setattr(steps, "block_rows", lambda _: 16)
        yield from run


def finished(case: str, state: bytes | None) -> tuple[bytes, list[Any], dict[str, Any]]:
    """Train to the end, from a state if there is one; return the last, the epochs, the metrics."""
    torch.set_num_threads(1)
    run = run_of(case)
    if state is not None:
        run.restore(state)
    epochs = [event for event in events_of(run) if is_epoch(event)]
    assert run.whole is not None
    return run.state(), epochs, run.whole.kept_metrics


def is_epoch(event: Any) -> bool:
    return isinstance(event.event if isinstance(event, StageEvent) else event, EpochEnd)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Executor]:
    """Another process, which has seen nothing of this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_at_a_random_step_goes_on_in_another_process_to_the_same_bytes(
    case: str, elsewhere: Executor
) -> None:
    whole, epochs, metrics = finished(case, None)
    run = run_of(case)
    count = sum(1 for _ in events_of(run_of(case)))
    stops = random.Random(case).sample(range(count), 3)
    seen, states = [], {}
    for number, event in enumerate(events_of(run)):
        seen.append(event)
        if number in stops:
            states[number] = run.state()
    for stop, state in states.items():
        last, rest, kept = elsewhere.submit(finished, case, state).result()
        assert last == whole
        assert [event for event in seen[: stop + 1] if is_epoch(event)] + rest == epochs
        assert kept == metrics


@pytest.mark.parametrize("case", ["adam", "plateau", "layerwise", "learnt rates"])
def test_a_snapshot_is_what_the_run_was_when_it_was_taken(case: str) -> None:
    run = run_of(case)
    taken = [(run.state(), run.snapshot()) for _ in itertools.islice(events_of(run), 0, None, 3)]
    assert len({state for state, _ in taken}) > 4
    for state, snapshot in taken:  # long after the run has gone on
        assert snapshot.to_bytes() == state
