"""Our tables, in the Postgres schema ``lambda_search``.

The queue (schema ``procrastinate``) and the Optuna study (schema ``optuna``) live in the same database and are not
described here. Migrations in ``migrations/`` create exactly what stands below; a test compares the two.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    DDL,
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "lambda_search"


class Base(DeclarativeBase):
    """Base of the mapped rows; names every constraint so that migrations can speak of it."""

    metadata = MetaData(
        schema=SCHEMA,
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        },
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        int: Integer,
        float: Double,
        bool: Boolean,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[float]: ARRAY(REAL),
    }


class SearchRow(Base):
    """A submitted search: its spec, where it stands, and in the end its result or its problem."""

    __tablename__ = "searches"
    __table_args__ = (
        CheckConstraint("status in ('queued','running','paused','succeeded','failed','cancelled')", name="status"),
        CheckConstraint("(status = 'succeeded') = (result is not null)", name="result"),
        CheckConstraint("(status = 'failed') = (problem is not null)", name="problem"),
        Index("ix_searches_created_at_id", "created_at", "id"),
        Index("ix_searches_priority", "priority", "created_at", "id"),
        Index("ix_searches_status", "status", "created_at", "id"),
        Index(
            "ix_searches_admission",
            "key_id",
            "device",
            text("priority desc"),
            "created_at",
            "id",
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "uq_searches_idempotency",
            "key_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
        Index("ix_searches_answered", "question", "finished_at", postgresql_where=text("status = 'succeeded'")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    spec: Mapped[dict[str, Any]]
    status: Mapped[str]
    phase: Mapped[str | None]
    """The running phase, or the last one reached."""
    progress: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """What the phase has done: ``{"done": 3, "total": 8, "unit": "blocks", ...}``."""
    device: Mapped[str]
    priority: Mapped[int]
    key_id: Mapped[UUID] = mapped_column(
        ForeignKey("api_keys.id"), server_default=text("'00000000-0000-0000-0000-000000000000'::uuid")
    )
    """The key that it was submitted with."""
    idempotency_key: Mapped[str | None]
    body_digest: Mapped[str | None]
    """SHA-256 of the body that was posted with an idempotency key."""
    stopping: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether it was asked to answer from what it knows: nothing more is screened."""
    version: Mapped[int] = mapped_column(server_default=text("1"))
    """Raised by every change (by a trigger): the ETag."""
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """When it changed last (by a trigger)."""
    checkpoint: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id"))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    problem: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Why the search failed: ``{"title", "detail", "phase"}``."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    phase_seconds: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Wall-clock seconds of each finished phase."""
    phase_started_at: Mapped[datetime | None]
    max_degradation: Mapped[float | None]
    """ε in the metric's unit, known after the baseline phase where the spec gives it relative."""
    latency_model: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What predicted latencies came from, and how far it was off on what it had not seen."""
    question: Mapped[str | None]
    """Identity of everything that determines the answer but the threshold; known once there is a checkpoint."""
    answered_from: Mapped[UUID | None]
    """The earlier search with the same question whose trials and timings this one took over."""
    retrained: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Where the answer was retrained under: the new checkpoint, and its proof as in ``TrialRow.confirmation``."""
    round: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """Which confirmation blocks of which candidate the tokens under way judge: see phase ``certificate``."""
    timings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Figures of the baseline, of full adaptation for every step count and of every candidate timed for this search;
    those of one candidate come from one interleaved run with the baseline."""
    effort: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """What judging took so far: ``episode_adaptations``, ``image_passes``, ``reused_evaluations``."""
    mirrored_at: Mapped[datetime | None]
    """When the Optuna study was last complete: set after the search is final and every trial has been mirrored."""


CHANGES = "lambda_search_changes"
"""Channel on which a search's id is told whenever its row is stored or changed."""
TOUCH_SEARCH = f"""
    create function {SCHEMA}.touch_search() returns trigger language plpgsql as $$
    begin
        if tg_op = 'UPDATE' then
            new.version := old.version + 1;
            new.updated_at := clock_timestamp();
        end if;
        perform pg_notify('{CHANGES}', new.id::text);
        return new;
    end $$"""
TOUCH_SEARCH_TRIGGER = f"""
    create trigger touch_search before insert or update on {SCHEMA}.searches
    for each row execute function {SCHEMA}.touch_search()"""
for _statement in (TOUCH_SEARCH, TOUCH_SEARCH_TRIGGER):
    event.listen(SearchRow.__table__, "after_create", DDL(_statement))  # type: ignore[no-untyped-call]


