"""Processes that share a store and are killed at any moment."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.store.blobs import Blobs
from service.store.database import Database, sqlite_url
from service.store.jobs import Jobs, NewJob, Status
from service.store.models import Models
from service.store.sweep import sweep
from tests.service.store.new_databases import place_database
from tests.service.store.soundness import assert_sound

WORKER = """
import sys
from datetime import datetime, UTC
from pathlib import Path
from service.store.blobs import Blobs, checkpoint_key, model_key
from service.store.database import Database, new_id, sqlite_url
from service.store.jobs import Checkpoint, Jobs, NewJob, Status
from service.store.models import NewModelRow

root, worker, creates = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "create"
database, blobs = Database(sqlite_url(root / "bernoulli.db")), Blobs(root / "artifacts")
jobs = Jobs(database, lambda: datetime.now(UTC))
while True:
    if creates:
        print("created", jobs.create(NewJob(kind="train", spec={})).id, flush=True)
    job = jobs.claim(worker)
    if job is None:
        break
    print("claimed", f"{job.id}/{job.attempts}", flush=True)
    for epoch in (1, 2):
        key = checkpoint_key(job.id, job.attempts)
        blobs.put_bytes(key, b"state")
        told = jobs.record(
            job, events=[("epoch", {"epoch": epoch})], checkpoint=Checkpoint(key, epoch)
        )
        if told.replaced:
            blobs.delete(told.replaced)
    model_id = new_id("mdl")
    weights = model_key(model_id)
    blobs.put_bytes(weights, b"weights")
    model = NewModelRow(id=model_id, document={}, weights=weights)
    jobs.finish(job, Status.SUCCEEDED, model=model)
    print("finished", job.id, flush=True)
"""


@contextmanager
def working(root: Path, worker: str, *, create: bool) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), worker, "create" if create else "drain"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place_database(tmp_path / "bernoulli.db")
    return tmp_path


def test_processes_that_claim_at_once_never_get_the_same_attempt(root: Path) -> None:
    database = Database(sqlite_url(root / "bernoulli.db"))
    jobs = Jobs(database, lambda: datetime.now(UTC))
    created = {jobs.create(NewJob(kind="train", spec={})).id for _ in range(30)}
    with ExitStack() as stack:
        processes = [stack.enter_context(working(root, f"w{n}", create=False)) for n in range(3)]
        lines = [line for p in processes for line in (p.communicate()[0] or "").splitlines()]

    claimed = Counter(line for line in lines if line.startswith("claimed"))
    assert claimed == {f"claimed {job_id}/1": 1 for job_id in created}
    assert jobs.counts()[Status.SUCCEEDED] == 30
    assert_sound(database)
    database.close()


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(root: Path) -> None:
    chance = random.Random(13)
    acknowledged: dict[str, set[str]] = {"created": set(), "claimed": set(), "finished": set()}
    for round_number in range(5):
        with working(root, f"w{round_number}", create=True) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 40)):
                word, what = process.stdout.readline().split()
                acknowledged[word].add(what)
            process.kill()
            for line in process.stdout:  # what it still said before it died
                if len(line.split()) == 2 and line.endswith("\n"):
                    word, what = line.split()
                    acknowledged[word].add(what)
        _check_after_a_kill(root, acknowledged)


def _check_after_a_kill(root: Path, acknowledged: dict[str, set[str]]) -> None:
    database, blobs = Database(sqlite_url(root / "bernoulli.db")), Blobs(root / "artifacts")
    jobs = Jobs(database, lambda: datetime.now(UTC))
    assert_sound(database)
    jobs.void_leases()
    sweep(database, blobs)
    assert_sound(database)

    stored = {job.id: job for job in jobs.list(limit=1000).data}
    assert acknowledged["created"] <= stored.keys()
    assert all(stored[job_id].status is Status.SUCCEEDED for job_id in acknowledged["finished"])
    for model in Models(database, jobs._clock).list(limit=1000).data:
        assert blobs.path(model.weights).read_bytes() == b"weights"
    for job in stored.values():
        if job.checkpoint is not None:
            assert blobs.path(job.checkpoint.key).read_bytes() == b"state"
    in_use = {job.checkpoint.key for job in stored.values() if job.checkpoint}
    assert {key for key, _ in blobs.keys("checkpoints")} == in_use
    database.close()
