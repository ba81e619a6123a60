"""How much a key may take, how much it has, and whose turn it was last.

Revision: 0006
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("quotas", sa.Text))
    for table, column in (("datasets", "stored_bytes"), ("models", "bytes")):
        size = sa.Column(column, sa.BigInteger, nullable=False, server_default="0")
        op.add_column(table, size)
        op.create_index(f"{table}_by_owner", table, ["owner"])
    op.create_index("jobs_by_turn", "jobs", ["status", "owner", "id"])
    op.create_table(
        "job_turns",
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    # What a data set's file takes was not written down; it is about what was sent.
    op.execute(sa.text("UPDATE datasets SET stored_bytes = bytes"))
    connection = op.get_bind()
    for row in connection.execute(sa.text("SELECT id, document FROM models")).all():
        size_bytes = json.loads(row.document).get("weights", {}).get("bytes", 0)
        connection.execute(
            sa.text("UPDATE models SET bytes = :size WHERE id = :id"),
            {"size": size_bytes, "id": row.id},
        )


def downgrade() -> None:
    op.drop_table("job_turns")
    op.drop_index("jobs_by_turn", "jobs")
    for table, column in (("datasets", "stored_bytes"), ("models", "bytes")):
        op.drop_index(f"{table}_by_owner", table)
        op.drop_column(table, column)
    op.drop_column("api_keys", "quotas")
