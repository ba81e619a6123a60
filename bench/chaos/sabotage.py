"""Damage done on purpose, each kind of which the checks have to see."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bench.chaos.seen import FIGURES, Seen
from bench.chaos.twins import Calm

__all__ = ["EXPECTED", "damage"]

EXPECTED = (
    *FIGURES,
    "acknowledged uploads lost",
    "moves of aliases lost",
    "repeated requests answered anew",
    "deletions undone",
)


def damage(data: Path, calm: Calm, seen: Seen) -> None:
    """Damage what a server that is not running has stored, once in each way."""
    with closing(sqlite3.connect(data / "bernoulli.db")) as database, database:
        database.execute("PRAGMA foreign_keys = OFF")
        jobs = _compared(database, seen)
        _forget_job(database, jobs.pop())
        _forget_epoch(database, jobs.pop())
        _run_twice(database, jobs.pop())
        _rot(database, data / "artifacts", jobs.pop())
        _retrain(database, data / "artifacts", calm.models["momentum"])
        lost, undone, *_ = _kept_uploads(seen)
        _each(database, "DELETE FROM datasets WHERE id = ?", lost)
        _each(database, "UPDATE aliases SET model_id = ?", calm.models["search"])
        _each(database, "DELETE FROM idempotency_keys WHERE key = ?", seen.asked[0].key)
        seen.removed.add(f"/datasets/{undone}")


def _each(database: sqlite3.Connection, statement: str, value: str) -> None:
    changed = database.execute(statement, (value,)).rowcount
    assert changed > 0, statement


def _compared(database: sqlite3.Connection, seen: Seen) -> list[str]:
    """Return jobs that left a model of their own training."""
    query = "SELECT id FROM jobs WHERE kind = 'train' AND status = 'succeeded'"
    found = [job_id for (job_id,) in database.execute(query)]
    return [each for each in found if each in seen.jobs and each not in seen.removing]


def _kept_uploads(seen: Seen) -> list[str]:
    return [each for each in seen.uploads if f"/datasets/{each}" not in seen.removed]


def _forget_job(database: sqlite3.Connection, job_id: str) -> None:
    _each(database, "DELETE FROM jobs WHERE id = ?", job_id)


def _forget_epoch(database: sqlite3.Connection, job_id: str) -> None:
    """Leave out one epoch of a job's history."""
    query = "SELECT min(id) FROM events WHERE job_id = ? AND type = 'epoch'"
    (number,) = database.execute(query, (job_id,)).fetchone()
    _each(database, f"DELETE FROM events WHERE id = {number:d} AND job_id = ?", job_id)


def _run_twice(database: sqlite3.Connection, job_id: str) -> None:
    """Have a job leave a second model, which the schema itself would refuse."""
    database.execute("CREATE TABLE copies AS SELECT * FROM models")
    database.execute("DROP TABLE models")
    database.execute("ALTER TABLE copies RENAME TO models")
    row = database.execute("SELECT * FROM models WHERE job_id = ?", (job_id,)).fetchone()
    other = row[0][:-1] + ("0" if row[0][-1] != "0" else "1")
    marks = ", ".join("?" * len(row))
    database.execute(f"INSERT INTO models VALUES ({marks})", (other, *row[1:]))


def _rot(database: sqlite3.Connection, artifacts: Path, job_id: str) -> None:
    """Flip a bit of a model's weights."""
    _change(artifacts / _weights(database, "job_id", job_id), lambda byte: byte ^ 1)


def _retrain(database: sqlite3.Connection, artifacts: Path, model: str) -> None:
    """Have a model answer otherwise, with hashes as they should be."""
    file = artifacts / _weights(database, "id", model)
    sha256 = _change(file, lambda byte: byte ^ 1)
    (told,) = database.execute("SELECT document FROM models WHERE id = ?", (model,)).fetchone()
    document = json.loads(told)
    document["weights"]["sha256"] = sha256
    change = "UPDATE models SET document = ? WHERE id = ?"
    database.execute(change, (json.dumps(document, separators=(",", ":")), model))


def _weights(database: sqlite3.Connection, column: str, value: str) -> str:
    query = f"SELECT weights FROM models WHERE {column} = ?"
    return str(database.execute(query, (value,)).fetchone()[0])


def _change(file: Path, how: Callable[[int], int]) -> str:
    """Change the last number of a file of weights, where its exponent is; return the new hash."""
    content = bytearray(file.read_bytes())
    content[-1] = how(content[-1])
    file.unlink()
    file.write_bytes(content)
    return hashlib.sha256(content).hexdigest()
