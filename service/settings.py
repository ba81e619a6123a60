"""Settings: one class, read once at the edge; each field is a variable ``BERNOULLI_…``."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

import sqlalchemy as sa
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.store.database import sqlite_url
from service.store.quotas import Quotas
from service.store.room import Room

__all__ = ["Settings", "machine_bytes"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container that this process is in."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        told = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return pages
    return min(pages, int(told)) if told.isdecimal() else pages


class Settings(BaseSettings):
    """How one server runs."""

    model_config = SettingsConfigDict(
        env_prefix="BERNOULLI_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on; beyond loopback only with keys, or with `auth` off."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    data: Path = Path("data")
    """Folder of the embedded database, the artifacts and the lock."""
    workers: Annotated[int, Field(ge=0, le=256)] = 1
    """Processes that train; 0 for a server that only answers."""
    keys: str | None = Field(default=None, repr=False)
    """API keys, separated by commas."""
    keys_file: Path | None = None
    """File with one API key a line; empty lines and those that start with # do not count."""
    auth: Literal["on", "off"] = "on"
    """`off` asks for no key at all, not even beyond loopback."""
    allowed_hosts: str | None = None
    """Names besides loopback's that a server without keys answers to, separated by commas."""
    database: str | None = Field(default=None, repr=False)
    """SQLAlchemy URL; a SQLite file in `data` by default."""
    artifacts: str | None = None
    """Folder for data sets, models and checkpoints; below `data` by default."""
    executor: Literal["local"] = "local"
    """Where jobs run: `local`, in worker processes of this server."""
    lease_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds for which a worker's right to its job is renewed."""
    hang_s: Annotated[float, Field(gt=0)] = 120.0
    """A worker that gives no sign of life for so many seconds is killed."""
    shutdown_s: Annotated[float, Field(gt=0)] = 25.0
    """Seconds that requests in flight and checkpoints get when the server is told to stop."""
    max_attempts: Annotated[int, Field(ge=1)] = 5
    """Attempts that may end by themselves without a new checkpoint before a job has failed."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * 2**20
    """Largest JSON body."""
    max_upload_bytes: Annotated[int, Field(ge=1024)] = 2**30
    """Largest data set or model to upload."""
    head_s: Annotated[float, Field(gt=0)] = 10.0
    """Seconds within which a request's line and headers must come."""
    body_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds within which a body must come, besides those that `min_body_rate` gives."""
    min_body_rate: Annotated[int, Field(ge=1)] = 16 * 2**10
    """Bytes of a body for which it gets a second more."""
    unread_s: Annotated[float, Field(gt=0)] = 60.0
    """Seconds after which a client that does not read its answer is cut off."""
    max_answer_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest time that a prediction, ranking or evaluation online may be computed."""
    max_connections: Annotated[int, Field(ge=1)] = 2048
    """Connections that may be open; more are answered 503."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 10_000
    """Jobs that may wait; more are answered 503."""
    key_stored_bytes: Annotated[int, Field(ge=0)] | None = None
    """Bytes of data sets and models that a key may have, unless it has a quota of its own."""
    key_queued_jobs: Annotated[int, Field(ge=0)] | None = None
    """Jobs of a key that may wait; likewise."""
    key_running_jobs: Annotated[int, Field(ge=0)] | None = None
    """Jobs of a key that run at once; likewise."""
    key_predictions_per_minute: Annotated[int, Field(ge=0)] | None = None
    """Predictions, rankings and evaluations that a key may ask for in a minute; likewise."""
    max_loaded_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Bytes of models kept in memory for predictions."""
    max_waiting_predictions: Annotated[int, Field(ge=0)] = 256
    """Predictions that may wait for a thread; more are answered 503."""
    max_waiting_bytes: Annotated[int, Field(ge=0)] = 2**28
    """Bytes of the rows of these."""
    max_resident_bytes: Annotated[int, Field(ge=1)] | None = None
    """Most bytes of a job's encoded rows in memory; half of the machine's, shared, by default."""
    max_scratch_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most bytes on the disk of a job's encoded rows; half of what is free then by default."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 64 * 2**20
    """Bytes kept free on the disk for the database: below, uploads are refused and jobs wait."""
    keep_checkpoints_days: Annotated[float, Field(ge=0)] | None = None
    """Days for which an ended job can be gone on from; for ever by default."""
    keep_checkpoints_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most bytes of what ended jobs can be gone on from; the oldest go first."""
    keep_events_days: Annotated[float, Field(ge=0)] | None = None
    """Days for which an ended job's events are kept, but for the last; for ever by default."""
    keep_events_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most bytes of ended jobs' events; those of the jobs that ended first go first."""
    keep_results_days: Annotated[float, Field(ge=0)] | None = None
    """Days for which data sets that jobs have left are kept; for ever by default."""
    keep_results_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most bytes of data sets that jobs have left; the oldest go first."""
    keep_idempotency_days: Annotated[float, Field(ge=1)] = 2.0
    """Days for which the first answer to an Idempotency-Key is given again."""
    keep_idempotency_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most bytes of answers to keys that are older than a day; the oldest go first."""
    keep_audit_days: Annotated[float, Field(ge=0)] | None = None
    """Days for which the audit trail's entries are kept; for ever by default."""
    keep_audit_bytes: Annotated[int, Field(ge=0)] | None = None
    """Most bytes of the audit trail; the oldest entries go first."""
    housekeeping_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds between two looks for what is past these limits, or has been left behind."""
    max_job_bytes: Annotated[int, Field(ge=1)] | None = None
    """Most bytes of memory that a job may allocate beyond what its worker has; no limit if none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the log lines on standard error; `debug` has one for each request."""

    @field_validator("database")
    @classmethod
    def _database_is_served(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("sqlite:"):
            raise ValueError(
                "this version keeps its database in SQLite: give a sqlite:/// URL or leave it out"
            )
        return value

    @field_validator("artifacts")
    @classmethod
    def _artifacts_are_a_folder(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            raise ValueError(
                "this version keeps its artifacts in a folder: give a path or leave it out"
            )
        return value

    @model_validator(mode="after")
    def _keys_can_be_read(self) -> Self:
        if self.keys_file is not None and not self.keys_file.is_file():
            raise ValueError(f"`keys_file` {str(self.keys_file)!r} is not a readable file")
        return self

    @property
    def database_url(self) -> str | sa.URL:
        """The SQLAlchemy URL of the database."""
        return self.database or sqlite_url(self.data / "bernoulli.db")

    @property
    def artifacts_path(self) -> Path:
        """The folder of data sets, models and checkpoints."""
        return Path(self.artifacts) if self.artifacts is not None else self.data / "artifacts"

    def room(self) -> Room:
        """Return the room on the disks of the database and the artifacts."""
        return Room(self.data, self.artifacts_path, min_free_bytes=self.min_free_bytes)

    @property
    def quotas(self) -> Quotas:
        """The quotas of keys that have none of their own."""
        return Quotas(
            stored_bytes=self.key_stored_bytes,
            queued_jobs=self.key_queued_jobs,
            running_jobs=self.key_running_jobs,
            predictions_per_minute=self.key_predictions_per_minute,
        )

    @property
    def resident_bytes(self) -> int:
        """Most bytes of encoded rows that a worker holds in memory."""
        if self.max_resident_bytes is not None:
            return self.max_resident_bytes
        return max(1, machine_bytes() // (2 * max(1, self.workers)))

    def configured_keys(self) -> tuple[str, ...]:
        """Return the keys of `keys` and `keys_file`."""
        given = [] if self.keys is None else self.keys.split(",")
        if self.keys_file is not None:
            given += [
                line
                for line in self.keys_file.read_text().splitlines()
                if not line.lstrip().startswith("#")
            ]
        return tuple(key.strip() for key in given if key.strip())

    @property
    def allowed_host_names(self) -> frozenset[str]:
        """The names in `allowed_hosts`, in lower case."""
        names = (name.strip().lower() for name in (self.allowed_hosts or "").split(","))
        return frozenset(name for name in names if name)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def environment(self) -> dict[str, str]:
        """Return the variables from which a child process reads the same settings."""
        variables: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None:
                path = value.absolute() if isinstance(value, Path) else value
                variables[f"BERNOULLI_{name.upper()}"] = str(path)
        return variables
