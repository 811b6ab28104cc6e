"""The token protocol: how one job takes a search one step further, exactly once whatever dies when.

*Start* claims the token's step and its batch and commits. The device computes with no transaction open. *Close* stores
what came out, advances the token and defers its successor in one transaction, unless somebody else has claimed the
step meanwhile: then everything is dropped. A job for another step is an echo and ends at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from sqlalchemy import update
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from search_service import lifecycle, queue, telemetry
from search_service.domain.errors import DatabaseUnavailable, LambdaSearchError
from search_service.domain.search import Phase, SearchStatus
from search_service.queue import TokenJob
from search_service.storage import codec, searches, tokens
from search_service.storage.database import Database
from search_service.storage.tables import SearchRow, TokenRow
from search_service.storage.tokens import TokenState
from workers.runtime import metrics
from workers.runtime.answer import build_result
from workers.runtime.case import Case, OpenEpisodes
from workers.runtime.evaluator import Evaluator, EvaluatorDied, WorkFailed, WorkUnwanted
from workers.runtime.phases import (
    baseline,
    calibration,
    certificate,
    meta_training,
    retrained_certificate,
    retraining,
    search,
    timing,
)
from workers.runtime.phases.rules import Batch, MustWait, PhaseRules
from workers.runtime.work import Outcome, Progress, Work

RULES: dict[Phase, PhaseRules] = {
    Phase.META_TRAINING: meta_training,
    Phase.BASELINE: baseline,
    Phase.CALIBRATION: calibration,
    Phase.SEARCH: search,
    Phase.TIMING: timing,
    Phase.CERTIFICATE: certificate,
    Phase.RETRAINING: retraining,
    Phase.RETRAINED_CERTIFICATE: retrained_certificate,
}
WORKED_ON = (SearchStatus.RUNNING, SearchStatus.PAUSED)
"""Statuses in which a step that was begun is finished and stored."""
MAX_DEATHS = 3
"""Evaluators that may die over one batch before the search fails."""
MAX_ATTEMPTS = 6
"""Claims of one step, each ended by the death of its worker, after which the search fails."""
REPORTING = (Phase.META_TRAINING, Phase.CALIBRATION, Phase.TIMING, Phase.RETRAINING)
"""Phases with one token, which reports from inside a step."""
PROGRESS_INTERVAL = 1.0  # seconds between progress writes
SHOWN_TRIALS = 10  # candidates that a step's log line names

log = structlog.get_logger(__name__)


class StepAbandoned(LambdaSearchError):
    """Every worker that took up a step died over it."""

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        super().__init__(
            f"{attempts} workers died over this step; look at their logs (memory is the usual cause), then submit again"
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A step that this worker has claimed."""

    job: TokenJob
    claim_no: int
    batch: Batch
    work: Work | None
    started: float = field(default_factory=time.monotonic)


