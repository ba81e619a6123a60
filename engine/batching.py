"""Requests answered together: one run of the network over the rows of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.data.inputs import Inputs
from engine.prediction import PredictionPlan, never
from engine.summary import Tree

__all__ = ["run_together"]


def run_together(
    plans: Sequence[PredictionPlan],
    xs: Sequence[Inputs],
    row_ids: Sequence[npt.NDArray[np.int64]],
    *,
    stop: Callable[[], bool] = never,
    threads: int = 1,
) -> list[Tree]:
    """Return what each plan's `run` returns for its rows, to the bit, from one run over all rows.

    The plans agree in their `batch_key`; each keeps its seed and `row_offset`. Where `stop` says
    so, StoppedError ends the work of all.
    """
    if len({plan.batch_key for plan in plans}) != 1:
        raise ValueError("plans run together only where their `batch_key` is the same")
    first = plans[0]
    if len(plans) == 1:
        return [first.run(xs[0], row_ids[0], stop=stop, threads=threads)]
    rows = [x[:] for x in xs]
    x = Inputs(
        {name: np.concatenate([own.values[name] for own in rows]) for name in rows[0].values}
    )
    pairs = list(zip(plans, row_ids, strict=True))
    ids = np.concatenate([ids + plan.spec.row_offset for plan, ids in pairs])
    seeds = [plan.seed for plan, ids in pairs for _ in range(len(ids))]
    outputs = first.outputs(x, ids, seeds=seeds, stop=stop, threads=threads)
    return [_rows_of(outputs, part) for part in _slices(rows)]


def _slices(rows: Sequence[Inputs]) -> Iterator[slice]:
    start = 0
    for own in rows:
        yield slice(start, start + len(own))
        start += len(own)


def _rows_of(tree: Tree, rows: slice) -> Tree:
    """Cut some rows out of an answer; `samples` have theirs on the second axis."""
    return {name: _rows_of_one(name, value, rows) for name, value in tree.items()}


def _rows_of_one(name: str, value: Any, rows: slice) -> Any:
    if isinstance(value, dict):
        return _rows_of(value, rows)
    if not isinstance(value, np.ndarray):  # the same for all rows
        return value
    return value[:, rows] if name == "samples" else value[rows]
