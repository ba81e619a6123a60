from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.errors import Conflict, StorageFull, Unavailable
from service.store import database as database_module
from service.store.database import Database, is_id, new_id, sqlite_url
from service.store.migrations import config
from service.store.tables import metadata


def test_migrations_build_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        indexes = {
            index["name"]
            for table in metadata.tables
            for index in sa.inspect(connection).get_indexes(table)
        }
        checks = {
            check["name"]: check["sqltext"]
            for check in sa.inspect(connection).get_check_constraints("jobs")
        }

    assert indexes == {i.name for table in metadata.tables.values() for i in table.indexes}
    assert checks == {
        c.name: str(c.sqltext)
        for c in metadata.tables["jobs"].constraints
        if isinstance(c, sa.CheckConstraint)
    }


def test_head_is_the_newest_revision(database: Database) -> None:
    with database.read() as connection:
        script = ScriptDirectory.from_config(config(connection))

    assert script.get_current_head() == database_module.HEAD
    assert database.revision() == database_module.HEAD


def test_migrating_again_changes_nothing_and_imports_no_alembic(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "bernoulli.db")
    Database(url).migrate()
    code = (
        "import sys; from service.store.database import Database;"
        f"Database({url.render_as_string()!r}).migrate();"
        "sys.exit('alembic' in sys.modules or 'torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_downgrade_undoes_the_upgrade(database: Database) -> None:
    with database.write() as connection:
        command.downgrade(config(connection), "base")
        assert sa.inspect(connection).get_table_names() == ["alembic_version"]


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(Conflict, match="newer version"):
        database.migrate()


def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "bernoulli.db").render_as_string()
    code = f"from service.store.database import Database; Database({url!r}).migrate()"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]

    assert [process.wait() for process in processes] == [0, 0]
    assert Database(url).revision() == database_module.HEAD


def test_sqlite_keeps_what_it_acknowledges(database: Database) -> None:
    def pragma(name: str) -> object:
        return connection.scalar(sa.text(f"PRAGMA {name}"))

    with database.read() as connection:
        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("foreign_keys") == 1
        assert pragma("busy_timeout") == 30_000


def test_a_failed_write_leaves_nothing(database: Database) -> None:
    def write_and_fail() -> None:
        with database.write() as connection:
            connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()

    with database.read() as connection:
        assert not sa.inspect(connection).has_table("t")


def test_writers_take_turns_and_readers_do_not_wait(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
        connection.execute(sa.text("INSERT INTO t VALUES (0)"))

    def add() -> None:
        for _ in range(25):
            with database.write() as connection:
                x = connection.scalar(sa.text("SELECT x FROM t"))
                connection.execute(sa.text("UPDATE t SET x = :x"), {"x": x + 1})

    threads = [threading.Thread(target=add) for _ in range(4)]
    with database.read() as reader:
        assert reader.scalar(sa.text("SELECT x FROM t")) == 0
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert reader.scalar(sa.text("SELECT x FROM t")) == 0
    with database.read() as reader:
        assert reader.scalar(sa.text("SELECT x FROM t")) == 100


def test_a_full_disk_is_named(database: Database) -> None:
    def fill() -> None:
        with database.write() as connection:
            pages = connection.scalar(sa.text("PRAGMA page_count"))
            connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
            connection.execute(sa.text("CREATE TABLE t AS SELECT randomblob(1000000) AS x"))

    with pytest.raises(StorageFull):
        fill()


def test_a_database_that_stays_locked_is_named(database: Database) -> None:
    other = Database(database.engine.url)
    with other.read() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
    with (
        database.write(),
        pytest.raises(Unavailable, match="in time"),
        other.write(),
    ):
        pass
    other.close()


def test_ids_sort_by_time_even_within_a_millisecond() -> None:
    ids = [new_id("job") for _ in range(10_000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
    assert all(is_id(i, "job") and not is_id(i, "ds") for i in ids)


def test_ids_of_threads_differ() -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(target=lambda: ids.extend([new_id("job") for _ in range(1000)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(ids)) == 4000


@pytest.mark.parametrize(
    "text",
    ["", "job_", "job", "job_01k", f"job_{'u' * 26}", f"job_{'0' * 26}\n", f"ds_{'0' * 26}", "é"],
)
def test_what_is_no_id_is_told_apart(text: str) -> None:
    assert not is_id(text, "job")
