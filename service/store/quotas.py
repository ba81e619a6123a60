"""Quotas: how much of the server one key may take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa

from service.errors import QuotaExceeded
from service.store import tables

__all__ = [
    "NO_QUOTAS",
    "Quotas",
    "check_queued",
    "check_stored",
    "own_quotas",
    "running_limits",
]

KEYS = tables.api_keys
DATASETS = tables.datasets
MODELS = tables.models
JOBS = tables.jobs

_RETRY_S = 30


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """The most that one key may have; None where there is no limit."""

    stored_bytes: int | None = None
    """Of data sets and models."""
    queued_jobs: int | None = None
    running_jobs: int | None = None
    """At once; more wait, and jobs of other keys go before them."""
    predictions_per_minute: int | None = None
    """Of `/predict`, `/rank` and `/evaluate`."""

    def over(self, default: Quotas) -> Quotas:
        """Return these, and the default ones where these have no limit."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return Quotas(**{**asdict(default), **own})

    def given(self) -> dict[str, int]:
        """Return the limits that there are, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


NO_QUOTAS = Quotas()
NAMES = tuple(field.name for field in fields(Quotas))


def own_quotas(connection: sa.Connection, owner: str, default: Quotas) -> Quotas:
    """The quotas of a key; those of one that is not stored are the default."""
    stored = connection.scalar(sa.select(KEYS.c.quotas).where(KEYS.c.id == owner))
    return Quotas(**(stored or {})).over(default)


def check_stored(connection: sa.Connection, owner: str | None, added: int, default: Quotas) -> None:
    """Raise QuotaExceeded where a key would have more bytes stored than it may.

    `added` of 0 asks whether there is any room left.
    """
    if owner is None:
        return
    limit = own_quotas(connection, owner, default).stored_bytes
    if limit is None:
        return
    stored = sum(
        connection.scalar(sa.select(sa.func.sum(column)).where(table.c.owner == owner)) or 0
        for table, column in ((DATASETS, DATASETS.c.stored_bytes), (MODELS, MODELS.c.bytes))
    )
    if stored + added > limit or (added == 0 and stored >= limit):
        more = f", and this would add {added}" if added else ""
        raise QuotaExceeded(
            f"the quota `stored_bytes` of this key is {limit}: its data sets and models have "
            f"{stored} bytes{more}; delete some",
            retry_after_s=_RETRY_S,
        )


def check_queued(connection: sa.Connection, owner: str | None, default: Quotas) -> None:
    """Raise QuotaExceeded where a key has as many jobs waiting as it may."""
    if owner is None:
        return
    limit = own_quotas(connection, owner, default).queued_jobs
    if limit is None:
        return
    waiting = sa.select(sa.func.count()).where(JOBS.c.status == "queued", JOBS.c.owner == owner)
    count = connection.scalar(waiting) or 0
    if count >= limit:
        raise QuotaExceeded(
            f"the quota `queued_jobs` of this key is {limit}: {count} of its jobs wait already",
            retry_after_s=_RETRY_S,
        )


def running_limits(
    connection: sa.Connection, owners: Iterable[str], default: Quotas
) -> dict[str, int]:
    """How many jobs each of these keys may have running, where there is a limit."""
    wanted = list(owners)
    query = sa.select(KEYS.c.id, KEYS.c.quotas).where(KEYS.c.id.in_(wanted))
    stored = {row.id: Quotas(**(row.quotas or {})) for row in connection.execute(query)}
    found = {owner: stored.get(owner, NO_QUOTAS).over(default).running_jobs for owner in wanted}
    return {owner: limit for owner, limit in found.items() if limit is not None}