@dataclass
class Advancer:
    """Advances searches with one evaluator.

    Args:
        database: where everything lasting is.
        evaluator: the device.
        worker_id: this worker's name in the table of workers.
        max_running: searches admitted at once per device class.
        open_episodes: opens a task family, as this worker has it.
    """

    database: Database
    evaluator: Evaluator
    worker_id: UUID
    max_running: int
    open_episodes: OpenEpisodes
    _giving_up: threading.Event = field(default_factory=threading.Event)

    def give_up(self) -> None:
        """Stop the step under way, storing nothing; from any thread."""
        self._giving_up.set()

    def __call__(self, job: TokenJob) -> None:
        """Do the step that a job stands for, if it still stands."""
        bound = {"search": str(job.search_id), "phase": job.phase.value, "token": job.no, "step": job.step}
        with structlog.contextvars.bound_contextvars(**bound), telemetry.span(f"step {job.phase}", **bound):
            try:
                self._advance(job)
            except WorkUnwanted:
                log.info("work no longer wanted, evaluator stopped")
                _count(job, "given_up")
            except (DatabaseUnavailable, OperationalError, InterfaceError):
                _count(job, "given_up")
                raise  # the job fails, and the reaper brings the token back
            except Exception as error:  # whatever went wrong in a search's own work ends that search, not the worker
                _count(job, "failed")
                self._fail(job, error)

    def _advance(self, job: TokenJob) -> None:
        claim = self._start(job)
        if claim is not None:
            outcome = self._compute(claim) if claim.work is not None else None
            self._close(claim, outcome)

    def _case(self, session: Session, search_id: UUID) -> Case:
        metrics.count_trials(session)
        return Case(session, searches.lock(session, search_id), self.evaluator.fingerprint, self.open_episodes)

    def _start(self, job: TokenJob) -> Claim | None:
        with self.database.session() as session:
            case = self._case(session, job.search_id)
            token = tokens.lock(session, job.search_id, job.phase, job.no)
            if case.row.status != SearchStatus.RUNNING or token.step != job.step or token.state == TokenState.ENDED:
                log.info("echo", status=case.row.status, token_step=token.step, token_state=token.state)
                _count(job, "echo")
                return None
            if token.attempts >= MAX_ATTEMPTS:
                raise StepAbandoned(token.attempts)
            rules = RULES[job.phase]
            try:
                batch = rules.take(case, token)
            except MustWait:
                tokens.hold(token)
                log.info("held: another search trains this recipe")
                return None
            if batch is None:
                self._end(case, token)
                return None
            claim_no = tokens.claim(session, token, self.worker_id, batch)
            return Claim(job, claim_no, batch, rules.work(case, batch))

    def _compute(self, claim: Claim) -> Outcome:
        """Have the evaluator compute, retrying when its process dies for no fault of the work."""
        assert claim.work is not None
        for deaths in range(1, MAX_DEATHS + 1):
            started = time.monotonic()
            try:
                return self.evaluator.perform(claim.work, _ProgressWriter(self.database, claim), self._check(claim))
            except EvaluatorDied as error:
                log.warning("evaluator died", deaths=deaths, reason=str(error))
                metrics.evaluator_died()
                if deaths == MAX_DEATHS:
                    raise
            finally:
                metrics.device_seconds(self._device, claim.job.phase, time.monotonic() - started)
        raise AssertionError("unreachable")

    def _check(self, claim: Claim) -> Callable[[], None]:
        def check() -> None:
            if self._giving_up.is_set():
                self._requeue(claim)
                raise WorkUnwanted
            with self.database.session() as session:
                token = session.get(TokenRow, (claim.job.search_id, claim.job.phase, claim.job.no))
                row = session.get(SearchRow, claim.job.search_id)
                if row is None or token is None or not _is_mine(row, token, claim):
                    raise WorkUnwanted

        return check

    def _requeue(self, claim: Claim) -> None:
        """Give a claimed step back, so that another worker need not wait for the reaper."""
        with self.database.session() as session:
            row = searches.lock(session, claim.job.search_id)
            token = tokens.lock(session, claim.job.search_id, claim.job.phase, claim.job.no)
            if _is_mine(row, token, claim):
                token.attempts -= 1  # given back in good order
                if row.status == SearchStatus.PAUSED:
                    tokens.hold(token)
                else:
                    tokens.requeue(token)
                    queue.defer_token(session, token, device=row.device, priority=row.priority)

    def _close(self, claim: Claim, outcome: Outcome | None) -> None:
        with self.database.session() as session:
            case = self._case(session, claim.job.search_id)
            token = tokens.lock(session, claim.job.search_id, claim.job.phase, claim.job.no)
            if not _is_mine(case.row, token, claim):
                log.info("dropped: the step was claimed by another worker or the search is over")
                _count(claim.job, "given_up")
                return
            RULES[claim.job.phase].record(case, token, claim.batch, outcome)
            tokens.advance(token)
            if case.row.status == SearchStatus.PAUSED:
                tokens.hold(token)
            else:
                queue.defer_token(session, token, device=case.row.device, priority=case.row.priority)
        log.info("step done", seconds=round(time.monotonic() - claim.started, 3), trials=_named(claim.batch))
        _count(claim.job, "done")
        metrics.adaptations(self._device, outcome)

    @property
    def _device(self) -> str:
        return str(self.evaluator.fingerprint.get("class", ""))

    def _end(self, case: Case, token: TokenRow) -> None:
        """End a token; the last live one of a phase starts the next phase, or answers the search."""
        tokens.end(token)
        case.session.flush()
        if tokens.live_count(case.session, case.row.id, case.phase):
            return
        while True:
            count = RULES[case.phase].plan(case)
            if count:
                for new in tokens.create(case.session, case.row.id, case.phase, count):
                    queue.defer_token(case.session, new, device=case.row.device, priority=case.row.priority)
                return
            following = RULES[case.phase].following(case)
            if following is None:
                result = codec.result_to_json(build_result(case))
                searches.succeed(case.session, case.row, result)
                log.info("succeeded", fastest=result["fastest"]["pattern"])
                lifecycle.admit(case.session, case.row.device, self.max_running)
                return
            searches.enter_phase(case.session, case.row, following)
            log.info("phase", entered=following.value)

    def _fail(self, job: TokenJob, error: Exception) -> None:
        """End a search whose work failed, unless somebody else holds the step now."""
        expected = isinstance(error, LambdaSearchError)
        trace = error.trace if isinstance(error, WorkFailed) else None
        log.error("search failed", reason=str(error), trace=trace, exc_info=None if expected else error)
        with self.database.session() as session:
            row = searches.lock(session, job.search_id)
            token = tokens.lock(session, job.search_id, job.phase, job.no)
            if row.status not in WORKED_ON or token.step != job.step:
                return
            if token.state == TokenState.RUNNING and token.worker_id != self.worker_id:
                return
            reason = str(error) if expected else f"{type(error).__name__}: {error}"
            at = f"phase {job.phase}, step {job.step} of token {job.no}"
            about = _shown(token.batch) if token.batch else ""
            searches.fail(session, row, title="The search could not be computed", detail=f"{reason} ({at}{about})")
            for live in tokens.lock_live_of(session, row.id):
                if live.job_id is not None and live.no != job.no:
                    queue.call_back(session, live.job_id)
                tokens.end(live)
            lifecycle.admit(session, row.device, self.max_running)


