"""Rows of a stored data set that are read when they are needed, and never held all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from engine.block_order import Blocking, BlockOrder
from engine.data.inputs import Inputs
from engine.training_data import Pool, TrainingData

__all__ = ["MappedInputs", "MappedRows"]

Numbers = npt.NDArray[np.int64]

_PATIENCE_S = 0.25
"""How long a pool is awaited before that is told."""
_PIECE_SHARE = 4
"""Pieces that measure are so much smaller than pools, since the next pool is held as well."""
_READ_ROWS = 4096


class MappedRows:
    """Rows like `TrainingData`, read a pool or a piece at a time, the next one in advance."""

    def __init__(
        self,
        read: Callable[[Numbers], TrainingData],
        rows: int,
        *,
        blocking: Blocking,
        device: torch.device,
    ) -> None:
        """`read` returns rows by their places among so many, on `device`; other threads call it."""
        self._read = read
        self._rows = rows
        self._blocking = blocking
        self._device = device

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def has_windows(self) -> bool:
        return False

    def shuffled(self, *, seed: int, batch_size: int) -> _Pools:
        order = BlockOrder(
            self.rows,
            block_rows=self._blocking.block_rows,
            pool_rows=self._blocking.in_batches(batch_size),
            seed=seed,
        )
        return _Pools(self, order)

    def pieces(self, batch_size: int) -> Iterator[TrainingData]:
        smaller = replace(self._blocking, pool_rows=self._blocking.pool_rows // _PIECE_SHARE)
        size = smaller.in_batches(batch_size)
        begins = range(0, self.rows, size)
        parts = (np.arange(begin, min(begin + size, self.rows)) for begin in begins)
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[TrainingData] | None = None
            for part in parts:
                following = reader.submit(self._read, part)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            assert ahead is not None
            yield ahead.result()

    def take(self, numbers: Numbers) -> TrainingData:
        return self._read(numbers)

    def reconstructing(self) -> MappedRows:
        return MappedRows(
            lambda numbers: self._read(numbers).reconstructing(),
            self._rows,
            blocking=self._blocking,
            device=self._device,
        )


class _Pools:
    """The pools of an epoch, each read by a thread of its own while the last one is used."""

    def __init__(self, rows: MappedRows, order: BlockOrder) -> None:
        self._rows = rows
        self._order = order
        self._whole: TrainingData | None = None

    def pools(self, epoch: int, place: int) -> Iterator[Pool | None]:
        if place >= self._rows.rows:
            return
        numbers = range(place // self._order.pool_rows, self._order.pools)
        with ThreadPoolExecutor(1, thread_name_prefix="rows") as reader:
            ahead = reader.submit(self._pool, epoch, numbers[0])
            for number in numbers:
                while not ahead.done():
                    if not wait([ahead], timeout=_PATIENCE_S).done:
                        yield None
                pool = ahead.result()
                if number + 1 < self._order.pools:
                    ahead = reader.submit(self._pool, epoch, number + 1)
                yield pool

    def _pool(self, epoch: int, number: int) -> Pool:
        places, order = self._order.pool(epoch, number)
        rows = self._rows.take(places) if self._whole is None else self._whole
        if self._order.pools == 1:
            self._whole = rows  # the same in every epoch
        return Pool(
            first=number * self._order.pool_rows,
            rows=rows,
            order=torch.from_numpy(order).to(self._rows.device),
        )


class MappedInputs:
    """Rows of inputs like `Inputs`, which are read when they are asked for."""

    def __init__(self, read: Callable[[Numbers], Inputs], numbers: Numbers) -> None:
        self._read = read
        self._numbers = numbers
        self._held: tuple[int, Inputs] | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, rows: Any) -> Inputs:
        """Return some rows; with those of a slice some more are read, for the next one."""
        if not isinstance(rows, slice):
            return self._read(self._numbers[rows])
        start, stop, _ = rows.indices(len(self))
        if self._held is None or not (
            self._held[0] <= start and stop <= self._held[0] + len(self._held[1])
        ):
            last = max(stop, start + _READ_ROWS)
            self._held = start, self._read(self._numbers[start:last])
        first, held = self._held
        return held[start - first : stop - first]
