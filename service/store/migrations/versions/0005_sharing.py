"""Whose aliases are whose, and what keys share.

Revision: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SHARED = ("datasets", "jobs", "models", "aliases")


def upgrade() -> None:
    op.add_column("aliases", sa.Column("owner", sa.Text))
    for table in _SHARED:
        shared = sa.Column("shared", sa.Boolean, nullable=False, server_default=sa.false())
        op.add_column(table, shared)


def downgrade() -> None:
    for table in _SHARED:
        op.drop_column(table, "shared")
    op.drop_column("aliases", "owner")
