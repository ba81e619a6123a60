"""Rows that are encoded once, and the same to the bit as those that are encoded each time."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.inputs import Inputs
from engine.data.scratch import Scratch
from engine.encoded_copy import EncodedCopy
from engine.run import TrainingRun, encode_rows
from engine.training_data import TrainingData
from tests.engine.test_blocks_of_rows import (
    CPU,
    WAYS,
    bits,
    planned,
    run_of,
    table_of,
    trained,
)

Places = npt.NDArray[np.int64]
ROWS = 60


class Encoder:
    """Encodes rows that tell their places, and counts how often each is."""

    def __init__(self) -> None:
        self.counts = np.zeros(ROWS, dtype=np.int64)

    def __call__(self, places: Places) -> TrainingData:
        np.add.at(self.counts, places, 1)
        column = torch.from_numpy(places).to(torch.float32)
        return TrainingData(
            x=Inputs({"a:out": column[:, None] * torch.ones(3), "b:out": column[:, None, None]}),
            y=torch.from_numpy(places),
            weights=column / 3,
            auxiliary=(column[:, None] + 0.5,),
        )


def same(one: TrainingData, other: TrainingData) -> bool:
    pairs = [(one.x.values[name], other.x.values[name]) for name in other.x.values]
    pairs += [*zip(one.targets, other.targets, strict=True), (one.weights, other.weights)]
    return list(one.x.values) == list(other.x.values) and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs
    )


@settings(max_examples=60, deadline=None)
@given(
    reads=st.lists(
        st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS, unique=True), max_size=8
    )
)
def test_rows_read_in_any_order_are_those_that_were_encoded(
    reads: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = EncodedCopy(Encoder(), ROWS, folder=tmp_path_factory.getbasetemp())
    for read in [*reads, list(range(ROWS)), *reads]:
        places = np.array(read, dtype=np.int64)
        assert same(copy(places), Encoder()(places))
    assert copy.is_whole


def test_each_row_is_encoded_once_and_no_file_has_a_name(tmp_path: Path) -> None:
    encoder = Encoder()
    copy = EncodedCopy(encoder, ROWS, folder=tmp_path)
    for _ in range(3):
        for start in range(0, ROWS, 7):
            copy(np.arange(start, min(start + 7, ROWS)))
        assert not list(tmp_path.iterdir())
    assert encoder.counts.tolist() == [1] * ROWS


def test_threads_may_read_at_once(tmp_path: Path) -> None:
    copy = EncodedCopy(Encoder(), ROWS, folder=tmp_path)
    draw = np.random.default_rng(1)
    reads = [draw.permutation(ROWS)[: draw.integers(1, ROWS)] for _ in range(80)]
    with ThreadPoolExecutor(4) as threads:
        for places, rows in zip(reads, threads.map(copy, reads), strict=True):
            assert same(rows, Encoder()(places))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond `size`, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("before", [0, 20])
def test_rows_are_encoded_again_where_the_disk_is_full(tmp_path: Path, before: int) -> None:
    encoder = Encoder()
    copy = EncodedCopy(encoder, ROWS, folder=tmp_path)
    if before:
        copy(np.arange(before))
    with files_of_at_most(100):
        for _ in range(2):
            for start in range(0, ROWS, 10):
                places = np.arange(start, start + 10)
                assert same(copy(places), Encoder()(places))
    assert not copy.is_whole
    assert encoder.counts.min() > 1


@pytest.mark.parametrize("way", WAYS)
def test_training_on_a_copy_comes_to_the_bits_of_encoding_in_each_epoch(
    way: str, tmp_path: Path
) -> None:
    data = table_of(400)
    plan = planned(data, **WAYS[way] if way != "rows" else {"rows": list(range(0, 400, 3))})
    assert plan.loading.blocking is not None
    room = Scratch(folder=tmp_path, bytes=plan.loading.encoded_bytes)
    rows = encode_rows(plan, data, None, CPU, scratch=room)
    assert rows.are_copied
    anew = run_of(plan, data)
    assert not anew.rows.are_copied
    copied = TrainingRun(plan, rows)
    assert trained(copied) == trained(anew)
    assert bits(copied) == bits(anew)
    assert copied.outcome().metrics == anew.outcome().metrics


def test_a_copy_made_by_halves_changes_nothing_of_what_a_stopped_run_comes_to(
    tmp_path: Path,
) -> None:
    data = table_of(600)
    plan = planned(data)
    whole = run_of(plan, data)
    epochs = trained(whole)
    state: bytes | None = None
    for stop in (3, 9, 1, 10**6):
        scratch = Scratch(folder=tmp_path, bytes=10**9)
        run = TrainingRun(plan, encode_rows(plan, data, None, CPU, scratch=scratch))
        if state is not None:
            run.staged.restore(state)
        for _, _event in zip(range(stop), run.staged, strict=False):
            pass
        state = run.staged.state()
    assert run.is_finished
    assert len(epochs) == run.training.epoch
    assert bits(run) == bits(whole)


@pytest.mark.parametrize("limit", [None, 4000])
def test_no_copy_is_made_of_rows_in_memory_or_without_room(
    limit: int | None, tmp_path: Path
) -> None:
    data: Any = table_of(400)
    plan = planned(data, limit)
    room = Scratch(folder=tmp_path, bytes=plan.loading.encoded_bytes - (limit is not None))
    assert not encode_rows(plan, data, None, CPU, scratch=room).are_copied
