"""Jobs that predict: what they need stays, and what they leave comes with their end, or not."""

from __future__ import annotations

import hashlib

import pytest
import sqlalchemy as sa
from alembic import command

from service.errors import Conflict, LeaseLost, NotFound
from service.store.blobs import Blobs, dataset_key, part_key
from service.store.database import Database
from service.store.datasets import Datasets, NewDataset, StagedDataset
from service.store.jobs import Checkpoint, Job, Jobs, NewJob, Status
from service.store.migrations import config
from service.store.models import Models
from service.store.sweep import sweep
from tests.service.store.soundness import assert_sound
from tests.service.store.test_claims import claim, types
from tests.service.store.test_datasets import upload
from tests.service.store.test_models import store

PREDICT = NewJob(kind="predict", spec={})


def staged(datasets: Datasets, blobs: Blobs, content: bytes = b"mean\n") -> StagedDataset:
    file = blobs.temporary()
    file.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    new = NewDataset(
        kind="table",
        rows=1,
        schema={"columns": []},
        bytes=len(content),
        sha256=sha256,
        blob=dataset_key(sha256, "arrow"),
    )
    return datasets.stage(new, file)


def leftovers(blobs: Blobs) -> int:
    return sum(1 for _ in (blobs.root / "temporary").iterdir())


def test_what_a_job_needs_stays_until_its_end(
    jobs: Jobs, datasets: Datasets, models: Models, blobs: Blobs, database: Database
) -> None:
    dataset, model = upload(datasets, blobs), store(models)
    new = NewJob(
        kind="predict",
        spec={},
        datasets={dataset.id: "#/inputs/dataset"},
        models={model.id: "#/model"},
    )
    job = jobs.create(new)
    for _ in range(2):  # while it waits, and while it runs
        with pytest.raises(Conflict, match=job.id):
            models.delete(model.id)
        with pytest.raises(Conflict, match=job.id):
            datasets.delete(dataset.id)
        job = claim(jobs) if job.status is Status.QUEUED else job
    jobs.finish(job, Status.SUCCEEDED)
    models.delete(model.id)
    datasets.delete(dataset.id)
    assert_sound(database)


def test_a_job_without_its_model_is_not_queued(jobs: Jobs, models: Models) -> None:
    model = store(models)
    models.delete(model.id)
    with pytest.raises(NotFound) as caught:
        jobs.create(NewJob(kind="predict", spec={}, models={model.id: "#/model"}))
    assert caught.value.pointer == "#/model"
    assert jobs.list().data == []


def test_the_result_comes_with_the_end(
    jobs: Jobs, datasets: Datasets, blobs: Blobs, database: Database
) -> None:
    jobs.create(PREDICT)
    job = claim(jobs)
    result = staged(datasets, blobs)
    assert datasets.list().data == []
    ended = jobs.finish(job, Status.SUCCEEDED, dataset=result)
    (dataset,) = datasets.list().data
    assert (ended.model, ended.result) == (None, {"dataset": dataset.id})
    assert dataset.job == job.id
    assert jobs.events(job.id).data[-1].data["result"] == {"dataset": dataset.id}
    assert blobs.path(dataset.blob).read_bytes() == b"mean\n"
    assert leftovers(blobs) == 0
    assert_sound(database)


def test_equal_results_share_a_file(jobs: Jobs, datasets: Datasets, blobs: Blobs) -> None:
    for _ in range(2):
        jobs.create(PREDICT)
        jobs.finish(claim(jobs), Status.SUCCEEDED, dataset=staged(datasets, blobs))
    first, second = datasets.list().data
    assert first.blob == second.blob
    datasets.delete(first.id)
    assert blobs.exists(second.blob)


def test_a_lost_lease_publishes_nothing(
    jobs: Jobs, datasets: Datasets, blobs: Blobs, database: Database
) -> None:
    jobs.create(PREDICT)
    stale = claim(jobs)
    jobs.void_leases()
    result = staged(datasets, blobs)
    with pytest.raises(LeaseLost):
        jobs.finish(stale, Status.SUCCEEDED, dataset=result)
    result.discard()
    assert datasets.list().data == []
    assert list(blobs.keys("datasets")) == []
    assert leftovers(blobs) == 0
    assert_sound(database)


@pytest.mark.parametrize("keep", [False, True])
def test_a_result_of_a_cancelled_job_is_kept_only_on_request(
    keep: bool, jobs: Jobs, datasets: Datasets, blobs: Blobs
) -> None:
    jobs.create(PREDICT)
    job = claim(jobs)
    jobs.cancel(job.id, keep=keep)
    result = staged(datasets, blobs)
    ended = jobs.finish(job, Status.SUCCEEDED, dataset=result)
    result.discard()
    assert ended.status is Status.CANCELLED
    assert len(datasets.list().data) == keep
    assert (ended.result is not None) == keep
    assert leftovers(blobs) == 0


def test_how_far_a_prediction_has_come_is_told_in_rows(jobs: Jobs) -> None:
    jobs.create(PREDICT)
    job = claim(jobs)
    jobs.record(job, checkpoint=Checkpoint("checkpoints/j/1-a", 4096))
    jobs.void_leases()
    job = claim(jobs)
    assert types(jobs, job) == ["queued", "started", "checkpoint", "retried"]
    told = [event.data for event in jobs.events(job.id).data]
    assert told[2] == {"row": 4096}
    assert told[3] == {"attempt": 2, "reason": "service_restarted", "from_row": 4096}


def test_parts_stay_as_long_as_their_job_goes_on(
    jobs: Jobs, blobs: Blobs, database: Database
) -> None:
    ended, going_on = (_with_part(jobs, blobs, worker) for worker in ("w1", "w2"))
    jobs.finish(ended, Status.SUCCEEDED)
    blobs.put_bytes("parts/nobody/1-a", b"part")
    assert sweep(database, blobs) == 2
    assert [key.split("/")[1] for key, _ in blobs.keys("parts")] == [going_on.id]
    blobs.delete_parts(going_on.id)
    assert list(blobs.keys("parts")) == []


def _with_part(jobs: Jobs, blobs: Blobs, worker: str) -> Job:
    jobs.create(PREDICT)
    job = claim(jobs, worker)
    blobs.put_bytes(part_key(job.id, job.attempts), b"part")
    return job


def test_a_store_of_the_first_version_goes_on_with_its_data_sets(
    datasets: Datasets, blobs: Blobs, database: Database
) -> None:
    dataset = upload(datasets, blobs)
    with database.write() as connection:
        command.downgrade(config(connection), "0001")
        assert connection.scalars(sa.text("SELECT id FROM datasets")).all() == [dataset.id]
    database.migrate()
    assert datasets.get(dataset.id) == dataset
    assert dataset.job is None
