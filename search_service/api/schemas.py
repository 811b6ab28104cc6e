"""What the API sends and takes: wire views, made from rows here and nowhere else."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.evaluation import known_mean
from search_service.domain.keys import Scope
from search_service.domain.progress import Outlook, outlook
from search_service.domain.search import Phase, SearchSpec, SearchStatus
from search_service.domain.trial import TrialState
from search_service.storage import codec
from search_service.storage.searches import SearchSort
from search_service.storage.tables import ApiKeyRow, SearchRow, TrialRow

PREFIX = "/v1"

_WIRE = ConfigDict(use_attribute_docstrings=True)


class FieldProblemView(BaseModel):
    """One field that was refused, and why."""

    model_config = _WIRE

    field: str
    reason: str


class Problem(BaseModel):
    """Why a request was not answered (RFC 9457)."""

    model_config = ConfigDict(
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:lambda-search:problem:invalid-spec",
                    "title": "The search spec cannot be run",
                    "status": 422,
                    "detail": "tasks.shots: value must be 1 to 100, not 1000",
                    "instance": "/v1/searches",
                    "errors": [{"field": "tasks.shots", "reason": "value must be 1 to 100, not 1000"}],
                }
            ]
        },
    )

    type: str
    """Which problem this is, for programs; the last part never changes its meaning."""
    title: str
    """Which problem this is, for people."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened this time."""
    instance: str
    """The path that was asked."""
    request_id: str | None = None
    """The request's id, which stands in the service's log lines of it too."""
    errors: list[FieldProblemView] | None = None
    """The fields at fault, where fields are."""


class KeyView(BaseModel):
    """An API key, without the key itself."""

    model_config = _WIRE

    id: UUID
    name: str
    scope: Scope
    shown: Annotated[str, Field(examples=["lsk_Zx81aB"])]
    """How the key begins, to tell it from others."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    max_queued: int | None
    max_running: int | None

    @classmethod
    def of(cls, row: ApiKeyRow) -> KeyView:
        """The view of a key."""
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class MadeKey(KeyView):
    """A key that was just made."""

    key: str
    """The key itself. It is told this once."""


class KeyList(BaseModel):
    """Every key, oldest first."""

    keys: list[KeyView]


class OwnKey(BaseModel):
    """The key that asks."""

    id: UUID
    name: str
    scope: Scope


def _whole(value: object) -> object:
    """JSON knows one kind of number: 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Change(BaseModel):
    """What to change about a search."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    priority: Annotated[int, Field(ge=-1000, le=1000, strict=True), BeforeValidator(_whole)]
    """Higher goes first, among queued searches and in the workers' queue."""


class EventQuery(BaseModel):
    """From where to follow a search."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    after: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Number of the last event that was read; the header `Last-Event-ID` goes before it."""


class SearchLinks(BaseModel):
    """Where to ask further."""

    model_config = ConfigDict(populate_by_name=True)

    self_: Annotated[str, Field(alias="self")]
    trials: str
    front: str
    result: str
    events: str


class SearchView(BaseModel):
    """A search as it stands."""

    model_config = _WIRE

    id: UUID
    name: str
    """What its spec calls it."""
    status: SearchStatus
    phase: Phase | None
    """What it is doing, or was doing when it ended; null before it runs."""
    progress: Annotated[dict[str, Any], Field(examples=[{"done": 3, "total": 8, "unit": "blocks"}])]
    """What the phase has done."""
    share: float
    """How much of all phases is done, 0 to 1; a guess, since later phases depend on what earlier ones find."""
    left_s: float | None
    """Seconds that it may still take; null while nothing tells."""
    priority: int
    """Higher goes first; as its spec says, or as changed since."""
    stopping: bool
    """Whether it was asked to answer from what it knows."""
    submitted_by: UUID
    """The key that it was submitted with."""
    version: int
    """Raised by every change; its ETag."""
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    elapsed_s: float
    """Seconds from submission to the end, or to the last change."""
    phase_seconds: dict[str, float]
    """Seconds of each finished phase."""
    spec: SearchSpec
    """What was asked for, every default written out."""
    fewest_confirmation_episodes: int
    """The least number of confirmation episodes that could prove an answer; most need more."""
    checkpoint: str | None
    """Identity of the model that adapts, once there is one."""
    problem: Annotated[
        dict[str, Any] | None,
        Field(examples=[{"title": "The evaluator failed", "detail": "out of memory", "phase": "search"}]),
    ]
    """Why it failed; null unless it did."""
    links: SearchLinks

    @classmethod
    def of(cls, row: SearchRow) -> SearchView:
        """The view of a search: a function of its row, and so of its version."""
        spec = codec.stored_spec(row.spec)
        ahead = _outlook(row)
        return cls(
            id=row.id,
            name=spec.name,
            status=SearchStatus(row.status),
            phase=None if row.phase is None else Phase(row.phase),
            progress=row.progress,
            share=ahead.share,
            left_s=ahead.left_s,
            priority=row.priority,
            stopping=row.stopping,
            submitted_by=row.key_id,
            version=row.version,
            updated_at=row.updated_at,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            elapsed_s=max(0.0, ((row.finished_at or row.updated_at) - row.created_at).total_seconds()),
            phase_seconds=row.phase_seconds,
            fewest_confirmation_episodes=spec.fewest_confirmation_episodes,
            spec=spec,
            checkpoint=row.checkpoint,
            problem=row.problem,
            links=SearchLinks(
                self_=search_path(row.id),
                trials=f"{search_path(row.id)}/trials",
                front=f"{search_path(row.id)}/front",
                result=f"{search_path(row.id)}/result",
                events=f"{search_path(row.id)}/events",
            ),
        )


