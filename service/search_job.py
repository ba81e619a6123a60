"""Search jobs: all variants of a training job, what is said of them, and the model of the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from engine.ensembles import ensemble_document
from engine.errors import EngineError
from engine.plan import TrainingPlan
from engine.run import Outcome, TrainingRun
from engine.search import RefitEvent, Search, SearchEvent, Selected, VariantEvent
from engine.search_plan import SearchPlan, plan_search
from engine.spec import SearchSpec
from service.model_calibration import ModelCalibration, progress
from service.steps import NewModel, Step, TaskContext, TaskResult
from service.store.jobs import Job
from service.training_job import (
    JobData,
    NewEvent,
    device_of,
    event_of,
    job_data,
    new_model,
    opening_events,
    patiently,
    resident_bytes,
    train_spec,
)

__all__ = ["search"]

_EPOCHS_AT_ONCE = 1000
"""Told by one step."""


def search(job: Job, context: TaskContext) -> Iterator[Step]:
    """Train the variants of a job, from its checkpoint if there is one, and keep the best."""
    spec = train_spec(job.spec)
    data = job_data(job, spec, context)
    plan = yield from patiently(
        partial(
            plan_search,
            SearchSpec.model_validate(job.spec["search"]),
            spec,
            data.own,
            data.validation,
            calibration_data=data.calibration,
            schema=context.schema(job.spec["dataset"]),
            resident_bytes=resident_bytes(job),
        )
    )
    run = _SearchJob(job, plan, data, context)
    if context.checkpoint is None:
        yield Step(events=run.opening_events())
    else:
        run.restore(context.checkpoint)
    try:
        for event in run.search:
            run.hear(event)
            if isinstance(event, Selected):
                yield replace(run.step(), is_milestone=True)
            elif context.wants_step(at_epoch=True):  # of one variant or another
                yield run.step()
    except EngineError:
        yield Step(events=run.say())
        raise
    yield from run.told_epochs()
    yield from run.measure()
    yield from run.calibrate()
    yield replace(run.step(), result=run.result)


class _SearchJob:
    """One attempt at a search job: its search, and what is said of its progress."""

    def __init__(
        self,
        job: Job,
        plan: SearchPlan,
        data: JobData,
        context: TaskContext,
    ) -> None:
        self._job = job
        self._plan = plan
        self._device = device_of(plan.variants[0].plan.spec)
        threads = context.threads if self._device.type == "cpu" else 1
        self.search = Search(
            plan,
            data.own,
            data.validation,
            calibration_data=data.calibration,
            device=self._device,
            threads=threads,
            scratch=context.scratch,
        )
        self._calibration = ModelCalibration(data.own, data.calibration, threads=context.threads)
        self._started = time.monotonic()
        self._rows_before = 0
        self._refit_begun: tuple[float, int] | None = None
        """When this attempt began to train the best once more, and how many rows were done."""
        self._is_chosen_told = False
        """Whether it has been said which variant was chosen."""
        self._unsaid: list[NewEvent] = []
        """What the next step says."""

    def restore(self, checkpoint: bytes) -> None:
        """Go on from an earlier attempt's checkpoint."""
        self.search.restore(checkpoint)
        self._rows_before = self.search.rows_done
        self._is_chosen_told = self.search.refit is not None

    def snapshot(self) -> Callable[[], bytes]:
        """Copy all that changes in the search; see `Snapshot`."""
        return self.search.snapshot().to_bytes

    def opening_events(self) -> tuple[NewEvent, ...]:
        """Say what is about to be searched."""
        rows = len(self._plan.variants[0].plan.split.train)
        message = (
            f"{len(self._plan.variants)} variants, {rows} training and "
            f"{self._plan.variants[0].plan.valid_rows} validation rows, on {self._device.type}; "
            f"{self._plan.select} decides; {self._plan.variants[0].plan.loading.told}"
        )
        return (("log", {"message": message, "select": self._plan.select}),)

    def hear(self, event: SearchEvent) -> None:
        """Keep what there is to say of an event for the next step."""
        self._unsaid.extend(self._events(event))

    def say(self) -> tuple[NewEvent, ...]:
        """Return what was kept for the next step, which is to say it."""
        said, self._unsaid = tuple(self._unsaid), []
        return said

    def step(self) -> Step:
        """Describe where the search stands."""
        refit = self.search.refit
        epochs = self.search.epochs + (0 if refit is None else refit.staged.epochs)
        return Step(
            events=self.say(),
            progress=self._progress(),
            metrics=self._metrics() or None,
            epoch=epochs,
            snapshot=self.snapshot,
            result=self.result if self.search.epochs else None,
        )

    def _events(self, event: SearchEvent) -> Iterator[NewEvent]:
        if isinstance(event, VariantEvent):
            overrides = self._plan.variants[event.index].variant.overrides
            yield "variant", {"index": event.index, "overrides": overrides, **event.standing.told()}
        elif isinstance(event, RefitEvent):
            yield from event_of(event.event)
        elif isinstance(event, Selected) and not self._is_chosen_told:
            self._is_chosen_told = True
            yield "selected", {"variant": event.index, "by": self._plan.select}
            refit = self.search.refit
            plan = self._plan.variants[event.index].plan if refit is None else refit.plan
            yield from opening_events(plan, self._device, refit)

    def told_epochs(self) -> Iterator[Step]:
        """Tell the epochs of the best, where it is not trained once more, which would tell them."""
        epochs = self.search.best_epochs()
        while some := tuple(islice(epochs, _EPOCHS_AT_ONCE)):
            self._unsaid.extend(told for epoch in some for told in event_of(epoch))
            yield self.step()

    def _progress(self) -> dict[str, Any]:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = (self.search.rows_done - self._rows_before) / elapsed
        refit = self.search.refit
        if refit is not None:
            return self._progress_of(refit)
        done, total = self.search.epochs, self._plan.epochs
        left = max(0, total - done) * len(self._plan.variants[0].plan.split.train)
        running = {str(index): epochs for index, epochs in self.search.running.items()}
        return _told("searching", done, max(done, total), rate, left) | {"running": running}

    def _progress_of(self, refit: TrainingRun) -> dict[str, Any]:
        now, rows = time.monotonic(), refit.staged.rows_done
        if self._refit_begun is None:
            self._refit_begun = (now, rows)
        begun, before = self._refit_begun
        rate = (rows - before) / max(now - begun, 1e-9)
        done, total = refit.staged.epochs, refit.plan.spec.epochs
        left = (total + refit.staged.stage_epochs[1]) * len(refit.plan.split.train) - rows
        return _told("refitting", done, total, rate, left)

    def _metrics(self) -> dict[str, Any]:
        found = self.search.metrics()
        best = found.get("search", {})
        return {name: best[name] for name in ("train", "valid") if name in best} | found

    def measure(self) -> Iterator[Step]:
        """Measure the ensemble that the search leaves, if it leaves one, on the validation rows."""
        if len(self.search.members()) < 2:
            return
        for done in self.search.together().pieces():
            told = _told("evaluating", round(100 * done), 100, None, None) | {"unit": "%"}
            yield replace(self.step(), progress=told)

    def calibrate(self) -> Iterator[Step]:
        """Calibrate the model that the search leaves, if that is asked for."""
        made = self._made()
        if made is None or made[1].spec.calibrate is None:
            return
        yield from self._calibration.steps(*made, self._calibrating)

    def _calibrating(self, done: int, total: int) -> Step:
        return replace(self.step(), progress=progress(done, total))

    def result(self) -> TaskResult:
        """Return the model of the best so far, or of all that have come to their end."""
        made = self._made()
        if made is None:
            return TaskResult()
        model = self._calibration.of(*made)
        return TaskResult(metrics=model.document["metrics"], model=model)

    def _made(self) -> tuple[NewModel, TrainingPlan] | None:
        """Return the model that the search leaves if it ends here, and a plan with its rows."""
        members = self.search.members()
        if not members:
            return None
        told = self.search.metrics()
        if len(members) == 1:
            plan, outcome = members[0]
            outcome = replace(outcome, metrics=outcome.metrics | told)
            model = new_model(self._job, plan, outcome)
        else:
            model = self._ensemble(members, told)
        return model, members[0][0]

    def _ensemble(
        self, members: list[tuple[TrainingPlan, Outcome]], told: dict[str, Any]
    ) -> NewModel:
        documents = [
            (new_model(self._job, plan, outcome).document, outcome.parameters)
            for plan, outcome in members
        ]
        metrics = self.search.together().metrics() | told
        document, weights = ensemble_document(documents, metrics)
        return NewModel(name=self._job.name, document=document, weights=weights)


def _told(
    phase: str, completed: int, total: int, rate: float | None, rows_left: int | None
) -> dict[str, Any]:
    return {
        "phase": phase,
        "completed": completed,
        "total": total,
        "unit": "epoch",
        "rows_per_second": None if rate is None else round(rate, 1),
        "eta_seconds": round(rows_left / rate, 1) if rate and rows_left is not None else None,
    }
