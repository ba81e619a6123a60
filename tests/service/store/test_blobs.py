from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from service.errors import NotFound, StorageFull
from service.store.blobs import Blobs, checkpoint_key, dataset_key, model_key
from service.store.database import new_id

KEY = dataset_key("ab" * 32, "arrow")


def files(blobs: Blobs) -> set[str]:
    return {p.relative_to(blobs.root).as_posix() for p in blobs.root.rglob("*") if p.is_file()}


def test_a_blob_is_read_as_it_was_written(blobs: Blobs) -> None:
    assert blobs.put_bytes(KEY, b"content") == 7

    with blobs.open(KEY) as stream:
        assert stream.read() == b"content"
    assert blobs.path(KEY).read_bytes() == b"content"
    assert blobs.exists(KEY)
    assert files(blobs) == {KEY}


def test_a_writer_that_fails_publishes_nothing(blobs: Blobs) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        blobs.put(KEY, write)

    assert files(blobs) == set()


def test_a_full_disk_is_named_and_publishes_nothing(blobs: Blobs) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageFull):
        blobs.put(KEY, write)

    assert files(blobs) == set()


def test_other_errors_of_the_disk_are_not_called_a_full_one(blobs: Blobs) -> None:
    def write(_stream: BinaryIO) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        blobs.put(KEY, write)


def test_a_finished_file_is_adopted_whole(blobs: Blobs) -> None:
    file = blobs.temporary()
    file.write_bytes(b"content")
    blobs.flush(file)
    blobs.adopt(file, KEY)

    assert blobs.path(KEY).read_bytes() == b"content"
    assert files(blobs) == {KEY}


def test_adopting_a_file_that_is_not_there_fails(blobs: Blobs) -> None:
    for key in (KEY, model_key(new_id("mdl"))):
        with pytest.raises(FileNotFoundError):
            blobs.adopt(blobs.temporary(), key)
        with pytest.raises(FileNotFoundError):  # gone between its flush and its renaming
            blobs._rename(blobs.temporary(), blobs.root / key)


def test_what_is_missing_is_not_found(blobs: Blobs) -> None:
    assert not blobs.exists(KEY)
    for find in (blobs.open, blobs.path):
        with pytest.raises(NotFound):
            find(KEY)
    blobs.delete(KEY)  # nothing happens


def test_deleting_takes_the_folder_when_it_is_empty(blobs: Blobs) -> None:
    job = new_id("job")
    first, second = checkpoint_key(job, 1), checkpoint_key(job, 1)
    for key in (first, second):
        blobs.put_bytes(key, b"state")

    blobs.delete(first)
    assert files(blobs) == {second}
    blobs.delete(second)
    assert not (blobs.root / "checkpoints" / job).exists()
    blobs.put_bytes(first, b"state")
    assert blobs.exists(first)


def test_publishing_never_races_the_deletion_of_a_neighbour(blobs: Blobs) -> None:
    model = new_id("mdl")

    def come_and_go() -> None:
        for _ in range(200):
            key = model_key(model)
            blobs.put_bytes(key, b"weights")
            blobs.delete(key)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(come_and_go) for _ in range(3)]:
            done.result()

    assert files(blobs) == set()


def test_publishing_goes_on_however_often_its_folder_is_taken(blobs: Blobs) -> None:
    folder = blobs.root / "models" / "m"
    over = threading.Event()

    def take() -> None:
        while not over.is_set():
            with suppress(OSError):
                folder.rmdir()

    with ThreadPoolExecutor(1) as pool:
        taken = pool.submit(take)
        for _ in range(300):
            key = model_key("m")
            blobs.put_bytes(key, b"weights")
            blobs.path(key).unlink()
        over.set()
        taken.result()

    assert files(blobs) == set()


HAMMER = """
import sys, threading
from pathlib import Path
from service.errors import NotFound
from service.store.blobs import Blobs, checkpoint_key, model_key
blobs = Blobs(Path(sys.argv[1]))
failed = []

def neighbours(name, rounds):
    for number in range(rounds):
        key = model_key("m") if name else checkpoint_key("j", number)
        blobs.put_bytes(key, b"content")
        assert blobs.load(key, Path.read_bytes) == b"content"
        blobs.delete(key)

def same(name, rounds):
    for _ in range(rounds):
        blobs.put_bytes("models/m/same.safetensors", bytes([name]) * 9000)
        try:
            with blobs.open("models/m/same.safetensors") as stream:
                content = stream.read()
            assert content == content[:1] * 9000
            assert len(blobs.load("models/m/same.safetensors", Path.read_bytes)) == 9000
        except NotFound:
            pass
        list(blobs.keys("models"))
        blobs.delete("models/m/same.safetensors")

def guarded(work, name):
    try:
        work(name, int(sys.argv[2]))
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=guarded, args=(work, name))
           for work in (neighbours, same) for name in (0, 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit("; ".join(failed) or 0)
"""


