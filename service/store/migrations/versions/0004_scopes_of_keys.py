"""What keys may do, and until when.

Revision: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Keys of before could do everything.
ALL = '["predict","train","admin"]'


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scopes", sa.Text, nullable=False, server_default=ALL))
    op.add_column("api_keys", sa.Column("expires_at", sa.BigInteger))


def downgrade() -> None:
    op.drop_column("api_keys", "expires_at")
    op.drop_column("api_keys", "scopes")
