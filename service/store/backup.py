"""Backups: a folder with the database and every blob that it refers to, made while a server runs.

    database.db     a snapshot of one instant, by SQLite's backup interface
    artifacts/…     the blobs that its rows refer to, under their keys
    manifest.json   the hash of each of these

A backup appears under its name once it is whole and has been read back, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from service.errors import Conflict, Corrupt, Invalid

__all__ = ["Backup", "back_up", "restore"]

DATABASE, ARTIFACTS, MANIFEST = "database.db", "artifacts", "manifest.json"
_SNAPSHOTS = 20


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    blobs: int
    bytes: int
    """Of the blobs and the database together."""


def back_up(database: Path, artifacts: Path, target: Path) -> Backup:
    """Write a backup of a SQLite file and its blobs to the folder `target`, which may be empty.

    Blobs are linked where `target` is on their disk (they never change), and copied elsewhere.
    Conflict where `target` holds something, or data are deleted faster than they can be copied;
    Corrupt, naming them, where blobs are missing or damaged: then nothing is left of the backup.
    """
    with _whole_folder(target) as draft:
        held = _consistent(database, artifacts, draft)
        hashes = {key: _checked(draft / ARTIFACTS / key, key, held[key]) for key in sorted(held)}
        _check_database(draft / DATABASE)
        manifest = {"format": 1, "database": _sha256(draft / DATABASE), "blobs": hashes}
        (draft / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return _told(target, hashes)


def restore(source: Path, database: Path, artifacts: Path) -> Backup:
    """Copy a backup to where a server without any data will look for it.

    Conflict where something is there already; Corrupt where a file is not what was backed up.
    The database comes last: a server finds all of the backup, or nothing.
    """
    manifest = _manifest(source)
    if database.exists():
        raise Conflict(f"there is a database at {str(database)!r}; restore into an empty folder")
    hashes: Mapping[str, str] = manifest["blobs"]
    with _whole_folder(artifacts) as draft:
        for key, sha256 in hashes.items():
            file = draft / key
            file.parent.mkdir(parents=True, exist_ok=True)
            _copy(source / ARTIFACTS / key, file, sha256)
    database.parent.mkdir(parents=True, exist_ok=True)
    new = database.with_name(f".{database.name}.new")
    _copy(source / DATABASE, new, manifest["database"])
    new.replace(database)
    _flush(database.parent)
    return _told(source, hashes)


def _told(folder: Path, hashes: Mapping[str, str]) -> Backup:
    size = sum((folder / ARTIFACTS / key).stat().st_size for key in hashes)
    return Backup(blobs=len(hashes), bytes=size + (folder / DATABASE).stat().st_size)


def _consistent(database: Path, artifacts: Path, draft: Path) -> dict[str, str | None]:
    """Take a snapshot whose blobs could all be got hold of; return their hashes where known.

    What is deleted between the snapshot and its copy needs another snapshot, without it.
    """
    lost: list[str] = []
    for _ in range(_SNAPSHOTS):
        _snapshot(database, draft / DATABASE)
        held, parts = _referred(draft / DATABASE)
        before, lost = lost, [key for key in held if not _take(artifacts, draft, key)]
        if not lost:
            _take_parts(artifacts, draft, parts, held)
            _drop_others(draft / ARTIFACTS, held)
            return held
        if lost == before:  # still referred to, and not there
            raise Corrupt(
                f"content is missing: {', '.join(lost[:5])}; delete the data sets and models that "
                "have lost theirs, or restore them"
            )
    raise Conflict("data are deleted faster than they can be backed up; try again at a calmer time")


def _snapshot(database: Path, copy: Path) -> None:
    if not database.is_file():
        raise Invalid(f"there is no database at {str(database)!r}; name the server's folder")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.execute("PRAGMA busy_timeout = 30000")
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file


def _referred(database: Path) -> tuple[dict[str, str | None], list[str]]:
    """Return the blobs that rows refer to, with their hashes where rows tell, and working jobs."""
    held: dict[str, str | None] = {}
    with closing(sqlite3.connect(database)) as connection:
        for (key,) in connection.execute("SELECT blob FROM datasets"):
            held[key] = Path(key).stem
        for key, document in connection.execute("SELECT weights, document FROM models"):
            held[key] = (json.loads(document).get("weights") or {}).get("sha256")
        query = "SELECT checkpoint_key FROM jobs WHERE checkpoint_key IS NOT NULL"
        held |= dict.fromkeys((key for (key,) in connection.execute(query)), None)
        working = connection.execute("SELECT id FROM jobs WHERE finished_at IS NULL")
        return held, [job_id for (job_id,) in working]


def _take(artifacts: Path, draft: Path, key: str) -> bool:
    """Link or copy a blob; False where there is none."""
    source, target = artifacts / key, draft / ARTIFACTS / key
    if target.exists():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        return False
    except OSError:  # another disk, or one without links
        new = target.with_name(f"{target.name}.new")
        try:
            shutil.copyfile(source, new)
        except FileNotFoundError:
            return False
        new.replace(target)
    return True


def _take_parts(artifacts: Path, draft: Path, jobs: list[str], held: dict[str, str | None]) -> None:
    """Take what working jobs have done so far: which of it is of use, their checkpoints know."""
    for job_id in jobs:
        for part in (artifacts / "parts" / job_id).glob("*"):
            key = f"parts/{job_id}/{part.name}"
            if _take(artifacts, draft, key):
                held[key] = None


def _drop_others(folder: Path, held: Mapping[str, str | None]) -> None:
    """Remove what only an earlier snapshot referred to."""
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        if file.relative_to(folder).as_posix() not in held:
            file.unlink()


def _checked(file: Path, key: str, sha256: str | None) -> str:
    """Return the hash of a blob, once it is certain that it is what was stored.

    Checkpoints and parts have theirs within: a damaged one costs its job work, and nobody else.
    """
    found = _sha256(file)
    if sha256 is not None and found != sha256:
        raise Corrupt(f"{key} is damaged: its bytes are not those that were stored")
    return found


def _check_database(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        told = connection.execute("PRAGMA integrity_check").fetchone()[0]
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    if told != "ok" or broken is not None:
        raise Corrupt(f"the database is damaged: {told if told != 'ok' else broken}")


def _manifest(source: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = orjson.loads((source / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise Invalid(f"{str(source)!r} is no backup: it has no {MANIFEST}") from error
    if manifest.get("format") != 1:
        raise Invalid(f"{str(source)!r} is a backup of another version")
    return manifest


def _copy(source: Path, target: Path, sha256: str) -> None:
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError as error:
        raise Corrupt(f"the backup has lost {source.name}") from error
    if _sha256(target) != sha256:
        target.unlink()
        raise Corrupt(f"the backup's {source.name} is damaged; nothing was restored")
    _flush(target)


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `target` when the block ends, or is gone."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{str(target)!r} is not empty; give a folder that is, or a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        for path in [*draft.rglob("*"), draft]:
            _flush(path)
        draft.replace(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _flush(target.parent)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
