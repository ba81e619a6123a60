"""The database: connections that are safe between threads and processes, and its schema.

Every change is one transaction opened by `Database.write`. On SQLite it takes the write lock at
once, so what it reads cannot change before it writes; statements lock the rows they decide on
(`FOR UPDATE`) for the sake of PostgreSQL, which SQLite's dialect leaves out.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection

from service.errors import Conflict, Corrupt, Invalid, ServiceError, StorageFull, Unavailable

__all__ = [
    "Clock",
    "Database",
    "Fetch",
    "Page",
    "is_id",
    "new_id",
    "newest_first",
    "plain_text",
    "sqlite_url",
]

T = TypeVar("T")

#: Says what time it is, in UTC; injected, so that tests need not wait.
Clock = Callable[[], datetime]

#: The newest revision in `migrations/versions`; known here so that a database which is up to date
#: is opened without importing Alembic.
HEAD = "0008"

BUSY_TIMEOUT_MS = 30_000
# Crockford's base 32: in ASCII order, so that ids sort as the numbers they write.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID = re.compile(r"[a-z]+_[0-9a-hjkmnp-tv-z]{26}")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list, and whether more follows it."""

    data: list[T]
    has_more: bool


class Fetch:
    """A query for `Database.fetch`, built once; its parameters are given by name."""

    def __init__(self, statement: sa.Select[Any]) -> None:
        """Its columns and parameters are of types that drivers know."""
        self.statement = statement
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        self.sqlite = str(compiled)
        self.constants = {name: own for name, own in compiled.params.items() if own is not None}


class Database:
    """One SQLAlchemy URL, from `sqlite_url` or `postgresql+psycopg://…`; call `migrate` first.

    Safe to share between threads; every process opens its own.
    """

    def __init__(self, url: str | sa.URL) -> None:
        self.engine = sa.create_engine(url, pool_size=8, max_overflow=56, pool_timeout=60)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # SQLite's own wait for its one writer is a sleep that grows to 100 ms; threads of one
        # process queue here instead, and only other processes are waited for by sleeping.
        self._writing = threading.Lock()
        self._fetching = threading.Lock()
        self._fetcher: sqlite3.Cursor | None = None
        """Of a connection that changes nothing; its transactions are single statements."""
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine, "begin", _begin_sqlite)
        self._writer = self.engine.execution_options(immediate=True)

    def migrate(self) -> None:
        """Bring the schema up to date; quick when it already is."""
        revision = self.revision()
        if revision == HEAD:
            return
        if revision is not None and revision > HEAD:  # revisions are numbered
            raise Conflict(
                f"the database has the schema {revision} of a newer version of this service, which "
                f"knows schemas up to {HEAD}; start that version"
            )
        from service.store.migrations import upgrade  # Alembic takes 0.2 s to import

        with self.write() as connection:
            self.lock(connection, "migrate")
            upgrade(connection)

    def revision(self) -> str | None:
        """The schema's revision; None where there is no schema yet."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(
                sa.text("SELECT version_num FROM alembic_version")
            )
            return revision

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view of the database; waits for no writer."""
        with _own_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that is on the disk when the block ends, or never was."""
        connect = self._writer.connect
        with _own_errors(), self._queue(), connect() as connection, connection.begin():
            yield connection

    def version(self) -> int | None:
        """Return a number that is another one after every change, whoever made it.

        It takes some microseconds, and what was read before is still true while it is the same.
        None where the database has no such number: then nothing read may be kept.
        """
        if not self.is_sqlite:
            return None
        with _own_errors(), self._fetching:
            # SQLite counts what other connections commit, and this one commits nothing.
            version: int = self._cursor().execute("PRAGMA data_version").fetchone()[0]
        return version

    def fetch(self, query: Fetch, **given: Any) -> Sequence[Any]:
        """Return all rows of a query, in their driver's types.

        For what is asked several times a second while a job wants the cores: with SQLite it takes a
        sixth of the time of `read`, as SQLAlchemy has no part in it.
        """
        if not self.is_sqlite:
            with self.read() as connection:
                return connection.execute(query.statement, given).all()
        with _own_errors(), self._fetching:
            return self._cursor().execute(query.sqlite, query.constants | given).fetchall()

    def _cursor(self) -> sqlite3.Cursor:
        if self._fetcher is None:
            self._fetcher = sqlite3.connect(
                str(self.engine.url.database),
                timeout=BUSY_TIMEOUT_MS / 1000,
                check_same_thread=False,
                isolation_level=None,
            ).cursor()
        return self._fetcher

    def lock(self, connection: sa.Connection, name: str) -> None:
        """Hold `name` against every other transaction until this one ends."""
        if not self.is_sqlite:  # there, a write transaction excludes all others anyway
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))

    def close(self) -> None:
        with self._fetching:
            if self._fetcher is not None:
                self._fetcher.connection.close()
                self._fetcher = None
        self.engine.dispose()

    @contextmanager
    def _queue(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=2 * BUSY_TIMEOUT_MS / 1000):
            raise _slow()
        try:
            yield
        finally:
            self._writing.release()


def sqlite_url(file: Path) -> sa.URL:
    """The URL of a database file, whatever characters its path has."""
    return sa.URL.create("sqlite", database=str(file))


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The sqlite3 module shall not open transactions by itself: `_begin_sqlite` does.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    # An acknowledged commit survives the machine's power, not only the process.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


@contextmanager
def _own_errors() -> Iterator[None]:
    """Name the database's troubles that are nobody's mistake: a full disk, a lock held too long."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:  # the pool has let go of it, and opens another
            raise _slow() from error
        own = _own(error.orig, lost=isinstance(error, OperationalError))
        if own is None:
            raise
        raise own from error
    except sqlite3.Error as error:  # of a connection that is not SQLAlchemy's
        own = _own(error, lost=False)
        if own is None:
            raise
        raise own from error
    except NoConnection as error:
        raise _slow() from error


