"""Queueing: what is answered to those who queue a job, or wait for one."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Protocol

from fastapi import Depends, Header, Request, Response
from starlette.concurrency import run_in_threadpool

from engine.artifact import Model
from engine.spec import MAX_SEED
from service.deps import (
    IdempotencyHeader,
    JobsDep,
    ModelsDep,
    OwnerDep,
    PredictorDep,
    SettingsDep,
)
from service.errors import Corrupt, Invalid, NotFound
from service.idempotency import answer_once, created
from service.job_options import Limits
from service.schemas.jobs import JobView
from service.settings import Settings
from service.shutdown import Shutdown
from service.store.idempotency import Answer, Remember
from service.store.jobs import Job, Jobs, NewJob
from service.store.models import Model as StoredModel

__all__ = [
    "ModelJobsDep",
    "PreferHeader",
    "answer_queued",
    "check_memory",
    "pause_s",
    "preferred_wait",
    "wait_for_change",
    "wait_for_end",
]

MAX_WAIT_S = 60.0
_LEAST_PAUSE_S = 0.025
_LONGEST_PAUSE_S = 0.5
_STEADY_PAUSE_S = 0.1

PreferHeader = Annotated[
    str | None,
    Header(description="`wait=20` holds the answer until the job ends, at most so long."),
]


class _Asked(Protocol):
    """What a job that needs a model is asked with."""

    @property
    def name(self) -> str | None: ...

    @property
    def tags(self) -> dict[str, Any]: ...

    @property
    def seed(self) -> int | None: ...

    @property
    def limits(self) -> Limits | None: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


class _ModelJobs:
    """Queues jobs that need a model, once they have been checked as a whole."""

    def __init__(
        self,
        request: Request,
        jobs: JobsDep,
        models: ModelsDep,
        predictor: PredictorDep,
        owner: OwnerDep,
        settings: SettingsDep,
        prefer: PreferHeader = None,
        idempotency_key: IdempotencyHeader = None,
    ) -> None:
        self._request = request
        self._jobs = jobs
        self._models = models
        self._predictor = predictor
        self._owner = owner
        self._settings = settings
        self._prefer = prefer
        self._key = idempotency_key

    async def answer(
        self,
        kind: str,
        body: _Asked,
        model: str,
        check: Callable[[StoredModel, Model, int], dict[str, str]],
        *,
        names_it: bool = False,
    ) -> Response:
        """Queue a job of this kind for the model of this id or alias, and answer 202.

        `check` raises for what cannot be done, given the seed of the job, and returns the data sets
        that it needs, with pointers to them. Its spec has the model's id and the seed, also where
        an alias and none were given. `names_it` has the job named as the model where it has no name
        of its own.
        """
        check_memory(body.limits, self._settings)
        asked = body.model_dump(mode="json")

        def create(remember: Remember[Job] | None) -> Job:
            stored = self._models.resolve(model)
            seed = secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed
            try:
                loaded = self._predictor.loaded.get(stored)
            except Corrupt:
                self._models.resolve(model)  # NotFound where it was deleted since
                raise
            datasets = check(stored, loaded, seed)
            new = NewJob(
                kind=kind,
                spec=asked | {"model": stored.id, "seed": seed},
                datasets=datasets,
                models={stored.id: "#" if names_it else "#/model"},
                name=body.name or (stored.name if names_it else None),
                tags=body.tags,
                owner=self._owner,
            )
            return self._jobs.create(new, remember=remember)

        return await answer_queued(
            self._request,
            self._jobs,
            asked,
            create,
            idempotency_key=self._key,
            prefer=self._prefer,
        )


ModelJobsDep = Annotated[_ModelJobs, Depends()]


async def answer_queued(
    request: Request,
    jobs: Jobs,
    content: Any,
    create: Callable[[Remember[Job] | None], Job],
    *,
    idempotency_key: str | None,
    prefer: str | None,
) -> Response:
    """Queue a job and answer 202: at once or, where `prefer` asks to wait, at its end.

    `content` is what `answer_once` takes; `create` runs in a thread.
    """

    def queued(job: Job) -> Answer:
        return created(JobView.of(job), f"/jobs/{job.id}", status=202)

    wait_s = preferred_wait(prefer)

    async def held(job: Job) -> Answer:
        assert wait_s is not None
        with suppress(NotFound):  # deleted meanwhile
            job = await wait_for_end(request, jobs, job.id, wait_s)
        applied = {"Preference-Applied": f"wait={wait_s:g}"}
        return created(JobView.of(job), f"/jobs/{job.id}", status=202, **applied)

    later = None if wait_s is None else held
    return await answer_once(
        request,
        idempotency_key,
        content,
        lambda remember: run_in_threadpool(create, remember),
        queued,
        later=later,
    )


def check_memory(limits: Limits | None, settings: Settings) -> None:
    """Refuse a limit of a job's memory that is above the server's."""
    asked = None if limits is None else limits.memory_bytes
    allowed = settings.max_job_bytes
    if asked is not None and allowed is not None and asked > allowed:
        raise Invalid(
            f"a job may allocate at most {allowed} bytes here, {asked} are asked for; take less, "
            "or leave it out",
            pointer="#/limits/memory_bytes",
        )


def preferred_wait(prefer: str | None) -> float | None:
    """Return the seconds that a `Prefer: wait=…` header asks for, capped; None if it does not."""
    found = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", prefer or "", re.IGNORECASE)
    return None if found is None else min(float(found.group(1)), MAX_WAIT_S)


def pause_s(quiet_s: float, pace_s: float = 0.0) -> float:
    """Return the pause before the next look at a job about which nothing was new for so long.

    A twentieth of that time: news are hardly later for it, and callers who wait for a slow job
    cost little. Where news come at a steady pace, a part of that, since each look takes a core
    from a job that trains with all of them.
    """
    steady = min(pace_s / 2, _STEADY_PAUSE_S)
    return min(max(quiet_s / 20, steady, _LEAST_PAUSE_S), _LONGEST_PAUSE_S)


async def wait_for_change(
    jobs: Jobs,
    shutdown: Shutdown,
    version: int | None,
    *,
    news_at: float,
    until: float,
    pace_s: float = 0.0,
) -> bool:
    """Wait until jobs may be other than at this `version`; return whether the server stops.

    At most `until` that time, and with pauses as after the last news at `news_at`, which came
    `pace_s` after those before. To ask whether anything has changed takes microseconds, to read a
    job a thread and a hundred times as long: the cores that it would take are those that train.
    """
    while not await shutdown.sleep(
        max(0.0, min(until - time.monotonic(), pause_s(time.monotonic() - news_at, pace_s)))
    ):
        if version is None or jobs.version() != version or time.monotonic() >= until:
            return False
    return True


async def wait_for_end(request: Request, jobs: Jobs, job_id: str, wait_s: float) -> Job:
    """Return the job once it has ended.

    Or as it is when the time is up, the server stops, or the caller is gone.
    """
    shutdown: Shutdown = request.state.shutdown
    begin = time.monotonic()
    end = begin + wait_s
    while True:
        version = jobs.version() if wait_s else None
        job = await run_in_threadpool(jobs.get, job_id)
        if job.terminal or time.monotonic() >= end or shutdown.has_begun:
            return job
        if await request.is_disconnected():
            return job
        look = min(end, time.monotonic() + _LONGEST_PAUSE_S)  # whether the caller is still there
        await wait_for_change(jobs, shutdown, version, news_at=begin, until=look)
