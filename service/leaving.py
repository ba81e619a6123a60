"""What an attempt at a job leaves: its end, with a model or data set, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.checkpoints import write_checkpoint
from service.errors import StorageFull
from service.journal import Said
from service.steps import NewModel, Step, TaskResult
from service.store.blobs import Blobs, checkpoint_key, model_key
from service.store.database import new_id
from service.store.datasets import Datasets, StagedDataset
from service.store.jobs import Checkpoint, Job, Jobs, Status
from service.store.models import NewModelRow

__all__ = ["Leaving"]


class Leaving:
    """Ends one job, whose claim holds; what a try without room has not stored is stored anew."""

    def __init__(self, job: Job, *, jobs: Jobs, datasets: Datasets, blobs: Blobs) -> None:
        self._job = job
        self._jobs = jobs
        self._datasets = datasets
        self._blobs = blobs

    def write_state(self, step: Step | None) -> Checkpoint | None:
        """Write where the attempt stands, for jobs that go on from there; None where none can."""
        if step is None or step.snapshot is None or not step.is_resumable:
            return None
        key = checkpoint_key(self._job.id, self._job.attempts)
        write_checkpoint(self._blobs, key, step.snapshot()())
        return Checkpoint(key, step.epoch)

    def leave(
        self, status: Status, result: TaskResult | None, *, said: Said, state: Checkpoint | None
    ) -> Job:
        """End the job with what was `said` last, the result and the state; raises LeaseLost."""
        metrics = None if result is None else result.metrics
        if result is not None and result.model is not None:
            return self._leave_model(status, result.model, metrics, said=said, state=state)
        staged = None
        if result is not None and result.dataset is not None:
            staged = self._datasets.stage(result.dataset.dataset, result.dataset.file)
        return self.end(status, said=said, metrics=metrics, dataset=staged, state=state)

    def _leave_model(
        self,
        status: Status,
        model: NewModel,
        metrics: Mapping[str, Any] | None,
        *,
        said: Said,
        state: Checkpoint | None,
    ) -> Job:
        model_id = new_id("mdl")
        key = model_key(model_id)
        self._blobs.put_bytes(key, model.weights)
        row = NewModelRow(
            id=model_id,
            name=model.name,
            owner=self._job.owner,
            document=model.document,
            weights=key,
        )
        try:
            ended = self.end(status, said=said, metrics=metrics, model=row, state=state)
        except BaseException:
            self._blobs.delete(key)
            raise
        if ended.model != model_id:  # cancelled at the last moment
            self._blobs.delete(key)
        return ended

    def end(
        self,
        status: Status,
        *,
        said: Said,
        metrics: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        model: NewModelRow | None = None,
        dataset: StagedDataset | None = None,
        state: Checkpoint | None = None,
    ) -> Job:
        """End the job by its row; where that fails the state is gone, unless there was no room."""
        try:
            ended = self._jobs.finish(
                self._job,
                status,
                events=said.events,
                progress=said.progress,
                metrics=metrics or said.metrics,
                error=error,
                model=model,
                dataset=dataset,
                checkpoint=state,
            )
        except StorageFull:
            raise  # it is tried again, with the same state
        except BaseException:
            if state is not None:
                self._blobs.delete(state.key)
            raise
        self._blobs.delete_parts(self._job.id)
        return ended
