"""Predictions for rows of a stored data set, cut into pieces; each row is as `/predict` has it.

A row's random stream is its number in the data set, so no bit depends on where the rows are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.artifact import Model
from engine.collation import Layout, Rows, passed_through
from engine.cuts import rows_at_once, rows_of_piece
from engine.data.dataset import Data, Limits
from engine.data.inputs import Inputs
from engine.data.lengths import stored_steps
from engine.data.ranges import Outside
from engine.ensembles import plan_model
from engine.errors import DataError, SpecError
from engine.prediction import PredictionPlan
from engine.spec import PredictSpec
from engine.streams import STREAM_VERSION
from engine.tabulation import blocks_of

__all__ = ["Batch", "Piece"]

Numbers = npt.NDArray[np.int64]

ROW = "row"
"""The column that says which rows were predicted, where not all rows can be."""
MAX_CELLS = Limits().max_cells


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows to compute, one after another in the data set or in the request's `rows`."""

    count: int
    compute: Callable[[Callable[[], bool]], Rows]
    """Compute them; where its argument says so, StoppedError ends the work."""
    outside: Outside | None
    """Those outside the range of the training rows."""


class Batch:
    """A request for many rows, resolved against its model and data set."""

    def __init__(
        self,
        spec: PredictSpec,
        *,
        seed: int,
        model: Model,
        data: Data,
        rows: Numbers | None = None,
        key: str | None = None,
    ) -> None:
        """Raise EngineError, with a pointer, for what cannot be predicted so; see also `check`."""
        _refuse_online(spec)
        self._data = data
        self._key = key
        with _Located():
            self.model = model.of_steps(stored_steps(model.encoding, data))
        self.plan: PredictionPlan = plan_model(self.model, spec, seed=seed)
        if rows is not None:
            _require_rows(rows, data.rows)
        with _Located():
            if rows is None and self.model.encoding.sequence is not None:
                rows = self.model.encoding.stored_rows(data)
        self._row_ids = rows
        self.total = data.rows if rows is None else len(rows)
        _check_size(self.plan, self.total)
        self.layout = self._layout()

    def check(self) -> None:
        """Read all rows as they will be read; raise DataError for those that cannot be."""
        for first, last in self._chunks(0):
            self._encoded(first, last)
            self.layout.check(self._passed(self._ids(first, last)))

    def pieces(self, done: int = 0) -> Iterator[Piece]:
        """Yield what is to be computed after the first `done` rows."""
        for x, ids in self.parts(done):
            yield self._piece(x, ids)

    def parts(self, done: int = 0) -> Iterator[tuple[Inputs, Numbers]]:
        """Yield the rows after the first `done`, and their numbers, so many at a time."""
        size = rows_of_piece(flops=self.plan.cost(1)[0], numbers=self.plan.answer_size(1))
        for first, last in self._chunks(done):
            x, ids = self._encoded(first, last), self._ids(first, last)
            for start in range(0, last - first, size):
                some = slice(start, start + size)
                yield x[some], ids[some]

    def describe(self) -> dict[str, Any]:
        """Return what acts, as an answer of `/predict` says it."""
        plan = self.plan
        return {
            "dropout": plan.dropout(),
            "noise": plan.noise(),
            "drop_connect": plan.drop_connect(),
            "num_samples": plan.num_samples,
            "seed": plan.seed,
            "masks": plan.spec.masks,
            "row_offset": plan.spec.row_offset,
            "stream": STREAM_VERSION,
        }

    # -- rows --------------------------------------------------------------------------------------

    def _piece(self, x: Inputs, ids: Numbers) -> Piece:
        def compute(stop: Callable[[], bool]) -> Rows:
            blocks = blocks_of(self.plan.run(x, ids, stop=stop), self.model)
            return self.layout.rows(blocks, self._passed(ids))

        outside = self.model.encoding.ranges.outside(x)
        return Piece(count=len(ids), compute=compute, outside=outside)

    def _chunks(self, done: int) -> Iterator[tuple[int, int]]:
        """Cut the rows into those that are read at once."""
        size = rows_at_once(self.model.encoding.input_shapes.values())
        for first in range(done, self.total, size):
            yield first, min(first + size, self.total)

    def _ids(self, first: int, last: int) -> Numbers:
        """Return the numbers in the data set of these rows of the request."""
        if self._row_ids is None:
            return np.arange(first, last, dtype=np.int64)
        return self._row_ids[first:last]

    def _encoded(self, first: int, last: int) -> Inputs:
        with _Located(first):
            return self.model.encoding.encode_inputs(self._data, self._ids(first, last))

    def _passed(self, ids: Numbers) -> dict[str, pa.Array]:
        passed: dict[str, pa.Array] = {}
        if self._key is not None:
            passed[self._key] = passed_through(self._data, self._key, ids, pointer="#/key")
        if self.model.encoding.sequence is not None:
            if self._key == ROW:
                raise DataError(
                    f"the result of sequences has a column {ROW!r} of its own; rename the key",
                    pointer="#/key",
                )
            passed[ROW] = pa.array(ids)
        return passed

    def _layout(self) -> Layout:
        """Find what the result consists of by computing its first row, with few passes."""
        passes = self.plan.num_samples
        few = self.plan if passes is None else self.plan.of_passes(min(passes, 2))
        ids = self._ids(0, 1)
        outputs = few.run(self._encoded(0, 1), ids)
        layout = Layout.of(
            blocks_of(outputs, self.model),
            self._passed(ids),
            rank=len(self.model.graph.last.shape),
            classes=self.model.encoding.classes,
        )
        if layout.schema is not None and self.total * len(layout.schema) > MAX_CELLS:
            raise _too_large(self.total * len(layout.schema))
        return layout


