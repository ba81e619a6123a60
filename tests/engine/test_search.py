"""A search's variants are the jobs that they would be alone, wherever it is stopped and resumed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.dataset import Data
from engine.errors import DataError, DivergedError
from engine.plan import plan_training
from engine.run import Outcome, TrainingRun, artifact_of, encode_rows
from engine.search import RefitEvent, Search, Selected, VariantEvent
from engine.search_plan import plan_search, refit_spec
from engine.spec import SearchSpec, TrainSpec
from engine.variant_run import VariantRun
from engine.variants import spec_of
from tests.thoroughness import examples

CPU = torch.device("cpu")


def table(rows: int = 60) -> Data:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, 3))
    y = x.sum(axis=1) + np.sin(3 * x[:, 0]) + 0.1 * rng.standard_normal(rows)
    columns = {name: x[:, index] for index, name in enumerate("abc")}
    return Data(table=pa.table({**columns, "y": y}))


DATA = table()


def spec(**fields: Any) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "network": {"layers": [None, [6, "tanh"], None]},
            "hidden_dropout": 0.1,
            "epochs": 6,
            "batch_size": 16,
            "validation": 0.2,
            **fields,
        }
    )


GRID = {"hidden_dropout": [0.05, 0.3], "optimizer.learning_rate": [1e-3, 3e-2]}


def search(asked: dict[str, Any], base: TrainSpec | None = None, threads: int = 2) -> Search:
    plan = plan_search(SearchSpec.model_validate(asked), base or spec(), DATA)
    return Search(plan, DATA, device=CPU, threads=threads)


def alone(asked: TrainSpec) -> Outcome:
    plan = plan_training(asked, DATA)
    run = TrainingRun(plan, encode_rows(plan, DATA, None, CPU))
    for _ in run.staged:
        pass
    return run.outcome()


def finished(run: Search) -> Search:
    for _ in run:
        pass
    return run


def artifact(run: Search) -> tuple[dict[str, Any], bytes]:
    ((plan, outcome),) = run.members()
    told = replace(outcome, metrics=outcome.metrics | run.metrics())
    return artifact_of(plan, told, version="0")


@pytest.mark.parametrize("threads", [1, 3])
def test_a_variant_comes_to_what_it_comes_to_alone(threads: int) -> None:
    run = finished(search({"grid": GRID}, threads=threads))
    assert len(run.standings) == 4
    for planned, standing in zip(run.plan.variants, run.standings, strict=True):
        lone = alone(spec_of(spec(), planned.variant))
        assert standing.status == "succeeded"
        assert standing.metrics == lone.metrics
        assert standing.kept_epoch == lone.kept_epoch
        assert standing.noise_precision == lone.noise_precision


def test_the_best_by_the_metric_is_kept_with_the_parameters_that_it_has_alone() -> None:
    for select, best in (("valid.log_likelihood", max), ("valid.rmse", min), ("valid.r2", max)):
        run = finished(search({"grid": GRID, "select": select, "refit": False}))
        values = [s.metrics["valid"][select.partition(".")[2]] for s in run.standings]
        assert run.selected == values.index(best(values))
        lone = alone(run.plan.variants[run.selected].plan.spec)
        ((_, kept),) = run.members()
        for name, value in lone.parameters.items():
            np.testing.assert_array_equal(kept.parameters[name], value)


def test_refitting_is_training_on_all_rows_for_the_kept_epochs_with_the_chosen_noise() -> None:
    run = finished(search({"grid": GRID}))
    assert run.selected is not None
    chosen = run.standings[run.selected]
    asked = run.plan.variants[run.selected].plan.spec.model_copy(
        update={
            "validation": None,
            "epochs": chosen.kept_epoch,
            "noise_precision": chosen.noise_precision,
        }
    )
    lone = alone(asked)
    document, weights = artifact(run)
    assert weights == artifact_of(plan_training(asked, DATA), lone, version="0")[1]
    assert document["noise_precision"] == chosen.noise_precision
    assert document["metrics"]["train"] == lone.metrics["train"]
    assert document["metrics"]["search"]["valid"] == chosen.metrics["valid"]
    assert document["metrics"]["search"]["variant"] == run.selected


def test_refitting_takes_in_validation_rows_that_are_not_among_the_rows() -> None:
    base = spec(rows=list(range(30)), validation={"rows": [40, 41, 5]})
    asked = refit_spec(base, 3, None)
    assert asked.rows == (*range(30), 40, 41)
    assert asked.validation is None


def asked_for(halves: bool) -> dict[str, Any]:
    halving = {"halving": {"factor": 2, "min_epochs": 2}} if halves else {}
    return {"grid": GRID, "refit": not halves, **halving}


@cache
def undisturbed(halves: bool) -> Search:
    return finished(search(asked_for(halves)))


@settings(max_examples=examples(12, 100), deadline=None)
@given(stops=st.lists(st.integers(1, 12), max_size=4), halves=st.booleans())
def test_a_search_stopped_anywhere_ends_as_one_that_nobody_disturbs(
    stops: list[int], halves: bool
) -> None:
    asked = asked_for(halves)
    calm = undisturbed(halves)
    run = search(asked)
    told: dict[int, list[str]] = {}
    for stop in stops:
        for event in itertools.islice(run, stop):
            if isinstance(event, VariantEvent):
                told.setdefault(event.index, []).append(event.standing.status)
        state = run.state()
        run = search(asked)
        run.restore(state)
    for event in run:
        if isinstance(event, VariantEvent):
            told.setdefault(event.index, []).append(event.standing.status)
    assert [vars(s) for s in run.standings] == [vars(s) for s in calm.standings]
    assert run.selected == calm.selected
    assert artifact(run) == artifact(calm)
    assert list(run.best_epochs()) == list(calm.best_epochs())
    for index, standing in enumerate(run.standings):
        assert told[index][-1] == standing.status
        assert told[index].count("succeeded") + told[index].count("stopped") == 1


def test_a_snapshot_of_a_search_is_what_it_was_when_it_was_taken() -> None:
    run = search({"grid": GRID})
    taken = [(run.state(), run.snapshot()) for _ in run]
    for state, snapshot in taken:  # long after the search has gone on
        assert snapshot.to_bytes() == state


def test_halving_stops_the_worst_at_each_rung() -> None:
    rates = [1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 5e-2, 0.1, 0.2]
    asked = {
        "grid": {"optimizer.learning_rate": rates},
        "halving": {"factor": 3, "min_epochs": 1},
        "select": "valid.loss",
    }
    run = finished(search(asked, spec(epochs=9)))
    assert run.plan.rungs == (1, 3)
    assert sorted(standing.epochs for standing in run.standings) == [1] * 6 + [3] * 2 + [9]
    firsts = [alone(spec_of(spec(epochs=1), v.variant)) for v in run.plan.variants]
    losses = [first.metrics["valid"]["loss"] for first in firsts]
    best = sorted(range(9), key=lambda index: losses[index])[:3]
    assert [i for i, s in enumerate(run.standings) if s.epochs > 1] == sorted(best)
    assert run.selected is not None
    assert run.standings[run.selected].status == "succeeded"
    assert run.plan.epochs == 9 * 1 + 3 * 2 + 1 * 6


def test_a_variant_that_diverges_fails_alone() -> None:
    asked = {"variants": [{"optimizer.learning_rate": 1e30}, {}], "refit": False}
    base = spec(optimizer={"form": "sgd", "learning_rate": 0.01})
    run = finished(search(asked, base))
    assert [standing.status for standing in run.standings] == ["failed", "succeeded"]
    assert "loss became" in (run.standings[0].detail or "")
    assert run.selected == 1
    with pytest.raises(DivergedError, match="all 2 variants"):
        finished(search({"grid": {"optimizer.learning_rate": [1e30, 1e31]}}, base))


def test_events_tell_of_beginnings_ends_the_choice_and_the_refit() -> None:
    events = list(search({"grid": GRID}))
    told = [(e.index, e.standing.status) for e in events if isinstance(e, VariantEvent)]
    assert sorted(told) == sorted((i, s) for i in range(4) for s in ("running", "succeeded"))
    at = [i for i, event in enumerate(events) if isinstance(event, Selected)]
    assert len(at) == 1
    assert all(isinstance(event, RefitEvent) for event in events[at[0] + 1 :])
    assert len(events) > at[0] + 1


def test_before_any_is_measured_the_best_of_those_that_run_is_left() -> None:
    run = search(
        {"grid": {"optimizer.learning_rate": [1e-9, 1e-2]}, "refit": False},
        spec(epochs=1_000_000),
        threads=1,
    )
    assert run.members() == []
    for _ in run:
        if sorted(run.running) == [0, 1] and min(run.running.values()) > 10:
            break
    ((plan, outcome),) = run.members()
    assert plan.spec.optimizer.learning_rate == 1e-2
    assert outcome.metrics["valid"]["log_likelihood"] is not None


@pytest.mark.parametrize("batch_size", [1, 16, 10_000_000])
def test_a_slice_of_a_run_ends_soon_however_few_the_rows_and_large_the_batches(
    batch_size: int,
) -> None:
    plan = plan_training(spec(epochs=1_000_000, batch_size=batch_size), DATA)
    run = VariantRun(TrainingRun(plan, encode_rows(plan, DATA, None, CPU)))
    run.go_on(None)
    run.advance()
    assert 0 < run.epochs < 1000


def test_seeds_may_vary_on_the_same_validation_rows() -> None:
    run = search({"variants": [{"seed": 1}, {"seed": 2}]})
    splits = [planned.plan.split.valid for planned in run.plan.variants]
    own = plan_training(spec(), DATA).split.valid
    for found in splits:
        np.testing.assert_array_equal(found, own)
    finished(run)
    assert run.standings[0].metrics != run.standings[1].metrics


def test_networks_may_vary() -> None:
    asked = {
        "grid": {"network.layers.1.size": [3, 9], "network.layers.1.activation": ["relu", "tanh"]}
    }
    run = finished(search(asked))
    counts = [planned.plan.graph.parameter_count for planned in run.plan.variants]
    assert counts == [3 * 5 + 1] * 2 + [9 * 5 + 1] * 2
    assert run.selected is not None


def test_networks_of_several_targets_may_vary() -> None:
    base = spec(inputs=["a", "b"], targets=["c", "y"])
    asked = SearchSpec.model_validate({"grid": {"network.layers.1.size": [3, 9]}})
    plan = plan_search(asked, base, DATA)
    assert [planned.plan.graph.parameter_count for planned in plan.variants] == [17, 47]


def test_without_a_finite_metric_nothing_is_chosen() -> None:
    x = np.arange(40, dtype=np.float64)
    flat = Data(table=pa.table({"x": x, "y": np.where(x < 30, x, 3.0)}))
    base = spec(validation={"rows": list(range(30, 40))})
    asked = SearchSpec.model_validate({"variants": [{}], "select": "valid.r2"})
    run = Search(plan_search(asked, base, flat), flat, device=CPU)
    with pytest.raises(DataError, match=r"finite 'valid\.r2'"):
        finished(run)
