"""Rows read by blocks: what a job learns of them, and in which order they are taken."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.block_order import Blocking, BlockOrder
from engine.data import formats
from engine.data.dataset import Data
from engine.epochs import BlockEnd, EpochEnd
from engine.errors import SpecError
from engine.mapped_rows import MappedRows
from engine.plan import TrainingPlan, plan_training
from engine.run import EncodedRows, TrainingRun, encode_rows
from engine.search import Search
from engine.search_plan import plan_search
from engine.spec import SearchSpec, TrainSpec
from engine.streams import generator
from engine.training_data import Pool, TrainingData

CPU = torch.device("cpu")
LIMIT = 4000
"""Bytes of encoded rows to be held; the table comes to 7 times as much."""


def table_of(rows: int = 900) -> Data:
    """Return a table with gaps, texts, classes, weights, groups and times."""
    draw = np.random.default_rng(3)
    x = draw.standard_normal((rows, 3))
    gaps = draw.random(rows) < 0.2
    kinds = draw.integers(3, size=rows)
    return Data(
        table=pa.table(
            {
                "a": x[:, 0],
                "b": pa.array(x[:, 1], mask=gaps),
                "c": pa.array(
                    [None if k == 2 else ("red", "blue")[k] for k in kinds], pa.large_string()
                ),
                "d": x[:, 2],
                "group": draw.integers(40, size=rows),
                "weight": draw.integers(3, size=rows).astype(float),
                "label": pa.array([("no", "yes")[int(v > 0)] for v in x[:, 0]], pa.large_string()),
                "y": np.tanh(x[:, 0]) - x[:, 2] + 0.1 * draw.standard_normal(rows),
            }
        )
    )


BASE: dict[str, Any] = {
    "network": {"layers": [None, [6, "tanh"], None]},
    "inputs": ["[a-d]"],
    "epochs": 2,
    "batch_size": 16,
    "hidden_dropout": 0.2,
}


def planned(
    data: Data, limit: int | None = LIMIT, other: Data | None = None, **spec: Any
) -> TrainingPlan:
    return plan_training(
        TrainSpec.model_validate({**BASE, **spec}), data, other, resident_bytes=limit
    )


def trained(run: TrainingRun) -> list[EpochEnd]:
    return [event for event in run.staged if isinstance(event, EpochEnd)]


def run_of(plan: TrainingPlan, data: Data, other: Data | None = None) -> TrainingRun:
    return TrainingRun(plan, encode_rows(plan, data, other, CPU))


def bits(run: TrainingRun) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in run.training.kept_parameters().items()}


# -- the order -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 300),
    block=st.integers(1, 40),
    pool=st.integers(1, 120),
    seed=st.integers(0, 9),
    epoch=st.integers(1, 5),
)
def test_every_row_is_taken_once_an_epoch(
    rows: int, block: int, pool: int, seed: int, epoch: int
) -> None:
    order = BlockOrder(rows, block_rows=block, pool_rows=pool, seed=seed)
    taken: list[int] = []
    for number in range(order.pools):
        places, within = order.pool(epoch, number)
        assert len(places) == min(pool, rows - number * pool)
        assert (np.diff(places) > 0).all()
        taken += places[within].tolist()
    assert sorted(taken) == list(range(rows))


def test_a_pool_is_of_blocks_from_all_over_the_data() -> None:
    order = BlockOrder(10_000, block_rows=50, pool_rows=1600, seed=1)
    places, _ = order.pool(1, 0)
    assert len(np.unique(places // 50)) == 32
    assert set(places // 2500) == {0, 1, 2, 3}  # all quarters: 1 in 10^4 draws lacks one


def test_the_first_row_of_an_epoch_may_be_any() -> None:
    """Over seeds it is uniform: chi-squared of 10 cells below its 99.9 % point."""
    firsts = []
    for seed in range(1000):
        places, within = BlockOrder(100, block_rows=5, pool_rows=20, seed=seed).pool(1, 0)
        firsts.append(places[within[0]])
    counts = np.bincount(np.array(firsts) // 10, minlength=10)
    assert ((counts - 100) ** 2 / 100).sum() < 27.88


def test_one_pool_has_the_order_of_rows_in_memory() -> None:
    places, order = BlockOrder(77, block_rows=10, pool_rows=100, seed=13).pool(4, 0)
    assert places.tolist() == list(range(77))
    assert order.tolist() == generator(13, "shuffle", 4).permutation(77).tolist()


# -- which way is taken ----------------------------------------------------------------------------


def test_the_limit_decides_and_the_plan_tells() -> None:
    data = table_of()
    held = planned(data, None).describe()["loading"]
    assert held["form"] == "resident"
    told = planned(data).describe()["loading"]
    # 6 inputs (one for a gap in b, two categories and one for a gap in c) and a target.
    assert told["encoded_bytes"] == held["encoded_bytes"] == 900 * 4 * 8
    assert told["form"] == "blocks"
    assert told["resident_bytes"] == LIMIT
    assert told["pool_rows"] % BASE["batch_size"] == 0
    assert 0 < told["block_rows"] <= told["pool_rows"] <= LIMIT // 32
    exactly = planned(data, told["encoded_bytes"]).describe()["loading"]
    assert exactly["form"] == "resident"


def test_sequences_of_a_table_that_do_not_fit_are_refused() -> None:
    sequence = {"window": 5}
    network = {"layers": [None, [3, "tanh", "rnn"], None]}
    with pytest.raises(SpecError, match="held in memory as a whole") as refused:
        planned(table_of(), sequence=sequence, network=network, targets=["y"])
    assert refused.value.pointer == "#/sequence"


# -- what is learnt --------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "fraction": {},
    "group": {"validation": {"fraction": 0.3, "group": "group"}},
    "time": {"validation": {"fraction": 0.3, "time": "d"}},
    "rows": {"rows": list(range(0, 900, 2)), "validation": {"rows": list(range(1, 600, 3))}},
    "stratify": {
        "targets": ["label"],
        "validation": {"fraction": 0.3, "stratify": "group"},
        "inputs": ["[a-c]"],
    },
    "weights": {"sample_weight": "weight", "validation": 0.4},
    "classifier": {"targets": ["label"], "sample_weight": "weight"},
    "autoencoder": {
        "network": {"form": "autoencoder", "layers": [None, 2, None]},
        "inputs": ["a", "d"],
        "validation": 0.5,
    },
    "general path": {"monitors": {"hid1:out": 0.1}, "validation": 0.4},
    "several losses": {
        "network": {
            "layers": [None, 6, None],
            "losses": [{"form": "mse"}, {"form": "mmd"}, {"form": "mae", "targets": ["d"]}],
        },
        "inputs": ["[a-c]"],
        "validation": 0.4,
    },
    "stages": {
        "network": {"layers": [None, 5, 4, None]},
        "training": {"form": "pretrain", "epochs": 1},
    },
    "sampled": {"training": {"form": "sample"}},
    "none": {"validation": None},
}


def whole_pool(plan: TrainingPlan) -> TrainingPlan:
    """Return the plan with one pool that holds everything."""
    blocking = Blocking(block_rows=7, pool_rows=100_000)
    return replace(plan, loading=replace(plan.loading, blocking=blocking))


@pytest.mark.parametrize("way", WAYS)
def test_one_pool_of_all_rows_comes_to_the_bits_of_rows_in_memory(way: str) -> None:
    data = table_of(400)
    spec = {**WAYS[way]}
    if "rows" in spec:
        spec["rows"], spec["validation"] = list(range(0, 400, 2)), {"rows": list(range(1, 300, 3))}
    held = run_of(planned(data, None, **spec), data)
    pooled = run_of(whole_pool(planned(data, **spec)), data)
    assert isinstance(pooled.rows.train, MappedRows)
    assert trained(pooled) == trained(held)
    assert bits(pooled) == bits(held)
    assert pooled.outcome().metrics == held.outcome().metrics


@pytest.mark.parametrize("way", WAYS)
def test_rows_by_blocks_come_to_the_bits_of_the_same_order_in_memory(way: str) -> None:
    """What is learnt depends on the order alone; what is measured agrees to rounding."""
    data = table_of()
    plan = planned(data, **WAYS[way])
    assert plan.loading.blocking is not None
    by_blocks = run_of(plan, data)
    if way == "none":
        assert by_blocks.rows.valid is None
    else:
        assert isinstance(by_blocks.rows.valid, MappedRows)
    rows = replace(
        encode_rows(
            replace(plan, loading=planned(data, None, **WAYS[way]).loading), data, None, CPU
        )
    )
    held = TrainingRun(plan, replace(rows, train=_InOrder(rows.train, plan.loading.blocking)))  # type: ignore[arg-type]
    for one, other in zip(trained(by_blocks), trained(held), strict=True):
        assert one.train == other.train
        assert one.regularizers == other.regularizers
        assert one.valid == pytest.approx(other.valid, rel=1e-5, abs=1e-7)
    assert bits(by_blocks) == bits(held)
    ours, theirs = by_blocks.outcome(), held.outcome()
    assert ours.metrics["valid"] == pytest.approx(theirs.metrics["valid"], rel=1e-5, abs=1e-7)
    assert ours.noise_precision == theirs.noise_precision


class _InOrder:
    """Rows in memory, taken in the order of blocks."""

    def __init__(self, rows: TrainingData, blocking: Blocking) -> None:
        self._data = rows
        self._blocking = blocking

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def reconstructing(self) -> _InOrder:
        return _InOrder(self._data.reconstructing(), self._blocking)

    def shuffled(self, *, seed: int, batch_size: int) -> _InOrder:
        pool_rows = self._blocking.in_batches(batch_size)
        self._order = BlockOrder(
            self._data.rows, block_rows=self._blocking.block_rows, pool_rows=pool_rows, seed=seed
        )
        return self

    def pools(self, epoch: int, place: int) -> Any:
        for number in range(place // self._order.pool_rows, self._order.pools):
            places, order = self._order.pool(epoch, number)
            yield Pool(
                first=number * self._order.pool_rows,
                rows=self._data,
                order=torch.from_numpy(places[order]),
            )


def test_another_data_set_validates_by_pieces() -> None:
    data, other = table_of(), table_of(800)
    spec: dict[str, Any] = {"validation": {"dataset": "ds_other"}}
    by_blocks = run_of(planned(data, other=other, **spec), data, other)
    held = run_of(whole_pool(planned(data, other=other, **spec)), data, other)
    assert isinstance(by_blocks.rows.valid, MappedRows)
    first, second = trained(by_blocks)[0], trained(held)[0]
    assert set(first.valid) == set(second.valid)


def test_arrays_are_read_by_blocks(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    x = draw.standard_normal((500, 6, 2)).astype(np.float32)
    y = draw.integers(3, size=500)
    formats.save(Data(arrays={"x": x, "y": y}), tmp_path / "rows.npz")
    data = formats.load(tmp_path / "rows.npz", "arrays")
    network = {"form": "classifier", "layers": [None, [4, "tanh", "rnn"], "flatten", None]}
    spec: dict[str, Any] = {
        "network": network,
        "inputs": ["x"],
        "validation": 0.3,
        "hidden_dropout": None,
    }
    plan = planned(data, **spec)
    assert plan.loading.blocking is not None
    by_blocks = run_of(plan, data)
    held = run_of(whole_pool(plan), data)
    assert len(trained(by_blocks)) == len(trained(held)) == 2
    assert by_blocks.outcome().metrics["valid"]["accuracy"] >= 0


# -- stopping and going on -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fraction", "general path", "stages"])
def test_a_run_by_blocks_stopped_at_random_steps_ends_with_the_same_bits(way: str) -> None:
    data = table_of(600)
    plan = planned(data, **WAYS[way])
    whole = run_of(plan, data)
    epochs = trained(whole)
    chance = random.Random(way)
    state: bytes | None = None
    told: list[EpochEnd] = []
    for _ in range(40):
        run = run_of(plan, data)
        if state is not None:
            run.staged.restore(state)
        steps = chance.randrange(1, 28)
        for event in run.staged:
            if isinstance(event, EpochEnd):
                told.append(event)
            steps -= 1
            if not steps:
                break
        state = run.staged.state()
        if run.is_finished:
            break
    assert run.is_finished
    assert told == epochs
    assert bits(run) == bits(whole)


def test_waiting_for_rows_and_measuring_by_pieces_are_told() -> None:
    data = table_of(600)
    run = run_of(planned(data, validation=0.5), data)
    done = [event.rows_done for event in run.staged if isinstance(event, BlockEnd)]
    assert done.count(300) >= 2 * 2  # between the pieces of each epoch's measuring


# -- searches --------------------------------------------------------------------------------------


def test_variants_by_blocks_are_those_of_jobs_alone() -> None:
    data = table_of(500)
    search = SearchSpec.model_validate({"grid": {"hidden_dropout": [0.1, 0.3]}})
    spec = TrainSpec.model_validate(BASE)
    plan = plan_search(search, spec, data, resident_bytes=LIMIT)
    found = Search(plan, data, device=CPU, threads=2)
    for _ in found:
        pass
    for planned_variant, standing in zip(plan.variants, found.standings, strict=True):
        alone = run_of(planned_variant.plan, data)
        trained(alone)
        assert standing.metrics == alone.outcome().metrics
    assert found.refit is not None
    assert isinstance(found.refit.rows.train, MappedRows)


def test_an_error_in_reading_is_the_jobs() -> None:
    def broken(_numbers: npt.NDArray[np.int64]) -> TrainingData:
        raise SpecError("no such rows", pointer="#/rows")

    data = table_of(100)
    plan = planned(data, 1000)
    blocking = Blocking(block_rows=2, pool_rows=16)
    rows = MappedRows(broken, 90, blocking=blocking, device=CPU)
    run = TrainingRun(plan, EncodedRows(device=CPU, train=rows, valid=None, measured=None))
    with pytest.raises(SpecError, match="no such rows"):
        trained(run)