class _Located:
    """Has errors in the data point into the request."""

    def __init__(self, first: int = 0) -> None:
        self._first = first

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, DataError):
            return
        head, _, row = error.pointer.partition("#/inputs/rows/")
        pointer = "#/inputs/dataset"
        if not head and row.isdecimal():
            pointer = f"#/inputs/rows/{self._first + int(row)}"
        raise DataError(error.detail, pointer=pointer) from error


def _require_rows(rows: Numbers, count: int) -> None:
    beyond = rows >= count
    if beyond.any():
        at = int(np.argmax(beyond))
        raise DataError(
            f"a row number is an integer from 0 to {count - 1}, got {int(rows[at])}",
            pointer=f"#/inputs/rows/{at}",
        )


def _refuse_online(spec: PredictSpec) -> None:
    """Refuse what only a single answer can have."""
    if spec.start is not None:
        raise SpecError(
            "with `start` the inputs are a hidden layer's values, and a stored data set holds what "
            "the input layers read; ask POST /predict",
            pointer="#/start",
        )
    if spec.explain:
        raise SpecError(
            "variances are explained online only; ask POST /predict", pointer="#/explain"
        )
    if spec.generate is not None:
        raise SpecError("sequences go on online only; ask POST /predict", pointer="#/generate")
    for name in ("tolerance", "budget_ms"):
        if getattr(spec, name) is not None:
            raise SpecError(
                f"a job draws `num_samples` passes for every row; `{name}` is for POST /predict",
                pointer=f"#/{name}",
            )
    if spec.statistics is not None and "covariance" in spec.statistics:
        raise SpecError(
            "the `covariance` is of rows with each other, and a job computes them one by one; ask "
            "POST /predict",
            pointer=f"#/statistics/{spec.statistics.index('covariance')}",
        )


def _check_size(plan: PredictionPlan, rows: int) -> None:
    numbers = plan.answer_size(rows)
    if numbers > MAX_CELLS:
        raise _too_large(numbers)


def _too_large(numbers: int) -> DataError:
    return DataError(
        f"the result would hold about {numbers} numbers, and a data set holds at most "
        f"{MAX_CELLS}; ask for fewer rows at a time, or fewer `statistics` and `outputs`",
        pointer="#/inputs",
    )
