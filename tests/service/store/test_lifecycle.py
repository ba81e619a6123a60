"""The life of jobs against a model of it: any order of what callers, workers and time may do."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import Conflict, LeaseLost
from service.store.blobs import model_key
from service.store.database import new_id
from service.store.jobs import Checkpoint, Job, Jobs, NewJob, Status, job_error
from service.store.models import Models, NewModelRow
from tests.service.store.conftest import Clock
from tests.service.store.new_databases import new_database
from tests.service.store.soundness import assert_sound
from tests.thoroughness import examples

LEASE_S = 30
MAX_FAILURES = 2
workers = st.sampled_from(["w1", "w2", "w3"])


@dataclass
class Expected:
    """What the model knows of a job."""

    status: Status = Status.QUEUED
    worker: str | None = None
    attempts: int = 0
    failures: int = 0
    expires_s: float = 0.0
    epoch: int = 0
    progressed: bool = False
    events: list[str] = field(default_factory=lambda: ["queued"])

    def end(self, status: Status) -> None:
        self.status, self.worker = status, None
        self.events.append("finished")

    def requeue(self) -> None:
        if self.status is Status.CANCELLING:
            self.end(Status.CANCELLED)
        else:
            self.status, self.worker = Status.QUEUED, None

    def die(self) -> None:
        if self.status is Status.RUNNING and not self.progressed:
            self.failures += 1
            if self.failures >= MAX_FAILURES:
                self.end(Status.FAILED)
                return
        self.requeue()


class JobLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "bernoulli.db"
        self.database = new_database(file)
        self.clock = Clock()
        self.start = self.clock.now
        self.jobs = Jobs(self.database, self.clock, lease_s=LEASE_S, max_failures=MAX_FAILURES)
        self.models = Models(self.database, self.clock)
        self.expected: dict[str, Expected] = {}
        self.claims: list[Job] = []
        self.model_count = 0

    def teardown(self) -> None:
        assert_sound(self.database)
        self.database.close()
        self.folder.cleanup()

    @property
    def now_s(self) -> float:
        return (self.clock.now - self.start).total_seconds()

    def held_by(self, worker: str) -> Expected | None:
        return next((e for e in self.expected.values() if e.worker == worker), None)

    def holds(self, claim: Job) -> bool:
        job = self.expected.get(claim.id)
        return job is not None and (job.worker, job.attempts) == (claim.worker, claim.attempts)

    @rule()
    def create(self) -> None:
        self.expected[self.jobs.create(NewJob(kind="train", spec={})).id] = Expected()

    @rule(worker=workers)
    def claim(self, worker: str) -> None:
        if held := self.held_by(worker):
            held.die()
        for job in self.expected.values():
            if job.worker is not None and job.expires_s < self.now_s:
                job.requeue()
        waiting = sorted(i for i, job in self.expected.items() if job.status is Status.QUEUED)
        claimed = self.jobs.claim(worker)

        assert (claimed.id if claimed else None) == (waiting[0] if waiting else None)
        if claimed is not None:
            job = self.expected[claimed.id]
            job.status, job.worker = Status.RUNNING, worker
            job.attempts += 1
            job.progressed = False
            job.expires_s = self.now_s + LEASE_S
            job.events.append("started" if job.attempts == 1 else "retried")
            self.claims.append(claimed)

    @rule(seconds=st.sampled_from([1, 20, 40]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(worker=workers)
    def renew(self, worker: str) -> None:
        held = self.held_by(worker)
        assert self.jobs.renew(worker) == (held is not None)
        if held is not None:
            held.expires_s = self.now_s + LEASE_S

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), checkpoint=st.booleans())
    def record(self, data: st.DataObject, checkpoint: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        job = self.expected.get(claim.id)
        epoch = 1 if job is None else job.epoch + 1
        new = Checkpoint(f"checkpoints/j/{epoch}", epoch) if checkpoint else None
        if job is None or not self.holds(claim):
            with pytest.raises(LeaseLost):
                self.jobs.record(claim, events=[("epoch", {"epoch": epoch})], checkpoint=new)
            return
        told = self.jobs.record(claim, events=[("epoch", {"epoch": epoch})], checkpoint=new)
        assert told.cancelling == (job.status is Status.CANCELLING)
        job.events.append("epoch")
        if checkpoint:
            job.events.append("checkpoint")
            job.epoch, job.progressed = epoch, True

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        status=st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.CANCELLED]),
        with_model=st.booleans(),
    )
    def finish(self, data: st.DataObject, status: Status, with_model: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        error = job_error("user", "diverged") if status is Status.FAILED else None
        model_id = new_id("mdl")
        model = NewModelRow(id=model_id, document={}, weights=model_key(model_id))
        leaves = model if with_model and error is None else None
        if not self.holds(claim):
            with pytest.raises(LeaseLost):
                self.jobs.finish(claim, status, error=error, model=leaves)
        elif status is Status.CANCELLED and self.expected[claim.id].status is not Status.CANCELLING:
            with pytest.raises(ValueError, match="nobody has asked"):
                self.jobs.finish(claim, status, error=error, model=leaves)
        else:
            told = self.jobs.finish(claim, status, error=error, model=leaves)
            job = self.expected[claim.id]
            if status is Status.SUCCEEDED and job.status is Status.CANCELLING:
                status, leaves = Status.CANCELLED, None  # nobody here asks to keep it
            assert told.status is status
            job.end(status)
            self.model_count += leaves is not None

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        if self.holds(claim):
            self.jobs.release(claim)
            self.expected[claim.id].requeue()
        else:
            with pytest.raises(LeaseLost):
                self.jobs.release(claim)

    @rule(worker=workers)
    def die(self, worker: str) -> None:
        held = self.held_by(worker)
        assert (self.jobs.worker_died(worker, "infrastructure", "killed") is None) == (held is None)
        if held is not None:
            held.die()

    @rule()
    def restart(self) -> None:
        for job in self.expected.values():
            if job.worker is not None:
                job.requeue()
        self.jobs.void_leases()

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.expected)))
        job = self.expected[job_id]
        if job.status in (Status.SUCCEEDED, Status.FAILED):
            with pytest.raises(Conflict):
                self.jobs.cancel(job_id)
            return
        self.jobs.cancel(job_id)
        if job.status is Status.QUEUED:
            job.end(Status.CANCELLED)
        elif job.status is Status.RUNNING:
            job.status = Status.CANCELLING
            job.events.append("cancelling")

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.expected)))
        if self.expected[job_id].status.terminal:
            self.jobs.delete(job_id)
            del self.expected[job_id]
        else:
            with pytest.raises(Conflict):
                self.jobs.delete(job_id)

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        stored = {job.id: job for job in self.jobs.list(limit=1000).data}
        assert stored.keys() == self.expected.keys()
        for job_id, job in self.expected.items():
            found = stored[job_id]
            assert (found.status, found.worker) == (job.status, job.worker)
            assert (found.attempts, found.failures) == (job.attempts, job.failures)
            assert [event.type for event in self.jobs.events(job_id).data] == job.events
        counts = Counter(job.status for job in self.expected.values())
        assert self.jobs.counts() == {status: counts[status] for status in Status}
        assert len(self.models.list().data) == self.model_count


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(
    max_examples=examples(20, 400),
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
