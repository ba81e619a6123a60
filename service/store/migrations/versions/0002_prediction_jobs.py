"""Jobs that predict: the models that they need, and the data sets that they leave.

Revision: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# As they were at this revision: a revision never follows later changes of `tables`.
ID = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("datasets", sa.Column("job_id", ID))
    op.create_index("datasets_by_job", "datasets", ["job_id"], unique=True)
    op.create_table(
        "job_models",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("model_id", ID, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"]),
        sa.PrimaryKeyConstraint("job_id", "model_id"),
    )
    op.create_index("job_models_by_model", "job_models", ["model_id"])


def downgrade() -> None:
    op.drop_table("job_models")
    op.drop_index("datasets_by_job", "datasets")
    op.drop_column("datasets", "job_id")
