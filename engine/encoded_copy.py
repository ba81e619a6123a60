"""Encoded rows on the disk: written as they are first read, and read as they are from then on.

Encoding a row of a table costs a few microseconds, in every epoch anew; reading it ready-made a
tenth. The file has no name, so that nothing is left of it however the process ends. Where it cannot
be written, rows are encoded whenever they are read: the numbers are the same.
"""

from __future__ import annotations

import os
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.data.inputs import Inputs
from engine.training_data import TrainingData

__all__ = ["EncodedCopy"]

Places = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

_ALIGNED = 4096


@dataclass(frozen=True, kw_only=True)
class _Column:
    """Where one of the arrays that rows consist of lies in the file."""

    begin: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of one row."""

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class EncodedCopy:
    """Rows that are encoded once; may be read by several threads."""

    def __init__(
        self, encode: Callable[[Places], TrainingData], rows: int, *, folder: Path
    ) -> None:
        """`encode` returns rows by their places among so many, on the host."""
        self._encode = encode
        self._rows = rows
        self._folder = folder
        self._lock = threading.Lock()
        self._file: _File | None = None
        self._is_given_up = False
        self._is_written = np.zeros(rows, dtype=np.bool_)

    @property
    def is_whole(self) -> bool:
        """Whether every row has been written, so that none will be encoded again."""
        return self._file is not None and bool(self._is_written.all())

    def __call__(self, places: Places) -> TrainingData:
        """Return the rows at these places, in their order."""
        file = self._file
        try:
            if file is not None and self._is_written[places].all():
                return file.read(places)
            rows = self._encode(places)
            if not self._is_given_up:
                self._opened(rows).write(places, rows)
                self._is_written[places] = True
            return rows
        except OSError:
            self._give_up()
            return self._encode(places)

    def _opened(self, rows: TrainingData) -> _File:
        with self._lock:
            if self._file is None:
                self._file = _File(self._folder, rows, self._rows)
            return self._file

    def _give_up(self) -> None:
        """Do without a copy; the disk has it back once no other thread reads it."""
        with self._lock:
            self._is_given_up = True
            self._file = None
            self._is_written[:] = False


class _File:
    """So many rows in a file without a name: each of their arrays in one piece."""

    def __init__(self, folder: Path, like: TrainingData, rows: int) -> None:
        """`like` are some of the rows; raises OSError where the disk has no room for all."""
        self._names = tuple(like.x.values)
        self._has_weights = like.weights is not None
        self._columns: list[_Column] = []
        end = 0
        for array in _arrays(like):
            column = _Column(begin=end, dtype=array.dtype, shape=array.shape[1:])
            self._columns.append(column)
            end += -(-column.row_bytes * rows // _ALIGNED) * _ALIGNED
        with tempfile.TemporaryFile(dir=folder) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        if end:
            os.posix_fallocate(self._descriptor, 0, end)

    def write(self, places: Places, rows: TrainingData) -> None:
        for column, array in zip(self._columns, _arrays(rows), strict=True):
            for part, place in _runs(places):
                self._write_at(column.begin + place * column.row_bytes, array[part])

    def _write_at(self, offset: int, array: Array) -> None:
        left = _bytes_of(np.ascontiguousarray(array))
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            left, offset = left[written:], offset + written

    def read(self, places: Places) -> TrainingData:
        tensors = []
        for column in self._columns:
            array = np.empty((len(places), *column.shape), dtype=column.dtype)
            for part, place in _runs(places):
                self._read_at(column.begin + place * column.row_bytes, array[part])
            tensors.append(torch.from_numpy(array))
        return self._rows_of(tensors)

    def _read_at(self, offset: int, array: Array) -> None:
        left = _bytes_of(array)
        while left:
            count = os.preadv(self._descriptor, [left], offset)
            if not count:
                raise OSError("a file without a name has been cut")
            left, offset = left[count:], offset + count

    def _rows_of(self, tensors: Sequence[Tensor]) -> TrainingData:
        count = len(self._names)
        y, *others = tensors[count:]
        return TrainingData(
            x=Inputs(dict(zip(self._names, tensors[:count], strict=True))),
            y=y,
            weights=others.pop(0) if self._has_weights else None,
            auxiliary=tuple(others),
        )


def _arrays(rows: TrainingData) -> list[Array]:
    tensors = [*rows.x.values.values(), rows.y]
    if rows.weights is not None:
        tensors.append(rows.weights)
    return [tensor.numpy() for tensor in (*tensors, *rows.auxiliary)]


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _runs(places: Places) -> Iterator[tuple[slice, int]]:
    """Cut places into runs of those that follow each other: which they are, and the first one."""
    begins = np.flatnonzero(np.diff(places, prepend=-2) != 1).tolist()
    for begin, end in zip(begins, [*begins[1:], len(places)], strict=True):
        yield slice(begin, end), int(places[begin])
