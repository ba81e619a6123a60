"""The job that predicts for rows of a stored data set and leaves another.

Rows are computed in pieces, by a thread, so that the job can be stopped within one; what is done is
kept in parts, each written once, and a checkpoint names the parts.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from engine.artifact import Model, load_model
from engine.collation import Rows, collate
from engine.data.ranges import Outside
from engine.data.schema import Schema
from engine.errors import ArtifactError
from engine.spec import PredictSpec
from service.batch import Batch, Piece
from service.errors import Corrupt
from service.steps import NewContent, Step, TaskContext, TaskResult, attend
from service.store.blobs import dataset_key
from service.store.datasets import NewDataset
from service.store.jobs import Job

__all__ = ["loaded", "predict"]

_PENDING_BYTES = 32 * 2**20
"""Rows that are done but not yet written."""
_SUFFIXES = {"table": "arrow", "arrays": "npz"}


def predict(job: Job, context: TaskContext) -> Iterator[Step]:
    """Predict for the job's rows, from its checkpoint if there is one."""
    run = _Run(job, context)
    if context.checkpoint is None:
        yield Step(events=run.opening_events(), progress=run.progress("predicting"))
    else:
        run.restore(context.checkpoint)
    # One thread for all: each new one would leave memory behind.
    with ThreadPoolExecutor(max_workers=1) as thread:
        for piece in run.batch.pieces(run.done):
            rows = yield from attend(thread, piece.compute, run.step)
            run.add(rows, piece)
            yield run.step()
        run.write_part()
        yield replace(run.step(), is_milestone=True, events=run.closing_events())
        result = yield from attend(thread, lambda _: run.result(), run.storing)
    yield replace(run.storing(), result=lambda: result)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows that are done and written."""

    key: str
    rows: int
    sha256: str


class _Run:
    """One attempt at a prediction job: what is done, and what is said of it."""

    def __init__(self, job: Job, context: TaskContext) -> None:
        spec = job.spec
        self._job = job
        self._context = context
        rows = spec["inputs"].get("rows")
        self.batch = Batch(
            PredictSpec.model_validate({k: spec[k] for k in PredictSpec.model_fields if k in spec}),
            seed=spec["seed"],
            model=loaded(context, spec["model"]),
            data=context.data(spec["inputs"]["dataset"]),
            rows=None if rows is None else np.array(rows, dtype=np.int64),
            key=spec.get("key"),
        )
        self._parts: list[_Part] = []
        self._pending: list[Rows] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._outside = Outside()
        self._started = time.monotonic()
        self._done_before = 0

    @property
    def done(self) -> int:
        """How many rows are done."""
        return sum(part.rows for part in self._parts) + self._pending_rows

    def add(self, rows: Rows, piece: Piece) -> None:
        """Take the rows of a piece that has been computed, and write them once there are many."""
        self._pending.append(rows)
        self._pending_rows += piece.count
        if piece.outside is not None:
            self._outside.rows += piece.outside.rows
            self._outside.inputs += piece.outside.inputs
        self._pending_bytes += sum(column.nbytes for column in rows.values())
        if self._pending_bytes >= _PENDING_BYTES:
            self.write_part()

    def write_part(self) -> None:
        """Write the rows that are done but not yet written."""
        if not self._pending:
            return
        pending = self._pending
        key = self._context.put_part(lambda stream: self.batch.layout.write(pending, stream))
        self._parts.append(_Part(key=key, rows=self._pending_rows, sha256=_sha256(self._path(key))))
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def _path(self, key: str) -> Path:
        path = self._context.part(key)
        if path is None:
            raise ArtifactError("rows that were done are missing")
        return path

    def snapshot(self) -> Callable[[], bytes]:
        """Write what is done; what is left to be kept is the names of its parts."""
        self.write_part()
        outside = {"rows": self._outside.rows, "inputs": self._outside.inputs}
        parts = [vars(part) for part in self._parts]
        kept = orjson.dumps({"parts": parts, "outside": outside})
        return lambda: kept

    def restore(self, checkpoint: bytes) -> None:
        """Go on from an earlier attempt's parts; ArtifactError where they are not as written."""
        kept = orjson.loads(checkpoint)
        parts = [_Part(**part) for part in kept["parts"]]
        if any(_sha256(self._path(part.key)) != part.sha256 for part in parts):
            raise ArtifactError("rows that were done are damaged")
        self._parts = parts
        outside = kept.get("outside", {"rows": 0, "inputs": {}})
        self._outside = Outside(rows=outside["rows"], inputs=Counter(outside["inputs"]))
        self._done_before = self.done

    # -- what is told ------------------------------------------------------------------------------

    def opening_events(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Say what is about to be computed, as an answer of `/predict` would."""
        plan = self.batch.plan
        passes = "" if plan.num_samples is None else f" by {plan.num_samples} passes"
        message = f"predicting {self.batch.total} rows{passes} with model {self._job.spec['model']}"
        opening = ("log", {"message": message, "prediction": self.batch.describe()})
        warnings = [("log", {"message": f"warning: {text}"}) for text in plan.warnings]
        return (opening, *warnings)

    def closing_events(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Say how many rows were unlike those of training."""
        if not self._outside.rows:
            return ()
        return (("log", {"message": f"warning: {self._outside.told()}"}),)

    def step(self) -> Step:
        """Describe where the prediction stands."""
        return Step(
            progress=self.progress("predicting"),
            epoch=self.done,
            snapshot=self.snapshot,
            result=self.result,
        )

    def storing(self) -> Step:
        """Describe the end, when all rows are done and are put together."""
        return replace(self.step(), progress=self.progress("storing"), result=None)

    def progress(self, phase: str) -> Mapping[str, Any]:
        """Return the job's progress; the rate is that of this attempt."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.done - self._done_before) / elapsed
        left = self.batch.total - self.done
        return {
            "phase": phase,
            "completed": self.done,
            "total": self.batch.total,
            "unit": "rows",
            "rows_per_second": round(rate, 1),
            "eta_seconds": round(left / rate, 1) if rate > 0 else None,
        }

    # -- what is left ------------------------------------------------------------------------------

    def result(self) -> TaskResult:
        """Return the rows that are done as a data set; nothing where none are."""
        self.write_part()
        if not self._parts:
            return TaskResult()
        file = self._context.temporary()
        kind = self.batch.layout.kind
        schema: Schema = collate(kind, [self._path(part.key) for part in self._parts], file)
        sha256 = _sha256(file)
        dataset = NewDataset(
            kind=kind,
            rows=schema.rows,
            schema=schema.model_dump(mode="json"),
            bytes=file.stat().st_size,
            sha256=sha256,
            blob=dataset_key(sha256, _SUFFIXES[kind]),
            name=self._job.name,
            owner=self._job.owner,
        )
        return TaskResult(dataset=NewContent(dataset=dataset, file=file))


def loaded(context: TaskContext, model_id: str) -> Model:
    """Return a stored model; raises Corrupt."""
    try:
        return load_model(*context.model(model_id))
    except ArtifactError as error:
        raise Corrupt(
            f"model {model_id} cannot be loaded: its stored weights are damaged"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