_NO_ROOM = (
    "the database's disk is full; nothing was changed. Have room made on the disk, and send this "
    "again"
)
_UNABLE = {
    sqlite3.SQLITE_IOERR: "the database's disk fails to read or write",
    sqlite3.SQLITE_READONLY: "the database cannot be written: its file or folder is read-only",
    sqlite3.SQLITE_CANTOPEN: "the database's files cannot be opened: they are not accessible, or "
    "the server has too many files open",
    sqlite3.SQLITE_PERM: "the database's files are not accessible",
    sqlite3.SQLITE_NOMEM: "the database has not enough memory",
}


def _own(error: object, *, lost: bool) -> ServiceError | None:
    """Return what a driver's error means to callers; None for what is a mistake of the code.

    `lost` where SQLAlchemy takes it for a trouble of the database's operation or connection.
    """
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    state = getattr(error, "sqlstate", None)  # PostgreSQL's
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE or state == "53100":
        return StorageFull(_NO_ROOM)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Corrupt("the database's file is damaged; restore it from a backup")
    if code in _UNABLE:
        return Unavailable(f"{_UNABLE[code]}; nothing was changed", retry_after_s=10)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return _slow()
    # PostgreSQL ended the connection or never took it (`state` is then None or of class 57 or 08).
    return _slow() if lost and not isinstance(error, sqlite3.Error) else None


def _slow() -> Unavailable:
    return Unavailable("the database does not answer in time", retry_after_s=5)


_id_lock = threading.Lock()
_last_id = 0


def new_id(prefix: str) -> str:
    """A fresh id such as ``job_01k…``: 26 characters that sort by time, rising within a process."""
    global _last_id
    # A ULID: 48 bits of milliseconds, then 80 random ones; at most +1 where that would not rise.
    drawn = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    with _id_lock:
        _last_id = max(drawn, _last_id + 1)
        number = _last_id
    digits = (_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
    return f"{prefix}_{''.join(digits)}"


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` has the form of an id with this prefix."""
    return text.startswith(f"{prefix}_") and _ID.fullmatch(text) is not None


def newest_first(
    connection: sa.Connection,
    query: sa.Select[Any],
    id_column: sa.Column[Any],
    *,
    limit: int,
    after: str | None,
    prefix: str,
) -> Page[sa.Row[Any]]:
    """The page of `query` that follows the id `after`, in falling order of ids.

    `after` marks a place in time: it may have been deleted since, so that a deletion never breaks
    a reader in mid-list. What is not an id of this kind at all is `Invalid`.
    """
    if after is not None:
        if not is_id(after, prefix):
            raise Invalid(
                f"`after` must be an id such as the last one of the page before, "
                f"{prefix}_…, got {after[:80]!r}",
                pointer="#/after",
            )
        query = query.where(id_column < after)
    rows = connection.execute(query.order_by(id_column.desc()).limit(limit + 1)).all()
    return Page(data=list(rows[:limit]), has_more=len(rows) > limit)


def plain_text(text: str | None, *, pointer: str) -> str | None:
    """`text`, once it is known that any database can store it: no control characters."""
    if text is not None and any(ord(c) < 32 or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise Invalid(
            f"must be text without control characters, got {text[:80]!r}", pointer=pointer
        )
    return text
