"""New databases for tests: the migrations run once, and each has a copy of what they made."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from service.store.database import Database, sqlite_url

__all__ = ["new_database", "place_database"]


def new_database(file: Path) -> Database:
    """Open a database of the newest schema; what `file` held before stays."""
    place_database(file)
    return Database(sqlite_url(file))


def place_database(file: Path) -> None:
    """Write an empty database of the newest schema, unless there is a file already."""
    if not file.exists():
        file.write_bytes(_empty())


@cache
def _empty() -> bytes:
    # The migrations take 0.1 s, many times what most tests of a store take.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        database = Database(sqlite_url(file))
        database.migrate()
        database.close()  # writes the log of changes into the file
        return file.read_bytes()