def _is_mine(row: SearchRow, token: TokenRow, claim: Claim) -> bool:
    return (
        row.status in WORKED_ON
        and token.state == TokenState.RUNNING
        and token.claim_no == claim.claim_no
        and token.step == claim.job.step
    )


def _shown(batch: Batch) -> str:
    named = [f"{name} {batch[name]}" for name in ("runs", "split", "block", "state_uri") if name in batch]
    return ", " + ", ".join(named) if named else ""


def _named(batch: Batch) -> list[str] | None:
    """The candidates that a step was about, the first of them where there are many."""
    texts = batch.get("candidates")
    return None if texts is None else [*texts[:SHOWN_TRIALS], *["..."][: len(texts) > SHOWN_TRIALS]]


def _count(job: TokenJob, outcome: metrics.StepOutcome) -> None:
    metrics.step(job.phase, outcome)
    telemetry.describe(telemetry.OUTCOME, outcome)


class _ProgressWriter:
    """Writes what the evaluator reports into the search's progress, at most once a second.

    Only phases with one token report from inside a step; where many run at once, the phase counts closed steps.
    """

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database = database
        self._claim = claim
        self._next = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._claim.job.phase not in REPORTING or now < self._next:
            return
        self._next = now + PROGRESS_INTERVAL
        values = {"done": progress.done, "total": progress.total, "unit": progress.unit, "message": progress.message}
        with self._database.session() as session:
            session.execute(
                update(SearchRow)
                .where(SearchRow.id == self._claim.job.search_id, SearchRow.status == SearchStatus.RUNNING)
                .values(progress=values)
            )
