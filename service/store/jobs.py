"""Jobs: what callers ask of them, and what workers do to them. See `lifecycle` for their states."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service.errors import Conflict, NotFound, QueueFull
from service.store import audit, claims, lifecycle, tables
from service.store.database import Clock, Database, Page, is_id, new_id, newest_first, plain_text
from service.store.datasets import StagedDataset
from service.store.events import EventText, read_epochs, read_event_texts
from service.store.idempotency import Remember
from service.store.job_records import NewJob, Recorded, columns_of, refuse_own
from service.store.lifecycle import (
    Checkpoint,
    ErrorKind,
    Event,
    Job,
    Status,
    job_error,
    job_of,
    place_of,
)
from service.store.models import NewModelRow, insert_model
from service.store.needs import need_datasets, need_models
from service.store.quotas import NO_QUOTAS, Quotas, check_queued, check_stored
from service.store.visibility import seen, seen_by_parameter

__all__ = [
    "Checkpoint",
    "ErrorKind",
    "Event",
    "EventText",
    "Job",
    "Jobs",
    "NewJob",
    "Recorded",
    "Status",
    "job_error",
]

JOBS = tables.jobs
# Built once: whoever waits for a job reads it several times a second.
_JOB = sa.select(JOBS).where(JOBS.c.id == sa.bindparam("job"), seen_by_parameter(JOBS))


class Jobs:
    """The jobs of the service; safe between threads and processes."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        lease_s: float = 30.0,
        max_failures: int = 5,
        max_waiting: int | None = None,
        quotas: Quotas = NO_QUOTAS,
    ) -> None:
        """`max_waiting` bounds the queued jobs of all; `quotas` are those of keys without own."""
        self._database = database
        self._clock = clock
        self._lease = timedelta(seconds=lease_s)
        self._max_failures = max_failures
        self._max_waiting = max_waiting
        self._quotas = quotas
        self._viewer: str | None = None
        self._actor: str | None = None

    def seen_by(self, viewer: str | None, *, actor: str | None = None) -> Jobs:
        """What the key `viewer` sees of the jobs, all for None; `actor` is who changes any."""
        if viewer is None and actor is None:
            return self
        view = copy.copy(self)
        view._viewer = viewer
        view._actor = actor
        return view

    # What callers ask

    def create(self, new: NewJob, *, remember: Remember[Job] | None = None) -> Job:
        """Queue a job. NotFound for a data set or model not there; QueueFull, QuotaExceeded."""
        plain_text(new.name, pointer="#/name")
        now = self._clock()
        others = ("datasets", "models", "checkpoint")
        fields = {key: value for key, value in vars(new).items() if key not in others}
        row = {
            **fields,
            **columns_of(new.checkpoint, attempt=0),
            "id": new.id or new_id("job"),
            "status": Status.QUEUED,
            "metrics": {},
            "attempts": 0,
            "failures": 0,
            "cancel_keep": False,
            "last_event": 0,
            "created_at": now,
        }
        with self._database.write() as connection:
            self._check_room(connection, new.owner)
            inserted = connection.execute(sa.insert(JOBS).values(row).returning(JOBS)).one()
            need_datasets(connection, inserted.id, new.datasets, viewer=self._viewer)
            need_models(connection, inserted.id, new.models, viewer=self._viewer)
            audit.record(connection, now, new.owner, "created", inserted.id, kind=new.kind)
            job = lifecycle.write(connection, job_of(inserted), now, [("queued", {})])
            if remember is not None:
                remember.store(connection, job, now)
        return job

    def get(self, job_id: str) -> Job:
        row = None
        if is_id(job_id, "job"):
            with self._database.read() as connection:
                asked = {"job": job_id, "viewer": self._viewer}
                row = connection.execute(_JOB, asked).one_or_none()
        if row is None:
            raise _no_job(job_id)
        return job_of(row)

    def list(
        self,
        *,
        limit: int = 100,
        after: str | None = None,
        status: Status | None = None,
        kind: str | None = None,
    ) -> Page[Job]:
        """Newest first."""
        query = sa.select(JOBS).where(seen(JOBS, self._viewer))
        if status is not None:
            query = query.where(JOBS.c.status == status)
        if kind is not None:
            query = query.where(JOBS.c.kind == kind)
        with self._database.read() as connection:
            page = newest_first(
                connection, query, JOBS.c.id, limit=limit, after=after, prefix="job"
            )
        return Page([job_of(row) for row in page.data], page.has_more)

    def counts(self) -> dict[Status, int]:
        """How many jobs there are in each state."""
        query = sa.select(JOBS.c.status, sa.func.count()).group_by(JOBS.c.status)
        with self._database.read() as connection:
            found = {Status(status): count for status, count in connection.execute(query)}
        return {status: found.get(status, 0) for status in Status}

    def cancel(self, job_id: str, *, keep: bool = False) -> Job:
        """Have the job end as cancelled: at once if it waits, else as soon as its worker can.

        Asking again is harmless and may add `keep`, not withdraw it; a job in the queue has nothing
        to keep. Conflict if it succeeded or failed.
        """
        now = self._clock()
        with self._database.write() as connection:
            job = lifecycle.locked_job(connection, job_id, viewer=self._viewer)
            if job.status in (Status.QUEUED, Status.RUNNING):
                audit.record(connection, now, self._actor, "cancelled", job_id)
            if job.status is Status.QUEUED:
                return lifecycle.end(connection, job, Status.CANCELLED, now)
            if job.status is Status.RUNNING or (
                job.status is Status.CANCELLING and keep and not job.cancel_keep
            ):
                return lifecycle.write(
                    connection,
                    job,
                    now,
                    [("cancelling", {"keep": keep})],
                    status=Status.CANCELLING,
                    cancel_keep=keep,
                )
            if job.status in (Status.SUCCEEDED, Status.FAILED):
                raise Conflict(f"job {job_id} has {job.status} already and cannot be cancelled")
            return job

    def delete(self, job_id: str) -> Job:
        """Remove a job that has ended, with its events, and return what it was.

        Its model stays; its checkpoint's blob is then nobody's. Conflict before it has ended.
        """
        with self._database.write() as connection:
            job = lifecycle.locked_job(connection, job_id, viewer=self._viewer)
            if not job.terminal:
                raise Conflict(f"job {job_id} is {job.status}; cancel it or wait for its end first")
            connection.execute(sa.delete(JOBS).where(JOBS.c.id == job_id))
            audit.record(connection, self._clock(), self._actor, "deleted", job_id)
        return job

    def share(self, job_id: str, shared: bool) -> Job:
        """Have every key see the job and, once it has ended, what it leaves; or its own alone."""
        with self._database.write() as connection:
            before = lifecycle.locked_job(connection, job_id, viewer=self._viewer)
            if before.shared != shared:
                action: audit.Action = "shared" if shared else "unshared"
                audit.record(connection, self._clock(), self._actor, action, job_id)
            change = sa.update(JOBS).where(JOBS.c.id == job_id).values(shared=shared)
            return job_of(connection.execute(change.returning(JOBS)).one())

    def version(self) -> int | None:
        """Return a number that is another one once anything has changed; see `Database.version`."""
        return self._database.version()

    def events(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Page[Event]:
        """The events with ids above `after`, oldest first; NotFound if there is no such job."""
        page = self.event_texts(job_id, after=after, limit=limit)
        return Page([text.event() for text in page.data], page.has_more)

    def event_texts(self, job_id: str, *, after: int = 0, limit: int = 1000) -> Page[EventText]:
        """The same events as they are stored."""
        page = None
        if is_id(job_id, "job"):
            page = read_event_texts(
                self._database, job_id, viewer=self._viewer, after=after, limit=limit
            )
        if page is None:
            raise _no_job(job_id)
        return page

    def epochs(self, job_id: str) -> Sequence[Event]:
        """The `epoch` events that the job's present state rests on, oldest first, each epoch once.

        What an attempt did after the checkpoint from which the next one went on is left out.
        """
        with self._database.read() as connection:
            self._require(connection, job_id)
            return read_epochs(connection, job_id)

    # What workers and their supervisors do

    def claim(self, worker: str) -> Job | None:
        """Give a job that waits, or whose lease ran out, to `worker`; None if none may run.

        Keys take turns; of each key the oldest job goes first. `worker` names one process, never
        another later. One that claims has let go of what it had: a job still held by it counts as
        ended without a result.
        """
        with self._database.read() as connection:
            if not claims.is_runnable(connection, worker, self._clock(), self._quotas):
                return None  # idle workers shall not keep those who write waiting
        with self._database.write() as connection:
            now = self._clock()
            self._part(connection, worker, "infrastructure", "its worker dropped it", now)
            claims.take_back_expired(connection, now)
            return claims.take_next(connection, worker, now, self._lease, self._quotas)

    def renew(self, worker: str) -> bool:
        """Extend the lease on the job that `worker` has; False if it has none."""
        change = sa.update(JOBS).where(JOBS.c.worker == worker)
        with self._database.write() as connection:
            expires = self._clock() + self._lease
            return connection.execute(change.values(lease_expires_at=expires)).rowcount > 0

    def record(
        self,
        job: Job,
        *,
        events: Sequence[tuple[str, Mapping[str, Any]]] = (),
        progress: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        checkpoint: Checkpoint | None = None,
        ran_s: float | None = None,
    ) -> Recorded:
        """Store what an attempt has done, all of it or, with LeaseLost, nothing.

        `progress`, `metrics` and `ran_s` replace the former; the `checkpoint` event is added here.
        Events up to a checkpoint's epoch are to be recorded with it or before.
        """
        refuse_own(events)
        values: dict[str, Any] = {} if ran_s is None else {"ran_s": ran_s}
        if progress is not None:
            values["progress"] = progress
        if metrics is not None:
            values["metrics"] = metrics
        if checkpoint is not None:
            events = [*events, ("checkpoint", place_of(job.kind, checkpoint.epoch))]
            values |= columns_of(checkpoint, job.attempts)
        with self._database.write() as connection:
            claim = lifecycle.held_claim(connection, job)
            if events or values:
                lifecycle.say(connection, job.id, claim, self._clock(), events, **values)
        return Recorded(
            cancelling=claim.is_cancelling,
            keep=claim.is_cancelling and claim.keep,
            replaced=None if checkpoint is None else claim.checkpoint_key,
        )

    def finish(
        self,
        job: Job,
        status: Status,
        *,
        events: Sequence[tuple[str, Mapping[str, Any]]] = (),
        progress: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        result: Mapping[str, Any] | None = None,
        model: NewModelRow | None = None,
        dataset: StagedDataset | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Job:
        """End an attempt and its job: events, result and final event, or, with LeaseLost, none.

        `error` (see `job_error`) goes with `failed` and only with it; a model or data set goes with
        `succeeded`, or with `cancelled` where it is to be kept, and is then the result. A
        `checkpoint` replaces the former: where the job ended, for others to go on from.
        """
        refuse_own(events)
        if (status is Status.FAILED) != (error is not None) or not status.terminal:
            raise ValueError(f"a job cannot end as {status} with error={error!r}")
        if status is Status.FAILED and (model or dataset or result is not None):
            raise ValueError("a failed job has no result")
        now = self._clock()
        given = {"progress": progress, "metrics": metrics}
        values: dict[str, Any] = {"result": result} | columns_of(checkpoint, job.attempts)
        values |= {name: value for name, value in given.items() if value is not None}
        if model is not None:
            values |= {"model": model.id, "result": result or {"model": model.id}}
        if dataset is not None:
            values["result"] = result or {"dataset": dataset.id}
        with self._database.write() as connection:
            held = lifecycle.held_job(connection, job)
            if status is Status.CANCELLED and held.status is not Status.CANCELLING:
                raise ValueError(f"nobody has asked to cancel {job.id}")
            if status is Status.SUCCEEDED and held.status is Status.CANCELLING:
                # Its caller was told that it is being cancelled; the worker had not heard of it.
                status = Status.CANCELLED
                if not held.cancel_keep:
                    model = dataset = None
                    values = {k: v for k, v in values.items() if k not in ("model", "result")}
            if model is not None:
                model = replace(model, shared=held.shared)
                insert_model(connection, model, job_id=job.id, now=now)
            if dataset is not None:
                dataset.publish(connection, now, job=job.id, shared=held.shared)
            return lifecycle.end(
                connection, held, status, now, events=events, error=error, **values
            )

    def release(self, job: Job, *, reason: str = "stopped") -> Job:
        """Give the job back to the queue, or end it if it was to be cancelled; counts as nothing.

        For a stop of the service. LeaseLost if it is no longer this worker's.
        """
        with self._database.write() as connection:
            held = lifecycle.held_job(connection, job)
            return lifecycle.requeue(connection, held, self._clock(), reason=reason)

    def worker_died(
        self,
        worker: str,
        kind: ErrorKind,
        detail: str,
        *,
        counts: bool = True,
        is_final: bool = False,
    ) -> Job | None:
        """Decide on the job of a worker that is certainly gone; None if it had none.

        The attempt counts as failed unless it left a new checkpoint, or `counts` is false: the
        worker was killed from outside. Below the cap the job waits again, at the cap or where
        `is_final` it has failed, with `kind` and `detail` (our own text) as its error.
        """
        with self._database.write() as connection:
            now = self._clock()
            if not counts:
                which = JOBS.c.worker == worker
                back = claims.take_back(connection, which, now, reason="worker_killed")
                return back[0] if back else None
            return self._part(connection, worker, kind, detail, now, is_final=is_final)

    def held_by(self, worker: str) -> Job | None:
        """The job that `worker` has; None if it has none."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(JOBS).where(JOBS.c.worker == worker)).one_or_none()
        return None if row is None else job_of(row)

    def void_leases(self) -> Sequence[Job]:
        """Take every job from its worker, for a server that starts and knows that it is alone.

        Stops and kills of the service count as nothing. Returns the jobs as they are then.
        """
        with self._database.write() as connection:
            return claims.take_back(
                connection, sa.true(), self._clock(), reason="service_restarted"
            )

    def _check_room(self, connection: sa.Connection, owner: str | None) -> None:
        waiting = sa.select(sa.func.count()).where(JOBS.c.status == Status.QUEUED)
        if self._max_waiting is not None:
            count = connection.scalar(waiting) or 0
            if count >= self._max_waiting:
                raise QueueFull(
                    f"{count} jobs wait already, the most this server takes", retry_after_s=30
                )
        check_queued(connection, owner, self._quotas)
        check_stored(connection, owner, 0, self._quotas)  # a job leaves something

    def _require(self, connection: sa.Connection, job_id: str) -> None:
        query = sa.select(JOBS.c.id).where(JOBS.c.id == job_id, seen(JOBS, self._viewer))
        if not is_id(job_id, "job") or connection.scalar(query) is None:
            raise _no_job(job_id)

    def _part(
        self,
        connection: sa.Connection,
        worker: str,
        kind: ErrorKind,
        detail: str,
        now: datetime,
        *,
        is_final: bool = False,
    ) -> Job | None:
        return claims.part(
            connection,
            worker,
            now,
            kind=kind,
            detail=detail,
            max_failures=self._max_failures,
            is_final=is_final,
        )


def _no_job(job_id: str) -> NotFound:
    return NotFound(f"no job has the id {job_id[:80]!r}")
