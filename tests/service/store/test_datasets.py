from __future__ import annotations

import hashlib
import threading
from typing import Any

import pytest

from service.errors import Invalid, NotFound
from service.store.blobs import Blobs, checkpoint_key, dataset_key, model_key
from service.store.database import Database, new_id
from service.store.datasets import Dataset, Datasets, NewDataset
from service.store.idempotency import Answer, Idempotency, IdempotencyKeys, Remember
from service.store.jobs import Checkpoint, Jobs, NewJob, Status
from service.store.models import Models, NewModelRow
from service.store.sweep import sweep
from tests.service.store.conftest import Clock


def upload(datasets: Datasets, blobs: Blobs, content: bytes = b"x,y\n", **fields: Any) -> Dataset:
    file = blobs.temporary()
    file.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    new = NewDataset(
        kind="table",
        rows=1,
        schema={"columns": [{"name": "x"}]},
        bytes=len(content),
        sha256=sha256,
        blob=dataset_key(sha256, "arrow"),
        **fields,
    )
    dataset = datasets.create(new, file)
    assert not file.exists()
    return dataset


def test_a_data_set_is_read_as_it_was_created(
    datasets: Datasets, blobs: Blobs, clock: Clock
) -> None:
    dataset = upload(datasets, blobs, b"content", name="boston", owner="key_1")

    assert datasets.get(dataset.id) == dataset
    assert (dataset.name, dataset.owner, dataset.bytes) == ("boston", "key_1", 7)
    assert dataset.schema == {"columns": [{"name": "x"}]}
    assert dataset.created_at == clock.now
    assert blobs.path(dataset.blob).read_bytes() == b"content"


@pytest.mark.parametrize("dataset_id", ["", "ds_x", "ds_" + "1" * 26, "job_" + "1" * 26, "\ud800"])
def test_an_unknown_data_set_is_not_found(datasets: Datasets, dataset_id: str) -> None:
    with pytest.raises(NotFound) as caught:
        datasets.get(dataset_id, pointer="#/dataset")
    assert caught.value.pointer == "#/dataset"
    with pytest.raises(NotFound):
        datasets.delete(dataset_id)


def test_a_bad_name_stores_nothing(datasets: Datasets, blobs: Blobs) -> None:
    with pytest.raises(Invalid):
        upload(datasets, blobs, name="a\0b")

    assert datasets.list().data == []
    assert list(blobs.keys("datasets")) == []


def test_lists_are_newest_first_and_paged(datasets: Datasets, blobs: Blobs) -> None:
    ids = [upload(datasets, blobs).id for _ in range(3)][::-1]
    first = datasets.list(limit=2)
    rest = datasets.list(limit=2, after=first.data[-1].id)

    assert [d.id for d in (*first.data, *rest.data)] == ids
    assert (first.has_more, rest.has_more) == (True, False)


def test_the_same_bytes_cost_one_copy_that_stays_until_the_last_is_deleted(
    datasets: Datasets, blobs: Blobs
) -> None:
    first, second = upload(datasets, blobs), upload(datasets, blobs)
    other = upload(datasets, blobs, b"other")
    assert first.blob == second.blob
    assert {key for key, _ in blobs.keys("datasets")} == {first.blob, other.blob}

    datasets.delete(first.id)
    assert blobs.exists(second.blob)
    datasets.delete(second.id)
    assert not blobs.exists(second.blob)
    assert blobs.exists(other.blob)


def test_deleting_never_races_an_upload_of_the_same_bytes(datasets: Datasets, blobs: Blobs) -> None:
    missing: list[str] = []

    def come_and_go() -> None:
        for _ in range(20):
            dataset = upload(datasets, blobs)
            if not blobs.exists(dataset.blob):
                missing.append(dataset.id)
            datasets.delete(dataset.id)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert missing == []
    assert list(blobs.keys("datasets")) == []


def test_row_and_idempotency_key_are_stored_together(
    datasets: Datasets, blobs: Blobs, database: Database, clock: Clock
) -> None:
    key = Idempotency("k", None, "f" * 64)

    def fail(_dataset: Dataset) -> Answer:
        raise ZeroDivisionError

    def store(answer: Any) -> Dataset:
        file = blobs.temporary()
        file.write_bytes(b"")
        blob = dataset_key("0" * 64, "arrow")
        new = NewDataset(kind="table", rows=0, schema={}, bytes=0, sha256="0" * 64, blob=blob)
        return datasets.create(new, file, remember=Remember(key, answer))

    with pytest.raises(ZeroDivisionError):
        store(fail)
    assert datasets.list().data == []
    dataset = store(lambda created: Answer(201, {}, created.id.encode()))
    answer = IdempotencyKeys(database, clock).lookup(key)
    assert answer == Answer(201, {}, dataset.id.encode())


def test_a_sweep_takes_what_no_row_refers_to(
    datasets: Datasets, blobs: Blobs, models: Models, jobs: Jobs, database: Database
) -> None:
    kept = upload(datasets, blobs)
    model_id = new_id("mdl")
    weights = model_key(model_id)
    blobs.put_bytes(weights, b"w")
    models.create(NewModelRow(id=model_id, document={}, weights=weights))
    jobs.create(NewJob(kind="train", spec={}))
    job = jobs.claim("w1")
    assert job is not None
    checkpoint = checkpoint_key(job.id, 1)
    blobs.put_bytes(checkpoint, b"c")
    jobs.record(job, checkpoint=Checkpoint(checkpoint, 1))
    orphans = [
        dataset_key("1" * 64, "npz"),
        model_key(model_id),
        model_key(new_id("mdl")),
        checkpoint_key(job.id, 1),
    ]
    for key in orphans:
        blobs.put_bytes(key, b"o")
    blobs.temporary().write_bytes(b"t")

    assert sweep(database, blobs, older_than_s=3600) == 0
    assert sweep(database, blobs) == len(orphans) + 1
    assert all(blobs.exists(key) for key in (kept.blob, weights, checkpoint))
    assert not any(blobs.exists(key) for key in orphans)
    assert jobs.finish(job, Status.SUCCEEDED).checkpoint == Checkpoint(checkpoint, 1)