def _outlook(row: SearchRow) -> Outlook:
    progress = row.progress
    total = float(progress.get("total") or 0)
    began = row.phase_started_at
    return outlook(
        phase=None if row.phase is None else Phase(row.phase),
        phase_share=min(1.0, float(progress.get("done") or 0) / total) if total else 0.0,
        seconds_in_phase=0.0 if began is None else max(0.0, (row.updated_at - began).total_seconds()),
        finished_s=row.phase_seconds,
        is_over=SearchStatus(row.status).is_final,
    )


class SearchPage(BaseModel):
    """Searches, newest first."""

    model_config = _WIRE

    searches: list[SearchView]
    next_cursor: str | None
    """Give it as `cursor` to see the searches before these; null when there are none."""


class TrialView(BaseModel):
    """A candidate being judged. Figures are of validation classes, save under `confirmation`."""

    model_config = _WIRE

    number: int
    candidate: Annotated[str, Field(examples=["00111/00010*2:bfloat16"])]
    """Pattern, rate factors and precision in one canonical text."""
    pattern: Annotated[str, Field(examples=["00111/00010"])]
    """The candidate's Λ-pattern, in canonical text."""
    rate_factors: Annotated[list[float], Field(examples=[[1.0, 2.0]])]
    """Of the base rate, one per row."""
    precision: Precision
    """In what its frozen prefix is computed."""
    predicted_latency_s: float | None
    """By the search's latency model: candidates are judged in this order."""
    state: TrialState
    blocks: int
    """Blocks of episodes judged."""
    quality: float | None
    """Mean quality on the judged episodes; null too where adaptation diverged on one of them, which `reason` says."""
    degradation: float | None
    """Mean paired quality loss against the baseline."""
    degradation_se: float | None
    """Its standard error."""
    latency_s: float | None
    """Median seconds of one adaptation."""
    speedup: float | None
    """Against this engine's own baseline."""
    reason: str | None
    """Why it was dropped, kept or answered."""
    confirmation: dict[str, Any] | None
    """The certificate's figures, of confirmation classes."""

    @classmethod
    def of(cls, row: TrialRow) -> TrialView:
        """The view of a trial."""
        candidate = Candidate.parse(row.candidate)
        return cls(
            number=row.number,
            candidate=candidate.text,
            pattern=candidate.pattern.text,
            rate_factors=list(candidate.factors),
            precision=candidate.precision,
            predicted_latency_s=row.predicted_latency_s,
            state=TrialState(row.state),
            blocks=row.blocks,
            quality=known_mean(row.quality),
            degradation=row.degradation,
            degradation_se=row.degradation_se,
            latency_s=row.latency_s,
            speedup=row.speedup,
            reason=row.reason,
            confirmation=row.confirmation,
        )


class TrialPage(BaseModel):
    """Trials of a search, by number."""

    model_config = _WIRE

    trials: list[TrialView]
    next_cursor: str | None
    """Give it as `cursor` to see the trials after these; null when there are none."""


class FrontView(BaseModel):
    """The front of a search as it stands, of validation classes.

    Some of it may rest on few episodes; a result's own `front` holds candidates that were timed together.
    """

    model_config = _WIRE

    max_degradation: float | None
    """The threshold in the metric's unit; null while a relative one is not known."""
    best: TrialView | None
    """The fastest candidate that is proved, or else that has survived so far."""
    trials: list[TrialView]
    """Candidates judged so far that lose less than every faster one does, fastest first; at most 1500."""
    latency_ratio: float | None
    """Measured over predicted latency, the median of the candidates timed so far: predictions are of the eager runtime.
    Multiplied by it they compare with what was measured; null before any was."""


class ThresholdQuery(BaseModel):
    """Which threshold is asked about."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    max_degradation: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """ε, in the metric's unit (also where the search's spec gave it relative)."""


class SearchQuery(BaseModel):
    """Which searches to list, and in which order."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    cursor: str | None = None
    """A `next_cursor` of the page before."""
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    """Searches per page."""
    status: list[SearchStatus] = []
    """Only searches in one of these; give it once for each."""
    device: Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00]*$")] = None
    """Only searches for this device class."""
    submitted_by: UUID | None = None
    """Only searches that were submitted with this key."""
    name: Annotated[str | None, Field(max_length=200, pattern=r"^[^\x00]*$")] = None
    """Only searches whose name contains this."""
    sort: SearchSort = SearchSort.NEWEST
    """Which come first."""


class TrialQuery(BaseModel):
    """Which trials to list."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    cursor: str | None = None
    """A `next_cursor` of the page before."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    """Trials per page."""
    state: TrialState | None = None
    """Only trials in this state."""


class Health(BaseModel):
    """The process answers."""

    status: Annotated[str, Field(examples=["alive"])]


def search_path(search_id: UUID) -> str:
    """Where a search is."""
    return f"{PREFIX}/searches/{search_id}"
