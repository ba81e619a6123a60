"""Kept plans: what requests have in common that differ in rows and seed alone, worked out once."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from engine.data.inputs import Inputs
from engine.prediction import Estimate, PredictionPlan
from engine.summary import Tree
from service.answers import answer_of, json_of
from service.limits import check_size

__all__ = ["KeptPlan"]

Key = TypeVar("Key")
Value = TypeVar("Value")

_INLINE_FLOPS = 4e6
"""Less than half a millisecond by the compiled kernels."""
_INLINE_ANSWER = 4096
"""Numbers of an answer that are written in some ten microseconds."""
_SIZES = 256
_WRITTEN = ("dropout", "noise", "drop_connect", "warnings")
"""Parts of an answer that are lists."""


class KeptPlan:
    """A plan, and what its answers for so many rows take; for one thread at a time."""

    def __init__(self, plan: PredictionPlan) -> None:
        self.plan = plan
        self.is_stochastic = plan.draws
        """Whether its passes differ."""
        self._flops: dict[int, float] = {}
        self._small: dict[int, bool] = {}
        self._row_ids: dict[int, npt.NDArray[np.int64]] = {}
        self._answers: dict[str, dict[str, Any]] = {}

    def flops(self, rows: int) -> float:
        """Return about how many operations an answer takes; raises TooLarge."""
        flops = self._flops.get(rows)
        if flops is None:
            flops = _kept(self._flops, rows, check_size(self.plan, rows))
        return flops

    def is_small(self, x: Inputs) -> bool:
        """Whether an answer takes less time than handing it to a thread is worth."""
        rows = len(x)
        small = self._small.get(rows)
        if small is None:
            spec = self.plan.spec
            small = (
                self.flops(rows) <= _INLINE_FLOPS
                and spec.tolerance is None
                and spec.budget_ms is None
                and spec.generate is None
                and not spec.explain
                and self.plan.answer_size(rows) <= _INLINE_ANSWER
                and self.plan.is_compiled(x)
            )
            _kept(self._small, rows, small)
        return small

    def row_ids(self, rows: int) -> npt.NDArray[np.int64]:
        """Return the positions of rows that came with a request; not to be written to."""
        row_ids = self._row_ids.get(rows)
        if row_ids is None:
            row_ids = _kept(self._row_ids, rows, np.arange(rows, dtype=np.int64))
        return row_ids

    def written(self, model_id: str, outputs: Tree, *, seed: int | None, row_offset: int) -> bytes:
        """Write the answer of all passes; `seed` is told where it is not None."""
        answer = self._answers.get(model_id)
        if answer is None:
            passes = self.plan.passes
            estimate = Estimate(num_samples=passes, stopped_by="num_samples", outputs={})
            answer = answer_of(model_id, self.plan, estimate)
            answer |= {name: orjson.Fragment(orjson.dumps(answer[name])) for name in _WRITTEN}
            _kept(self._answers, model_id, answer)
        return json_of({**answer, "outputs": outputs, "seed": seed, "row_offset": row_offset})


def _kept(values: dict[Key, Value], key: Key, value: Value) -> Value:
    if len(values) >= _SIZES:
        values.clear()
    values[key] = value
    return value