class TokenRow(Base):
    """One strand of a phase's work. The queue's job carries its name and step; this row is the truth.

    ``in_queue``: a job waits for a worker. ``running``: a worker has claimed it. ``held``: it waits for something that
    is not a worker (another search that trains the same recipe). ``ended``: no more work.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        CheckConstraint("state in ('in_queue','held','running','ended')", name="state"),
        Index("ix_tokens_live", "state", postgresql_where=text("state <> 'ended'")),
    )

    search_id: Mapped[UUID] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    phase: Mapped[str] = mapped_column(primary_key=True)
    no: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(server_default=text("0"))
    state: Mapped[str]
    claim_no: Mapped[int] = mapped_column(server_default=text("0"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    """Claims of the present step."""
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    """The procrastinate job that carries this step."""
    worker_id: Mapped[UUID | None]
    batch: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """What the claimed step computes, for people to see."""
    claimed_at: Mapped[datetime | None]


class TrialRow(Base):
    """One candidate being judged in a search."""

    __tablename__ = "trials"
    __table_args__ = (
        CheckConstraint(
            "state in ('pending','dropped','survived','qualified','unqualified','unresolved')", name="state"
        ),
        UniqueConstraint("search_id", "candidate"),
        Index(
            "ix_trials_free",
            "search_id",
            "predicted_latency_s",
            "number",
            postgresql_where=text("state = 'pending' and token_no is null"),
        ),
        Index("ix_trials_unmirrored", "search_id", postgresql_where=text("not mirrored and state <> 'pending'")),
    )

    search_id: Mapped[UUID] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    candidate: Mapped[str]
    """The candidate's canonical text."""
    predicted_latency_s: Mapped[float | None]
    """By the search's latency model: the order in which candidates are judged."""
    batch_group: Mapped[str]
    """Trials with the same one, and as many judged blocks, are judged together."""
    state: Mapped[str]
    blocks: Mapped[int] = mapped_column(server_default=text("0"))
    """Validation blocks judged."""
    token_no: Mapped[int | None]
    """The token that is judging it now."""
    quality: Mapped[float | None]
    """Mean quality on the judged validation episodes."""
    degradation: Mapped[float | None]
    """Mean paired degradation on the judged validation episodes."""
    degradation_se: Mapped[float | None]
    latency_s: Mapped[float | None]
    speedup: Mapped[float | None]
    reason: Mapped[str | None]
    """Why it was dropped, kept or answered, in words."""
    confirmation: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """The certificate's figures, where it was tested."""
    mirrored: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether the Optuna study shows this state."""


class EvaluationRow(Base):
    """Per-episode qualities of a candidate on a block; the first stored row wins and later searches reuse it."""

    __tablename__ = "evaluations"

    scope: Mapped[str] = mapped_column(ForeignKey("evaluation_scopes.key"), primary_key=True)
    candidate: Mapped[str] = mapped_column(primary_key=True)
    block: Mapped[int] = mapped_column(primary_key=True)
    qualities: Mapped[list[float]]
    provenance: Mapped[dict[str, Any]]
    """Device fingerprint of the worker that computed it."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class EvaluationScopeRow(Base):
    """What an evaluation's key was made of."""

    __tablename__ = "evaluation_scopes"

    key: Mapped[str] = mapped_column(primary_key=True)
    fields: Mapped[dict[str, Any]]


class EpisodeDigestRow(Base):
    """The digest of the indices drawn for a block, so that a change in drawing is noticed and not averaged away."""

    __tablename__ = "episode_digests"

    scope: Mapped[str] = mapped_column(ForeignKey("evaluation_scopes.key"), primary_key=True)
    block: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str]


class TimingRow(Base):
    """Latency samples of a candidate on a device, and its ratios to the baselines timed in the same run."""

    __tablename__ = "timings"

    scope: Mapped[str] = mapped_column(primary_key=True)
    candidate: Mapped[str] = mapped_column(primary_key=True)
    figures: Mapped[dict[str, Any]]
    scope_fields: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class LatencyModelRow(Base):
    """What predicts the latency of any candidate of a network on a device."""

    __tablename__ = "latency_models"

    scope: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[dict[str, Any]]
    scope_fields: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class CheckpointRow(Base):
    """A finished checkpoint. ``id`` is the SHA-256 of its file."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(primary_key=True)
    recipe: Mapped[str] = mapped_column(ForeignKey("trainings.recipe"), unique=True)
    uri: Mapped[str]
    """Where the safetensors file is, relative to the artifact store."""
    config: Mapped[dict[str, Any]]
    """Architecture, task family and meta-training, as in the spec that made it."""
    quality: Mapped[dict[str, Any]]
    """``{"metric", "estimate", "low", "high", "episodes", "split"}`` on validation classes."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class TrainingRow(Base):
    """A recipe's training, shared by every search that asks for the same recipe."""

    __tablename__ = "trainings"
    __table_args__ = (
        # use_alter: searches -> checkpoints -> trainings -> searches is a circle.
        ForeignKeyConstraint(
            ["owner_search_id"],
            ["lambda_search.searches.id"],
            name="fk_trainings_owner",
            ondelete="SET NULL",
            use_alter=True,
        ),
    )

    recipe: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of everything that determines the trained parameters."""
    config: Mapped[dict[str, Any]]
    iteration: Mapped[int] = mapped_column(server_default=text("0"))
    uri: Mapped[str | None]
    """The newest training state, relative to the artifact store."""
    owner_search_id: Mapped[UUID | None]
    """The search whose token trains at present; others hold theirs until it ends."""
    history: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    """Loss and quality at each stored state."""


class EventRow(Base):
    """Something that happened to a search: see ``search_service.domain.events``."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_search_id_no", "search_id", "no"),)

    no: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    search_id: Mapped[UUID] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    kind: Mapped[str]
    data: Mapped[dict[str, Any]]


class ApiKeyRow(Base):
    """An API key, without the key itself."""

    __tablename__ = "api_keys"
    __table_args__ = (CheckConstraint("scope in ('read','submit','admin')", name="scope"), UniqueConstraint("digest"))

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    scope: Mapped[str]
    shown: Mapped[str]
    """How the key begins, to tell it from others."""
    digest: Mapped[str]
    """SHA-256 of the key; empty for the key that nobody holds."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    max_queued: Mapped[int | None]
    max_running: Mapped[int | None]
    last_admitted_at: Mapped[datetime | None]
    """When a search of it was let run last: whose turn it is."""


class SessionRow(Base):
    """A browser that signed in with a key."""

    __tablename__ = "sessions"

    digest: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of the cookie."""
    key_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    expires_at: Mapped[datetime]


class WorkerRow(Base):
    """A worker that has announced itself: the device class it serves and the datasets it has."""

    __tablename__ = "workers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    fingerprint: Mapped[dict[str, Any]]
    families: Mapped[dict[str, Any]]
    """Task families it can draw: name to null, or to the reason why it cannot."""
    started_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    stopped_at: Mapped[datetime | None]
