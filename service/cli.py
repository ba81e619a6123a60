"""The `bernoulli` command."""

from __future__ import annotations

import re
import sqlite3
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
import pydantic
import sqlalchemy as sa
import typer
from rich.console import Console
from rich.table import Table

import engine
from service.errors import ServiceError
from service.executors.server import CannotServe
from service.executors.server import serve as run_server
from service.settings import Settings
from service.store.backup import back_up
from service.store.backup import restore as restore_backup
from service.store.database import Database
from service.store.keys import ApiKeys
from service.store.quotas import Quotas

__all__ = ["app", "main"]

app = typer.Typer(
    name="bernoulli",
    help="Train neural networks over HTTP, and predict with their uncertainty.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="API keys of the server on a data folder.", no_args_is_help=True)
app.add_typer(keys, name="keys")

DataOption = Annotated[
    Path | None, typer.Option(help="Folder of the server.", envvar="BERNOULLI_DATA")
]


def main() -> None:
    """Run the command line."""
    app()


def _fail(message: str, code: int = 1) -> typer.Exit:
    typer.echo(f"bernoulli: {message}", err=True)
    return typer.Exit(code)


def _settings(**flags: Any) -> Settings:
    """Read the settings; flags that were given go before the environment."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except pydantic.ValidationError as error:
        lines = [
            f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}"
            for item in error.errors()
        ]
        raise _fail("; ".join(lines), 2) from error


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bernoulli {engine.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of everything that is kept.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that train.")] = None,
) -> None:
    """Start everything that one machine needs, and print the URL when it is ready."""
    try:
        run_server(_settings(host=host, port=port, data=data, workers=workers))
    except (CannotServe, ServiceError) as error:
        raise _fail(str(error)) from error


@app.command()
def openapi(
    output: Annotated[
        Path | None, typer.Option(help="File to write; standard output if none.")
    ] = None,
) -> None:
    """Print the description of the HTTP interface, as the server gives it."""
    from service.app import create_app

    document = create_app(_settings()).openapi()
    content = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if output is None:
        typer.echo(content.decode(), nl=False)
    else:
        output.write_bytes(content)


def _places(data: Path | None) -> tuple[Path, Path]:
    """Return the file of the database and the folder of the artifacts."""
    settings = _settings(data=data)
    file = sa.engine.make_url(settings.database_url).database
    if not file:
        raise _fail("the database is no file; back it up with its own tools", 2)
    return Path(file), settings.artifacts_path


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Folder to write, new or empty.")],
    data: DataOption = None,
) -> None:
    """Write a backup of everything that a server keeps, while it runs or not."""
    try:
        made = back_up(*_places(data), folder)
    except (ServiceError, OSError, sqlite3.Error) as error:
        raise _fail(f"no backup was made: {error}") from error
    typer.echo(f"{folder}: the database and {made.blobs} files, {made.bytes} bytes, read back")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of a backup.")],
    data: DataOption = None,
) -> None:
    """Put a backup where a server that has no data yet will find it; then start the server."""
    try:
        found = restore_backup(folder, *_places(data))
    except (ServiceError, OSError) as error:
        raise _fail(f"nothing was restored: {error}") from error
    typer.echo(f"restored the database and {found.blobs} files, {found.bytes} bytes")


def _keys(data: Path | None) -> ApiKeys:
    settings = _settings(data=data)
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    database.migrate()
    return ApiKeys(database, lambda: datetime.now(UTC))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    scopes: Annotated[
        str,
        typer.Option(
            help="What it may do, of predict, train and admin, which may do all and sees what "
            "belongs to other keys."
        ),
    ] = "predict,train",
    expires: Annotated[
        str | None,
        typer.Option(help="When it becomes void: in 90d or 12h, or on 2027-01-31; never if none."),
    ] = None,
    stored_bytes: Annotated[
        int | None, typer.Option(min=0, help="Bytes of data sets and models that it may have.")
    ] = None,
    queued_jobs: Annotated[
        int | None, typer.Option(min=0, help="Jobs of it that may wait.")
    ] = None,
    running_jobs: Annotated[
        int | None, typer.Option(min=0, help="Jobs of it that may run at once.")
    ] = None,
    predictions_per_minute: Annotated[
        int | None, typer.Option(min=0, help="Predictions that it may ask for in a minute.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Make a key and print its id and its secret, this once. A running server knows it at once."""
    chosen = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    quotas = Quotas(
        stored_bytes=stored_bytes,
        queued_jobs=queued_jobs,
        running_jobs=running_jobs,
        predictions_per_minute=predictions_per_minute,
    )
    expires_at = None if expires is None else _instant(expires)
    try:
        key, secret = _keys(data).create(name, scopes=chosen, expires_at=expires_at, quotas=quotas)
    except ServiceError as error:
        raise _fail(error.detail) from error
    typer.echo(f"{key.id} {secret}")


def _instant(text: str) -> datetime:
    """Return when `90d`, `12h` or `30m` are over, or an ISO 8601 date or time, in UTC, is."""
    found = re.fullmatch(r"(\d{1,6})([dhm])", text)
    try:
        if found is not None:
            unit = {"d": "days", "h": "hours", "m": "minutes"}[found.group(2)]
            return datetime.now(UTC) + timedelta(**{unit: int(found.group(1))})
        told = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise _fail(
            f"--expires is 90d, 12h or 30m, or a date such as 2027-01-31, not {text!r}", 2
        ) from error
    return told if told.tzinfo is not None else told.replace(tzinfo=UTC)


@keys.command("list")
def list_keys(data: DataOption = None) -> None:
    """List the keys, without their secrets."""
    table = Table("id", "name", "scopes", "quotas", "created", "expires", "revoked")
    for key in _keys(data).list():
        table.add_row(
            key.id,
            key.name,
            ",".join(key.scopes),
            " ".join(f"{name}={value}" for name, value in key.quotas.given().items()),
            *map(_minute, (key.created_at, key.expires_at, key.revoked_at)),
        )
    # As wide as it is: what is read by a program, or copied, is not to be cut.
    Console(width=None if sys.stdout.isatty() else 1000).print(table)


def _minute(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key.")], data: DataOption = None
) -> None:
    """Make a key void from now on, for a running server, too."""
    try:
        key = _keys(data).revoke(key_id)
    except ServiceError as error:
        raise _fail(error.detail) from error
    typer.echo(f"{key.id} is revoked")


if __name__ == "__main__":
    main()
