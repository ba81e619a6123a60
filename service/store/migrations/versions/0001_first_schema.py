"""The first schema: data sets, jobs with their events, models with their aliases, keys.

Revision: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# As they were at this revision: a revision never follows later changes of `tables`.
ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
INSTANT = sa.BigInteger()
JSON = sa.Text()


def upgrade() -> None:
    _create_datasets()
    _create_jobs()
    _create_what_belongs_to_jobs()
    _create_models()
    _create_keys()


def downgrade() -> None:
    op.drop_table("job_datasets")
    op.drop_table("events")
    op.drop_table("aliases")
    op.drop_table("models")
    op.drop_table("jobs")
    op.drop_table("idempotency_keys")
    op.drop_table("datasets")
    op.drop_table("api_keys")
    op.drop_table("alias_moves")


def _create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("name", sa.Text()),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("schema", JSON, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("blob", sa.String(length=255), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("datasets_by_blob", "datasets", ["blob"])


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("resumed_from", ID),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("progress", JSON),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("model", ID),
        sa.Column("result", JSON),
        sa.Column("error", JSON),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_reason", sa.String(length=64)),
        sa.Column("worker", sa.String(length=255)),
        sa.Column("lease_expires_at", INSTANT),
        sa.Column("cancel_keep", sa.Boolean(), nullable=False),
        sa.Column("checkpoint_key", sa.String(length=255)),
        sa.Column("checkpoint_epoch", sa.Integer()),
        sa.Column("checkpoint_attempt", sa.Integer()),
        sa.Column("last_event", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="jobs_error_says_why"),
        sa.CheckConstraint(
            "(status IN ('running', 'cancelling')) = (worker IS NOT NULL) AND "
            "(status IN ('running', 'cancelling')) = (lease_expires_at IS NOT NULL)",
            name="jobs_leased_exactly_while_active",
        ),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
            name="jobs_finished_exactly_when_terminal",
        ),
        sa.CheckConstraint(
            "model IS NULL OR status IN ('succeeded', 'cancelled')", name="jobs_model_of_ended"
        ),
        sa.CheckConstraint(
            "status = 'queued' OR status IN ('running', 'cancelling') OR "
            "status IN ('succeeded', 'failed', 'cancelled')",
            name="jobs_status_is_known",
        ),
        sa.CheckConstraint(
            "(checkpoint_key IS NULL) = (checkpoint_epoch IS NULL) AND "
            "(checkpoint_key IS NULL) = (checkpoint_attempt IS NULL)",
            name="jobs_checkpoint_whole",
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("jobs_by_lease", "jobs", ["lease_expires_at"])
    op.create_index("jobs_by_status", "jobs", ["status", "id"])
    op.create_index(
        "jobs_one_per_worker",
        "jobs",
        ["worker"],
        unique=True,
        sqlite_where=sa.text("worker IS NOT NULL"),
        postgresql_where=sa.text("worker IS NOT NULL"),
    )


def _create_what_belongs_to_jobs() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("data", JSON, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "events_one_end",
        "events",
        ["job_id"],
        unique=True,
        sqlite_where=sa.text("type = 'finished'"),
        postgresql_where=sa.text("type = 'finished'"),
    )
    op.create_table(
        "job_datasets",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("dataset_id", ID, nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"]),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "dataset_id"),
    )
    op.create_index("job_datasets_by_dataset", "job_datasets", ["dataset_id"])


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("job_id", ID),
        sa.Column("name", sa.Text()),
        sa.Column("document", JSON, nullable=False),
        sa.Column("weights", sa.String(length=255), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("job_id"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("model_id", ID),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", "version"),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("model_id", ID, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("moved_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("id"),
    )
    op.create_index("aliases_by_model", "aliases", ["model_id"])


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", JSON, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key"),
    )
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])