def test_publishing_opening_and_deleting_may_be_done_at_once(blobs: Blobs) -> None:
    command = [sys.executable, "-c", HAMMER, str(blobs.root), "150"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]

    assert [process.communicate()[1] for process in processes] == ["", ""]
    assert files(blobs) == set()
    assert not any((blobs.root / "models").iterdir())


def test_of_two_that_publish_one_key_each_reader_sees_one_whole(blobs: Blobs) -> None:
    key = model_key(new_id("mdl"))
    blobs.put_bytes(key, b"a" * 5000)

    with blobs.open(key) as before:
        blobs.put_bytes(key, b"b" * 3000)
        with blobs.open(key) as after:
            blobs.delete(key)
            assert after.read() == b"b" * 3000
        assert before.read() == b"a" * 5000


def test_a_blob_that_goes_while_it_is_read_is_not_found(blobs: Blobs) -> None:
    content = b"content"
    key = dataset_key(hashlib.sha256(content).hexdigest(), "arrow")

    def read(path: Path) -> bytes:
        blobs.delete(key)
        return path.read_bytes()

    blobs.put_bytes(key, content)
    with pytest.raises(NotFound):
        blobs.load(key, read)


def test_keys_of_one_owner_never_collide() -> None:
    model = new_id("mdl")

    assert model_key(model) != model_key(model)
    assert checkpoint_key("job_1", 2) != checkpoint_key("job_1", 2)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "datasets/../x",
        "datasets/..",
        "datasets/.x",
        "datasets//x",
        "datasets/x/../y",
        "datasets/a/b/c",
        "models",
        "temporary/x",
        "datasets/x\0",
        "datasets/x\n",
        "datasets/X",
    ],
)
def test_no_key_leaves_the_root(blobs: Blobs, key: str) -> None:
    for use in (blobs.open, blobs.path, blobs.exists, blobs.delete):
        with pytest.raises(ValueError, match="not a key"):
            use(key)


def test_keys_lists_what_is_published(blobs: Blobs) -> None:
    model = model_key(new_id("mdl"))
    blobs.put_bytes(KEY, b"")
    blobs.put_bytes(model, b"")
    blobs.temporary().write_bytes(b"")

    assert [key for key, _ in blobs.keys("datasets")] == [KEY]
    assert [key for key, _ in blobs.keys("models")] == [model]
    assert list(blobs.keys("checkpoints")) == []


def test_a_sweep_takes_only_old_temporary_files(blobs: Blobs) -> None:
    blobs.put_bytes(KEY, b"")
    old, young = blobs.temporary(), blobs.temporary()
    for file in (old, young):
        file.write_bytes(b"")
    os.utime(old, (1, 1))

    assert blobs.sweep(older_than_s=3600) == 1
    assert young.exists()
    assert blobs.sweep() == 1
    assert files(blobs) == {KEY}


def test_files_of_strangers_are_not_listed(blobs: Blobs) -> None:
    blobs.put_bytes(KEY, b"")
    (blobs.root / "datasets" / ".DS_Store").write_bytes(b"")

    assert [key for key, _ in blobs.keys("datasets")] == [KEY]


WRITER = """
import sys
from pathlib import Path
from service.store.blobs import Blobs
blobs = Blobs(Path(sys.argv[1]))
def write(stream):
    for _ in range(64):
        stream.write(bytes([number % 256]) * 4096)
for number in range(10**9):
    blobs.put(f"models/m{number}/weights.safetensors", write)
    print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_blobs_only(tmp_path: Path) -> None:
    root = tmp_path / "artifacts"
    for reports in (1, 7, 20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            for _ in range(reports):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        process.wait()

        blobs = Blobs(root)
        for number in range(acknowledged + 1):
            content = blobs.path(f"models/m{number}/weights.safetensors").read_bytes()
            assert content == bytes([number % 256]) * 4096 * 64
        blobs.sweep()
        assert all(name.startswith("models/") for name in files(blobs))
