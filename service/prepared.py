"""Prepared requests for predictions: plan and rows, until their answer is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from engine.data.inputs import Inputs
from engine.data.ranges import Outside
from engine.explanation import Explanation
from engine.generation import Generation
from engine.prediction import Estimate, PredictionPlan, never
from engine.spec import PredictSpec
from engine.summary import Tree
from service.answer_tables import STREAM, arrow_of
from service.answers import answer_of, json_of, outside_of
from service.kept_plans import KeptPlan
from service.latencies import Took

__all__ = ["INLINE_BYTES", "PredictRequest", "Prepared"]

INLINE_BYTES = 16_384
"""Of a request, whose rows are encoded in about a quarter of a millisecond."""


class PredictRequest(PredictSpec):
    """What to predict, with which model, and what to report of it."""

    model: Annotated[str, Field(min_length=1, max_length=64)]
    """Id or alias of the model."""
    inputs: Annotated[
        list[Any] | dict[str, Any],
        Field(examples=[[[0.1, 0.2]], [{"age": 40, "bmi": 23.1}], {"age": [40], "bmi": [23.1]}]),
    ]
    """Rows as lists or objects, one object of columns, or rows of a stored data set."""

    def spec(self) -> PredictSpec:
        """Return the engine's part of the request."""
        return PredictSpec.model_construct(
            **{name: getattr(self, name) for name in PredictSpec.model_fields}
        )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A request with all that its answer needs."""

    model_id: str
    kept: KeptPlan
    """What was worked out for requests like this one."""
    plan: PredictionPlan
    generation: Generation | None
    explanation: Explanation | None
    x: Inputs
    row_ids: npt.NDArray[np.int64]
    flops: float
    shows_seed: bool
    shows_rows: bool
    media_type: str = "application/json"
    """Of the answer: JSON or an Arrow stream."""
    took: Took = field(default_factory=Took)
    """What it has taken so far."""

    @property
    def is_small(self) -> bool:
        """Whether the answer takes less time than handing it to a thread is worth."""
        return self.generation is None and self.kept.is_small(self.x)

    @property
    def held(self) -> int:
        """Bytes of its rows."""
        return sum(getattr(values, "nbytes", 0) for values in self.x.values.values())

    @cached_property
    def _outside(self) -> Outside | None:
        return self.plan.model.encoding.ranges.outside(self.x)

    def content(self, estimate: Estimate, explained: dict[str, Any] | None = None) -> bytes:
        """Write the answer, with what explains its variance where that was asked for."""
        began = time.perf_counter()
        answer = answer_of(self.model_id, self.plan, estimate)
        answer["seed"] = self.plan.seed if self.shows_seed else None
        if self._outside is not None:
            answer |= outside_of(self._outside, self.row_ids, answer["warnings"])
        if explained is not None:
            answer["explain"] = explained
        if self.shows_rows:
            answer["rows"] = self.row_ids.tolist()
        is_arrow = self.media_type == STREAM
        content = arrow_of(answer, self.plan.model) if is_arrow else json_of(answer)
        self.took.encode_s += time.perf_counter() - began
        self.took.passes = estimate.num_samples if self.kept.is_stochastic else 0
        return content

    def content_of(self, outputs: Tree, compute_s: float) -> bytes:
        """Write the answer of all passes, which were computed in so many seconds."""
        self.took.compute_s = compute_s
        passes = self.plan.passes
        return self.content(Estimate(num_samples=passes, stopped_by="num_samples", outputs=outputs))

    # -- in a thread -------------------------------------------------------------------------------

    def compute(self, stop: Callable[[], bool], late: Callable[[], bool], threads: int) -> bytes:
        began = time.perf_counter()
        if self.generation is not None:
            outputs = self.generation.run(self.x, self.row_ids, stop=stop, threads=threads)
            return self.content_of(outputs, time.perf_counter() - began)
        estimate = self.plan.answer(self.x, self.row_ids, stop=stop, late=late, threads=threads)
        explained = self._explained(estimate, stop, threads)
        self.took.compute_s = time.perf_counter() - began
        return self.content(estimate, explained)

    def _explained(
        self, estimate: Estimate, stop: Callable[[], bool], threads: int
    ) -> dict[str, Any] | None:
        if self.explanation is None:
            return None
        return self.explanation.run(
            self.x,
            self.row_ids,
            estimate.outputs,
            passes=estimate.num_samples,
            stop=stop,
            threads=threads,
        )

    def sharpen(
        self,
        stop: Callable[[], bool],
        late: Callable[[], bool],
        tell: Callable[[bytes], None],
        threads: int,
    ) -> bytes:
        """Compute the answer, telling what is known on the way."""
        if self.generation is not None or self.plan.num_samples is None:
            return self.compute(stop, late, threads)
        content, began, before = b"", time.perf_counter(), self.took.encode_s
        for estimate in self.plan.estimates(
            self.x, self.row_ids, stop=stop, late=late, threads=threads
        ):
            if estimate.stopped_by is None:
                tell(self.content(estimate))
            else:
                content = self.content(estimate, self._explained(estimate, stop, threads))
        encoded_s = self.took.encode_s - before
        self.took.compute_s = time.perf_counter() - began - encoded_s
        return content

    def deadline(self, arrived: float) -> Callable[[], bool]:
        """Return what says whether the time of a request is up."""
        budget_ms = self.plan.spec.budget_ms
        if budget_ms is None:
            return never
        end = arrived + budget_ms / 1e3
        return lambda: time.monotonic() >= end
