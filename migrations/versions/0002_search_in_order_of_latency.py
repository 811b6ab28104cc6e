"""Search in order of latency: predictions, rounds of the certificate, candidates left unresolved.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = "'pending','dropped','survived','qualified','unqualified'"


def upgrade() -> None:
    op.create_table(
        "latency_models",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("model", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("scope_fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("scope", name=op.f("pk_latency_models")),
        schema="lambda_search",
    )
    op.add_column("trials", sa.Column("predicted_latency_s", sa.Double(), nullable=True), schema="lambda_search")
    op.drop_constraint(op.f("ck_trials_state"), "trials", schema="lambda_search", type_="check")
    op.create_check_constraint(
        op.f("ck_trials_state"), "trials", f"state in ({STATES},'unresolved')", schema="lambda_search"
    )
    op.create_index(
        "ix_trials_free",
        "trials",
        ["search_id", "predicted_latency_s", "number"],
        unique=False,
        schema="lambda_search",
        postgresql_where=sa.text("state = 'pending' and token_no is null"),
    )
    for name in ("latency_model", "round"):
        op.add_column(
            "searches",
            sa.Column(name, postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
            schema="lambda_search",
        )


def downgrade() -> None:
    for name in ("latency_model", "round"):
        op.drop_column("searches", name, schema="lambda_search")
    op.drop_index(
        "ix_trials_free",
        table_name="trials",
        schema="lambda_search",
        postgresql_where=sa.text("state = 'pending' and token_no is null"),
    )
    op.execute("update lambda_search.trials set state = 'unqualified' where state = 'unresolved'")
    op.drop_constraint(op.f("ck_trials_state"), "trials", schema="lambda_search", type_="check")
    op.create_check_constraint(op.f("ck_trials_state"), "trials", f"state in ({STATES})", schema="lambda_search")
    op.drop_column("trials", "predicted_latency_s", schema="lambda_search")
    op.drop_table("latency_models", schema="lambda_search")
