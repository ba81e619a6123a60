"""Backups: whole or not at all, of one instant, while others write and delete."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.errors import Conflict, Corrupt, Invalid
from service.store.backup import back_up, restore
from service.store.blobs import Blobs, checkpoint_key, dataset_key, model_key
from service.store.database import new_id
from service.store.datasets import Dataset, Datasets, NewDataset
from service.store.jobs import Checkpoint, Jobs, NewJob
from service.store.models import Models, NewModelRow
from service.store.sweep import missing, sweep
from tests.service.store.new_databases import new_database
from tests.service.store.soundness import assert_sound


class Home:
    """The data folder of a server, with one of everything."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.file, self.artifacts = folder / "bernoulli.db", folder / "artifacts"
        self.database = new_database(self.file)
        self.blobs = Blobs(self.artifacts)
        self.datasets = Datasets(self.database, now, self.blobs)
        self.jobs = Jobs(self.database, now)
        self.models = Models(self.database, now)

    def upload(self, content: bytes) -> Dataset:
        file = self.blobs.temporary()
        file.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        blob = dataset_key(sha256, "arrow")
        return self.datasets.create(
            NewDataset(
                kind="table", rows=1, schema={}, bytes=len(content), sha256=sha256, blob=blob
            ),
            file,
        )

    def fill(self) -> None:
        self.upload(b"first")
        model_id, weights = new_id("mdl"), b"weights"
        key = model_key(model_id)
        self.blobs.put_bytes(key, weights)
        document = {"weights": {"sha256": hashlib.sha256(weights).hexdigest()}}
        self.models.create(NewModelRow(id=model_id, document=document, weights=key))
        self.jobs.create(NewJob(kind="train", spec={}))
        job = self.jobs.claim("w")
        assert job is not None
        state = checkpoint_key(job.id, 1)
        self.blobs.put_bytes(state, b"state")
        self.jobs.record(job, checkpoint=Checkpoint(state, 1))
        self.blobs.put_bytes(f"parts/{job.id}/1-0", b"rows")

    def keys(self) -> dict[str, bytes]:
        folders = ("datasets", "models", "checkpoints", "parts")
        keys = [key for folder in folders for key, _ in self.blobs.keys(folder)]
        return {key: self.blobs.path(key).read_bytes() for key in sorted(keys)}


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "data")
    made.fill()
    yield made
    made.database.close()


@contextmanager
def restored(source: Path, folder: Path) -> Iterator[Home]:
    restore(source, folder / "bernoulli.db", folder / "artifacts")
    found = Home(folder)
    try:
        yield found
    finally:
        found.database.close()


def test_a_backup_restored_is_the_server_that_it_was_made_of(home: Home, tmp_path: Path) -> None:
    before = home.keys()
    made = back_up(home.file, home.artifacts, tmp_path / "backup")
    assert made.blobs == len(before) == 4
    home.upload(b"later")
    with restored(tmp_path / "backup", tmp_path / "other") as other:
        assert other.keys() == before
        assert_sound(other.database)
        assert missing(other.database, other.blobs) == []
        assert [each.sha256 for each in other.datasets.list().data] == [
            hashlib.sha256(b"first").hexdigest()
        ]
        (job,) = other.jobs.void_leases()  # as a start does: it goes on from its checkpoint
        assert job.checkpoint is not None
        assert sweep(other.database, other.blobs) == 0


def test_a_restored_file_is_not_the_backups_own(home: Home, tmp_path: Path) -> None:
    back_up(home.file, home.artifacts, tmp_path / "backup")
    with restored(tmp_path / "backup", tmp_path / "other") as other:
        for key, _ in list(other.blobs.keys("datasets")):
            other.blobs.path(key).write_bytes(b"overwritten")
    with restored(tmp_path / "backup", tmp_path / "another") as another:
        assert another.keys() == home.keys()


def test_a_backup_is_consistent_while_others_store_and_delete(home: Home, tmp_path: Path) -> None:
    stop = threading.Event()

    def churn(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            dataset = home.upload(f"{name}-{number % 3}".encode())  # the same bytes again and again
            with suppress(Conflict):
                home.datasets.delete(dataset.id)

    threads = [threading.Thread(target=churn, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    try:
        made = 0
        for number in range(3):
            with suppress(Conflict):  # too much was deleted meanwhile; nothing is left then
                back_up(home.file, home.artifacts, tmp_path / f"backup{number}")
                made += 1
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert made == len(list(tmp_path.glob("backup*")))
    for number, source in enumerate(tmp_path.glob("backup*")):
        with restored(source, tmp_path / f"other{number}") as other:
            assert_sound(other.database)
            assert missing(other.database, other.blobs) == []


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".new")]


@pytest.mark.parametrize("folder", ["datasets", "models"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_nothing_damaged_is_backed_up(home: Home, tmp_path: Path, folder: str, damage: str) -> None:
    ((key, _),) = home.blobs.keys(folder)
    if damage == "missing":
        home.blobs.delete(key)
    else:
        home.blobs.path(key).write_bytes(b"rotten")
    with pytest.raises(Corrupt, match=key):
        back_up(home.file, home.artifacts, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    assert leftovers(tmp_path) == []


def test_a_damaged_backup_restores_nothing(home: Home, tmp_path: Path) -> None:
    back_up(home.file, home.artifacts, tmp_path / "backup")
    ((key, _),) = home.blobs.keys("models")
    file = tmp_path / "backup" / "artifacts" / key
    file.unlink()  # it may be the server's own file
    for content in (None, b"rotten"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(Corrupt):
            restore(tmp_path / "backup", tmp_path / "o" / "b.db", tmp_path / "o" / "artifacts")
        assert not (tmp_path / "o" / "b.db").exists()
        assert not (tmp_path / "o" / "artifacts").exists()


def test_nothing_is_overwritten(home: Home, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    back_up(home.file, home.artifacts, tmp_path / "backup")
    with pytest.raises(Conflict, match="not empty"):
        back_up(home.file, home.artifacts, tmp_path / "backup")
    with pytest.raises(Conflict, match="there is a database"):
        restore(tmp_path / "backup", home.file, tmp_path / "elsewhere")
    with pytest.raises(Conflict, match="not empty"):
        restore(tmp_path / "backup", tmp_path / "new.db", home.artifacts)
    with pytest.raises(Invalid, match="no backup"):
        restore(tmp_path / "data", tmp_path / "new.db", tmp_path / "elsewhere")
    with pytest.raises(Invalid, match="no database"):
        back_up(tmp_path / "nothing.db", home.artifacts, tmp_path / "other")


def test_the_commands_back_up_and_restore(home: Home, tmp_path: Path) -> None:
    run = CliRunner()
    target = str(tmp_path / "backup")
    made = run.invoke(app, ["backup", target, "--data", str(home.file.parent)])
    assert (made.exit_code, "4 files" in made.output) == (0, True), made.output
    again = run.invoke(app, ["backup", target, "--data", str(home.file.parent)])
    assert (again.exit_code, "not empty" in again.output) == (1, True)
    back = run.invoke(app, ["restore", target, "--data", str(tmp_path / "other")])
    assert back.exit_code == 0, back.output
    other = Home(tmp_path / "other")
    assert other.keys() == home.keys()
    other.database.close()
