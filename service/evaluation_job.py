"""The job that measures a model on rows of a stored data set.

Rows are measured in pieces, by a thread, so that the job can be stopped within one; a checkpoint
holds the sums so far, and what ranks the rows.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from engine.assessment import Piece
from engine.errors import ArtifactError
from engine.spec import EvaluateSpec
from service.evaluations import answer_of, assess
from service.prediction_job import loaded
from service.steps import Step, TaskContext, TaskResult, attend
from service.store.jobs import Job

__all__ = ["evaluate"]


def evaluate(job: Job, context: TaskContext) -> Iterator[Step]:
    """Measure the job's rows, from its checkpoint if there is one."""
    run = _Run(job, context)
    if context.checkpoint is None:
        yield Step(events=run.opening_events(), progress=run.progress())
    else:
        run.restore(context.checkpoint)
    with ThreadPoolExecutor(max_workers=1) as thread:
        for piece in run.assessment.pieces(run.done):
            keep = yield from attend(thread, partial(_measured, piece, context.threads), run.step)
            keep()
            run.done += piece.count
            yield run.step()
        metrics = yield from attend(thread, lambda _: run.metrics(), run.step)
    yield Step(progress=run.progress(), metrics=metrics, result=lambda: TaskResult(metrics=metrics))


def _measured(piece: Piece, threads: int, stop: Callable[[], bool]) -> Callable[[], None]:
    return piece.measure(stop, threads)


class _Run:
    """One attempt at an evaluation: what is done, and what is said of it."""

    def __init__(self, job: Job, context: TaskContext) -> None:
        spec = job.spec
        other = spec.get("ood")
        self._job = job
        self.assessment = assess(
            EvaluateSpec.model_validate(
                {k: spec[k] for k in EvaluateSpec.model_fields if k in spec}
            ),
            model=loaded(context, spec["model"]),
            data=context.data(spec["dataset"]),
            other=None if other is None else context.data(other["dataset"]),
            seed=spec["seed"],
        )
        self.done = 0
        """How many rows are done."""
        self._started = time.monotonic()
        self._done_before = 0

    def snapshot(self) -> Callable[[], bytes]:
        """Copy what was measured; return what writes it."""
        state: dict[str, Any] = {"done": np.array([self.done]), **self.assessment.state()}

        def write() -> bytes:
            file = io.BytesIO()
            np.savez(file, **state)
            return file.getvalue()

        return write

    def restore(self, checkpoint: bytes) -> None:
        """Go on from where an earlier attempt was; ArtifactError where that cannot be read."""
        try:
            with np.load(io.BytesIO(checkpoint), allow_pickle=False) as archive:
                state = dict(archive)
            self.done = self._done_before = int(state.pop("done")[0])
            self.assessment.restore(state)
        except (ValueError, KeyError, OSError) as error:
            raise ArtifactError("what was measured cannot be read") from error

    def metrics(self) -> dict[str, Any]:
        """Return what `/evaluate` would have answered."""
        spec = self._job.spec
        answer = answer_of(
            self.assessment,
            model_id=spec["model"],
            dataset_id=spec["dataset"],
            is_seed_given=True,
        )
        return {"test": answer}

    def opening_events(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Say what is about to be measured."""
        plan = self.assessment.plan
        passes = "" if plan.num_samples is None else f" by {plan.num_samples} passes"
        message = (
            f"measuring model {self._job.spec['model']} on {self.assessment.total} rows{passes}"
        )
        warnings = [("log", {"message": f"warning: {text}"}) for text in plan.warnings]
        return (("log", {"message": message}), *warnings)

    def step(self) -> Step:
        """Describe where the evaluation stands."""
        return Step(progress=self.progress(), epoch=self.done, snapshot=self.snapshot)

    def progress(self) -> Mapping[str, Any]:
        """Return the job's progress; the rate is that of this attempt."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._done_before) / elapsed
        left = self.assessment.total - self.done
        return {
            "phase": "evaluating",
            "completed": self.done,
            "total": self.assessment.total,
            "unit": "rows",
            "rows_per_second": round(rate, 1),
            "eta_seconds": round(left / rate, 1) if rate > 0 else None,
        }
