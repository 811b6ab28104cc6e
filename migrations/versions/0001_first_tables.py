"""First tables.

Revision: 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluation_scopes",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_evaluation_scopes")),
        schema="lambda_search",
    )
    op.create_table(
        "timings",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("scope_fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.PrimaryKeyConstraint("scope", "candidate", name=op.f("pk_timings")),
        schema="lambda_search",
    )
    op.create_table(
        "trainings",
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("iteration", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("uri", sa.Text(), nullable=True),
        sa.Column("owner_search_id", sa.Uuid(), nullable=True),
        sa.Column(
            "history", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.PrimaryKeyConstraint("recipe", name=op.f("pk_trainings")),
        schema="lambda_search",
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("fingerprint", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("families", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        schema="lambda_search",
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("config", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("quality", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["recipe"], ["lambda_search.trainings.recipe"], name=op.f("fk_checkpoints_recipe_trainings")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("recipe", name=op.f("uq_checkpoints_recipe")),
        schema="lambda_search",
    )
    op.create_table(
        "episode_digests",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["scope"], ["lambda_search.evaluation_scopes.key"], name=op.f("fk_episode_digests_scope_evaluation_scopes")
        ),
        sa.PrimaryKeyConstraint("scope", "block", name=op.f("pk_episode_digests")),
        schema="lambda_search",
    )
    op.create_table(
        "evaluations",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("qualities", sa.ARRAY(sa.REAL()), nullable=False),
        sa.Column("provenance", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["scope"], ["lambda_search.evaluation_scopes.key"], name=op.f("fk_evaluations_scope_evaluation_scopes")
        ),
        sa.PrimaryKeyConstraint("scope", "candidate", "block", name=op.f("pk_evaluations")),
        schema="lambda_search",
    )
    op.create_table(
        "searches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column(
            "progress", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("problem", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "phase_seconds",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("phase_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_degradation", sa.Double(), nullable=True),
        sa.Column(
            "timings", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "effort", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("mirrored_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'failed') = (problem is not null)", name=op.f("ck_searches_problem")),
        sa.CheckConstraint("(status = 'succeeded') = (result is not null)", name=op.f("ck_searches_result")),
        sa.CheckConstraint(
            "status in ('queued','running','succeeded','failed','cancelled')", name=op.f("ck_searches_status")
        ),
        sa.ForeignKeyConstraint(
            ["checkpoint"], ["lambda_search.checkpoints.id"], name=op.f("fk_searches_checkpoint_checkpoints")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        schema="lambda_search",
    )
    op.create_index(
        "ix_searches_admission",
        "searches",
        [sa.literal_column("priority desc"), "created_at", "id"],
        unique=False,
        schema="lambda_search",
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index("ix_searches_created_at_id", "searches", ["created_at", "id"], unique=False, schema="lambda_search")
    op.create_table(
        "tokens",
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("claim_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("batch", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('in_queue','held','running','ended')", name=op.f("ck_tokens_state")),
        sa.ForeignKeyConstraint(
            ["search_id"], ["lambda_search.searches.id"], name=op.f("fk_tokens_search_id_searches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "phase", "no", name=op.f("pk_tokens")),
        schema="lambda_search",
    )
    op.create_index(
        "ix_tokens_live",
        "tokens",
        ["state"],
        unique=False,
        schema="lambda_search",
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_table(
        "trials",
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("batch_group", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("blocks", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("token_no", sa.Integer(), nullable=True),
        sa.Column("quality", sa.Double(), nullable=True),
        sa.Column("degradation", sa.Double(), nullable=True),
        sa.Column("degradation_se", sa.Double(), nullable=True),
        sa.Column("latency_s", sa.Double(), nullable=True),
        sa.Column("speedup", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("confirmation", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("mirrored", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint(
            "state in ('pending','dropped','survived','qualified','unqualified')", name=op.f("ck_trials_state")
        ),
        sa.ForeignKeyConstraint(
            ["search_id"], ["lambda_search.searches.id"], name=op.f("fk_trials_search_id_searches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("search_id", "number", name=op.f("pk_trials")),
        sa.UniqueConstraint("search_id", "candidate", name=op.f("uq_trials_search_id_candidate")),
        schema="lambda_search",
    )
    op.create_index(
        "ix_trials_unmirrored",
        "trials",
        ["search_id"],
        unique=False,
        schema="lambda_search",
        postgresql_where=sa.text("not mirrored and state <> 'pending'"),
    )
    # Last, since searches -> checkpoints -> trainings -> searches is a circle.
    op.create_foreign_key(
        "fk_trainings_owner",
        "trainings",
        "searches",
        ["owner_search_id"],
        ["id"],
        source_schema="lambda_search",
        referent_schema="lambda_search",
        ondelete="SET NULL",
    )


def downgrade() -> None:
    op.drop_constraint("fk_trainings_owner", "trainings", schema="lambda_search", type_="foreignkey")
    op.drop_index(
        "ix_trials_unmirrored",
        table_name="trials",
        schema="lambda_search",
        postgresql_where=sa.text("not mirrored and state <> 'pending'"),
    )
    op.drop_table("trials", schema="lambda_search")
    op.drop_index(
        "ix_tokens_live", table_name="tokens", schema="lambda_search", postgresql_where=sa.text("state <> 'ended'")
    )
    op.drop_table("tokens", schema="lambda_search")
    op.drop_index("ix_searches_created_at_id", table_name="searches", schema="lambda_search")
    op.drop_index(
        "ix_searches_admission",
        table_name="searches",
        schema="lambda_search",
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.drop_table("searches", schema="lambda_search")
    op.drop_table("evaluations", schema="lambda_search")
    op.drop_table("episode_digests", schema="lambda_search")
    op.drop_table("checkpoints", schema="lambda_search")
    op.drop_table("workers", schema="lambda_search")
    op.drop_table("trainings", schema="lambda_search")
    op.drop_table("timings", schema="lambda_search")
    op.drop_table("evaluation_scopes", schema="lambda_search")
