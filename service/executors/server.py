"""One server on one folder: its lock, its socket, its database, its processes."""

from __future__ import annotations

import fcntl
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import structlog

from service.errors import StorageFull
from service.executors.housekeeping import Housekeeping
from service.executors.local import StartFailed, Supervisor
from service.observe.logs import configure_logs
from service.settings import Settings
from service.store.blobs import Blobs
from service.store.database import Database
from service.store.datasets import Datasets
from service.store.jobs import Jobs
from service.store.keys import ApiKeys
from service.store.retention import Limit, Retention
from service.store.sweep import missing, sweep

__all__ = ["CannotServe", "serve"]

logger = structlog.get_logger(__name__)


class CannotServe(Exception):
    """The server cannot start; the message says why and what would do."""


def serve(settings: Settings) -> None:
    """Run the server until it is told to stop; raises CannotServe.

    Prints one line with its URL on standard output once it is ready.
    """
    configure_logs(settings.log_level, process="supervisor")
    with _owning(settings):
        database = Database(settings.database_url)
        database.migrate()
        jobs = Jobs(database, _now, lease_s=settings.lease_s, max_failures=settings.max_attempts)
        _check_keys(settings, ApiKeys(database, _now))
        # This server holds the folder's lock: whoever had jobs before is gone.
        try:
            jobs.void_leases()
        except StorageFull as error:  # they run out by themselves, in half a minute
            logger.error("the leases of before cannot be ended now", detail=error.detail)
        blobs = Blobs(settings.artifacts_path)
        sweep(database, blobs)
        for name in missing(database, blobs):
            logger.error("its content is missing; restore it from a backup", of=name)
        housekeeping = Housekeeping(
            database, blobs, _retention(settings, database, blobs), every_s=settings.housekeeping_s
        )
        with _listening(settings) as listener, housekeeping:
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            supervisor = Supervisor(settings, listener, jobs, on_ready=lambda: _announce(url))
            try:
                supervisor.run()
            except StartFailed as error:
                raise CannotServe(f"{error}; its log says why") from error
        database.close()


def _retention(settings: Settings, database: Database, blobs: Blobs) -> Retention:
    return Retention(
        database,
        blobs,
        Datasets(database, _now, blobs),
        _now,
        checkpoints=Limit(settings.keep_checkpoints_days, settings.keep_checkpoints_bytes),
        events=Limit(settings.keep_events_days, settings.keep_events_bytes),
        results=Limit(settings.keep_results_days, settings.keep_results_bytes),
        idempotency=Limit(settings.keep_idempotency_days, settings.keep_idempotency_bytes),
        trail=Limit(settings.keep_audit_days, settings.keep_audit_bytes),
    )


def _announce(url: str) -> None:
    sys.stdout.write(f"Bernoulli is ready on {url}\n")
    sys.stdout.flush()


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _owning(settings: Settings) -> Iterator[None]:
    """Hold the locks of the data folder and of the artifacts, which one server owns at a time.

    Another server's files would look forgotten to the sweep at the start.
    """
    artifacts = settings.artifacts_path
    with ExitStack() as locks:
        locks.enter_context(_lock(settings.data, "data folder", "--data"))
        if artifacts.resolve() != settings.data.resolve():
            locks.enter_context(_lock(artifacts, "artifacts folder", "BERNOULLI_ARTIFACTS"))
        yield


@contextmanager
def _lock(folder: Path, what: str, setting: str) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise CannotServe(
            f"the {what} {str(folder)!r} cannot be written ({error.strerror}); "
            f"give another by {setting}"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotServe(
                f"another server owns the {what} {str(folder)!r}; "
                f"stop it, or give another folder by {setting}"
            ) from error
        yield


def _check_keys(settings: Settings, keys: ApiKeys) -> None:
    """Refuse to listen where others can reach it, unless they need a key to get in."""
    if settings.is_loopback or settings.auth == "off" or settings.configured_keys():
        return
    if any(key.revoked_at is None for key in keys.list()):
        return
    raise CannotServe(
        f"without API keys the server listens on loopback only, not on {settings.host!r}: set "
        "BERNOULLI_KEYS or BERNOULLI_KEYS_FILE, run `bernoulli keys create`, or set "
        "BERNOULLI_AUTH=off to serve everybody who can reach it"
    )


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Bind the socket here, so that a port in use is told at once and outlives the HTTP process."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "not an address"
            raise CannotServe(
                f"cannot listen on {settings.host}:{settings.port} ({reason}); "
                "give another by --host and --port"
            ) from error
        listener.listen(2048)
        yield listener
