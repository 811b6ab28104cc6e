"""Answers from earlier searches, and retrained answers.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("searches", sa.Column("question", sa.Text(), nullable=True), schema="lambda_search")
    op.add_column("searches", sa.Column("answered_from", sa.Uuid(), nullable=True), schema="lambda_search")
    op.add_column(
        "searches",
        sa.Column("retrained", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        schema="lambda_search",
    )
    op.create_index(
        "ix_searches_answered",
        "searches",
        ["question", "finished_at"],
        unique=False,
        schema="lambda_search",
        postgresql_where=sa.text("status = 'succeeded'"),
    )


def downgrade() -> None:
    op.drop_index(
        "ix_searches_answered",
        table_name="searches",
        schema="lambda_search",
        postgresql_where=sa.text("status = 'succeeded'"),
    )
    for name in ("retrained", "answered_from", "question"):
        op.drop_column("searches", name, schema="lambda_search")
