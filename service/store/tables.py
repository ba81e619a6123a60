"""The tables. `migrations` builds them; a test holds the two equal.

Times are microseconds since 1970 and documents are JSON text, so that SQLite and PostgreSQL store
the same. Constraints make illegal states unstorable, whatever the code above them does.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import sqlalchemy as sa

__all__ = [
    "alias_moves",
    "aliases",
    "api_keys",
    "audit",
    "datasets",
    "events",
    "feedback",
    "idempotency_keys",
    "instant",
    "job_datasets",
    "job_models",
    "job_turns",
    "jobs",
    "json_text",
    "metadata",
    "models",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else instant(value)


def instant(stored: int) -> datetime:
    """Return the time that is stored as this number."""
    return _EPOCH + timedelta(microseconds=stored)


def json_text(value: Any) -> str:
    """Return a document as it is stored; NaN and infinities become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


class Json(sa.types.TypeDecorator[Any]):
    """A JSON document as text; NaN and infinities become null, None becomes NULL."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json_text(value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else orjson.loads(value)


# Ids are compared byte by byte: PostgreSQL's other collations would not sort them by time.
Id = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")

_ACTIVE = "status IN ('running', 'cancelling')"
_TERMINAL = "status IN ('succeeded', 'failed', 'cancelled')"

metadata = sa.MetaData()

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner", sa.Text),
    sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("name", sa.Text),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("schema", Json, nullable=False),
    # Of what was uploaded, and of the file that is stored.
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("blob", sa.String(255), nullable=False),
    # No foreign key: a data set outlives its job. Unique: a job leaves one data set at most.
    sa.Column("job_id", Id),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("datasets_by_blob", "blob"),
    sa.Index("datasets_by_job", "job_id", unique=True),
    sa.Index("datasets_by_owner", "owner"),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner", sa.Text),
    sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("tags", Json, nullable=False),
    sa.Column("spec", Json, nullable=False),
    sa.Column("resumed_from", Id),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("progress", Json),
    sa.Column("metrics", Json, nullable=False),
    # The ids stay when what they name is deleted: they say what the job left, not what exists.
    sa.Column("model", Id),
    sa.Column("result", Json),
    sa.Column("error", Json),
    sa.Column("attempts", sa.Integer, nullable=False),
    # Of all attempts, as far as they have recorded it.
    sa.Column("ran_s", sa.Float, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("retry_reason", sa.String(64)),
    sa.Column("worker", sa.String(255)),
    sa.Column("lease_expires_at", Instant),
    sa.Column("cancel_keep", sa.Boolean, nullable=False),
    sa.Column("checkpoint_key", sa.String(255)),
    sa.Column("checkpoint_epoch", sa.Integer),
    sa.Column("checkpoint_attempt", sa.Integer),
    sa.Column("last_event", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("started_at", Instant),
    sa.Column("finished_at", Instant),
    sa.CheckConstraint(
        f"status = 'queued' OR {_ACTIVE} OR {_TERMINAL}", name="jobs_status_is_known"
    ),
    sa.CheckConstraint(
        f"({_ACTIVE}) = (worker IS NOT NULL) AND ({_ACTIVE}) = (lease_expires_at IS NOT NULL)",
        name="jobs_leased_exactly_while_active",
    ),
    sa.CheckConstraint(
        f"({_TERMINAL}) = (finished_at IS NOT NULL)", name="jobs_finished_exactly_when_terminal"
    ),
    sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="jobs_error_says_why"),
    sa.CheckConstraint(
        "model IS NULL OR status IN ('succeeded', 'cancelled')", name="jobs_model_of_ended"
    ),
    sa.CheckConstraint(
        "(checkpoint_key IS NULL) = (checkpoint_epoch IS NULL) AND "
        "(checkpoint_key IS NULL) = (checkpoint_attempt IS NULL)",
        name="jobs_checkpoint_whole",
    ),
    sa.Index("jobs_by_status", "status", "id"),
    sa.Index("jobs_by_lease", "lease_expires_at"),
    sa.Index("jobs_by_turn", "status", "owner", "id"),
)
# A worker runs one job at a time.
sa.Index(
    "jobs_one_per_worker",
    jobs.c.worker,
    unique=True,
    sqlite_where=jobs.c.worker.is_not(None),
    postgresql_where=jobs.c.worker.is_not(None),
)

# When a job of each key was last claimed, as a number that rises; '' stands for no key.
job_turns = sa.Table(
    "job_turns",
    metadata,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
)

# What jobs that have not ended need. Rows go when the job ends, so the foreign keys themselves
# refuse to delete a data set or model that a job still needs.
job_datasets = sa.Table(
    "job_datasets",
    metadata,
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("dataset_id", Id, sa.ForeignKey("datasets.id"), primary_key=True),
    sa.Index("job_datasets_by_dataset", "dataset_id"),
)

job_models = sa.Table(
    "job_models",
    metadata,
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_id", Id, sa.ForeignKey("models.id"), primary_key=True),
    sa.Index("job_models_by_model", "model_id"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("job_id", Id, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("data", Json, nullable=False),
    sqlite_with_rowid=False,
)
# A job ends once.
sa.Index(
    "events_one_end",
    events.c.job_id,
    unique=True,
    sqlite_where=events.c.type == "finished",
    postgresql_where=events.c.type == "finished",
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner", sa.Text),
    sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
    # No foreign key: a model outlives its job. Unique: a job leaves one model at most.
    sa.Column("job_id", Id, unique=True),
    sa.Column("name", sa.Text),
    sa.Column("document", Json, nullable=False),
    sa.Column("weights", sa.String(255), nullable=False),
    # Of the weights.
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("models_by_owner", "owner"),
)

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("model_id", Id, sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("document", Json, nullable=False),
    sa.Column("updated_at", Instant, nullable=False),
    sa.Index("feedback_by_age", "updated_at"),
)

aliases = sa.Table(
    "aliases",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("owner", sa.Text),
    sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false()),
    # Refuses to delete a model that an alias points at.
    sa.Column("model_id", Id, sa.ForeignKey("models.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("moved_at", Instant, nullable=False),
    sa.Index("aliases_by_model", "model_id"),
)

alias_moves = sa.Table(
    "alias_moves",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    # Null: the alias was deleted.
    sa.Column("model_id", Id),
    sa.Column("at", Instant, nullable=False),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("owner", sa.String(255), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("headers", Json, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("idempotency_keys_by_age", "created_at"),
)

# No foreign keys: what an entry tells of may be gone.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", Instant, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("object", sa.String(64), nullable=False),
    sa.Column("details", Json, nullable=False),
    sa.Index("audit_by_object", "object"),
    sa.Index("audit_by_age", "at"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    # Keys of before there were scopes may do everything, as they could.
    sa.Column("scopes", Json, nullable=False, server_default='["predict","train","admin"]'),
    # Limits by their names: `service.store.quotas.Quotas`.
    sa.Column("quotas", Json),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("revoked_at", Instant),
)
