"""Keys and sessions, events, paused searches, versions of searches.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "lambda_search"
NOBODY = "'00000000-0000-0000-0000-000000000000'::uuid"
STATUSES = "'queued','running','succeeded','failed','cancelled'"
PAUSED = STATUSES.replace("'running'", "'running','paused'")
TIME = sa.DateTime(timezone=True)
NOW = sa.text("clock_timestamp()")

TOUCH_SEARCH = """
    create function lambda_search.touch_search() returns trigger language plpgsql as $$
    begin
        if tg_op = 'UPDATE' then
            new.version := old.version + 1;
            new.updated_at := clock_timestamp();
        end if;
        perform pg_notify('lambda_search_changes', new.id::text);
        return new;
    end $$"""
TOUCH_SEARCH_TRIGGER = """
    create trigger touch_search before insert or update on lambda_search.searches
    for each row execute function lambda_search.touch_search()"""


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("shown", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, server_default=NOW, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.Column("max_queued", sa.Integer(), nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("last_admitted_at", TIME, nullable=True),
        sa.CheckConstraint("scope in ('read','submit','admin')", name=op.f("ck_api_keys_scope")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
        schema=SCHEMA,
    )
    op.execute(
        f"insert into {SCHEMA}.api_keys (id, name, scope, shown, digest) values ({NOBODY}, 'system', 'submit', '', '')"
    )
    op.create_table(
        "sessions",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["key_id"],
            [f"{SCHEMA}.api_keys.id"],
            name=op.f("fk_sessions_key_id_api_keys"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sessions")),
        schema=SCHEMA,
    )
    op.create_table(
        "events",
        sa.Column("no", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("search_id", sa.Uuid(), nullable=False),
        sa.Column("at", TIME, server_default=NOW, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"],
            [f"{SCHEMA}.searches.id"],
            name=op.f("fk_events_search_id_searches"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_events")),
        schema=SCHEMA,
    )
    op.create_index("ix_events_search_id_no", "events", ["search_id", "no"], unique=False, schema=SCHEMA)

    for column in (
        sa.Column("key_id", sa.Uuid(), server_default=sa.text(NOBODY), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("body_digest", sa.Text(), nullable=True),
        sa.Column("stopping", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("updated_at", TIME, server_default=NOW, nullable=False),
    ):
        op.add_column("searches", column, schema=SCHEMA)
    op.create_foreign_key(
        op.f("fk_searches_key_id_api_keys"),
        "searches",
        "api_keys",
        ["key_id"],
        ["id"],
        source_schema=SCHEMA,
        referent_schema=SCHEMA,
    )
    op.drop_constraint(op.f("ck_searches_status"), "searches", schema=SCHEMA, type_="check")
    op.create_check_constraint(op.f("ck_searches_status"), "searches", f"status in ({PAUSED})", schema=SCHEMA)
    op.drop_index("ix_searches_admission", table_name="searches", schema=SCHEMA)
    op.create_index("ix_searches_priority", "searches", ["priority", "created_at", "id"], unique=False, schema=SCHEMA)
    op.create_index("ix_searches_status", "searches", ["status", "created_at", "id"], unique=False, schema=SCHEMA)
    op.create_index(
        "ix_searches_admission",
        "searches",
        ["key_id", "device", sa.literal_column("priority desc"), "created_at", "id"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "uq_searches_idempotency",
        "searches",
        ["key_id", "idempotency_key"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("idempotency_key is not null"),
    )
    op.execute(TOUCH_SEARCH)
    op.execute(TOUCH_SEARCH_TRIGGER)


def downgrade() -> None:
    op.execute("drop trigger touch_search on lambda_search.searches")
    op.execute("drop function lambda_search.touch_search()")
    for name in ("uq_searches_idempotency", "ix_searches_admission", "ix_searches_status", "ix_searches_priority"):
        op.drop_index(name, table_name="searches", schema=SCHEMA)
    op.create_index(
        "ix_searches_admission",
        "searches",
        [sa.literal_column("priority desc"), "created_at", "id"],
        unique=False,
        schema=SCHEMA,
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.execute("update lambda_search.searches set status = 'cancelled', finished_at = now() where status = 'paused'")
    op.drop_constraint(op.f("ck_searches_status"), "searches", schema=SCHEMA, type_="check")
    op.create_check_constraint(op.f("ck_searches_status"), "searches", f"status in ({STATUSES})", schema=SCHEMA)
    op.drop_constraint(op.f("fk_searches_key_id_api_keys"), "searches", schema=SCHEMA, type_="foreignkey")
    for name in ("updated_at", "version", "stopping", "body_digest", "idempotency_key", "key_id"):
        op.drop_column("searches", name, schema=SCHEMA)
    for name in ("events", "sessions", "api_keys"):
        op.drop_table(name, schema=SCHEMA)
