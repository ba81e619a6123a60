"""How long jobs have run, over all their attempts.

Revision: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("ran_s", sa.Float, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("jobs", "ran_s")
