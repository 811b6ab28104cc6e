"""Submitting a search: what cannot be run is refused before anything is stored."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_service import lifecycle
from search_service.api.access import Caller
from search_service.api.schemas import SearchView
from search_service.domain.errors import IdempotencyConflict, InvalidSpec, NotFound, TooManyQueued
from search_service.domain.evaluation import content_key
from search_service.domain.recipe import Recipe
from search_service.domain.search import SearchSpec, check_space
from search_service.storage import checkpoints, codec, searches, workers
from search_service.storage.database import Database
from search_service.storage.tables import SearchRow


def submit(
    database: Database, spec: SearchSpec, caller: Caller, idempotency_key: str | None, max_running: int
) -> tuple[SearchView, bool]:
    """Store a search and let it run if there is room; with an idempotency key, once however often it is tried.

    Returns:
        The search, and whether it was there before.

    Raises:
        InvalidSpec: no worker can run it, or its checkpoint does not fit; names the field.
        IdempotencyConflict: the idempotency key stands for another body.
        TooManyQueued: the caller's key has as many waiting as it may.
    """
    body_digest = None if idempotency_key is None else content_key(codec.spec_to_json(spec))
    try:
        with database.session() as session:
            if idempotency_key is not None:
                before = searches.find_by_idempotency_key(session, caller.key_id, idempotency_key)
                if before is not None:
                    return _same(before, body_digest), True
            _check(session, spec, caller)
            row = searches.add(session, spec, caller.key_id, idempotency_key, body_digest)
            if row.id in lifecycle.admit(session, spec.device, max_running):
                session.flush()
                session.refresh(row)
            return SearchView.of(row), False
    except IntegrityError:
        if idempotency_key is None:
            raise
    # Another post with the same idempotency key was faster.
    with database.session() as session:
        before = searches.find_by_idempotency_key(session, caller.key_id, idempotency_key)
        assert before is not None, "nothing deletes searches"
        return _same(before, body_digest), True


def _same(before: SearchRow, body_digest: str | None) -> SearchView:
    """The search of an earlier post, if that posted the same."""
    if before.body_digest != body_digest:
        raise IdempotencyConflict(before.idempotency_key or "", str(before.id))
    return SearchView.of(before)


def _check(session: Session, spec: SearchSpec, caller: Caller) -> None:
    _check_device(session, spec)
    trained_steps = _trained_steps(session, spec)
    check_space(spec.candidates(trained_steps), spec.method)
    if searches.waiting_count(session, caller.key_id) >= caller.max_queued:
        raise TooManyQueued(caller.name, caller.max_queued)


def _check_device(session: Session, spec: SearchSpec) -> None:
    announced = workers.announced(session)
    serving = [worker for worker in announced if worker.device == spec.device]
    if not serving:
        devices = ", ".join(sorted({worker.device for worker in announced})) or "none; start a worker first"
        raise InvalidSpec("device", f"no worker has announced device '{spec.device}'; announced: {devices}")
    # Any worker of the device may get a part of the search, so each must be able to do it.
    if spec.runtime == "compiled":
        for worker in serving:
            if worker.fingerprint.get("compiler") is None:
                raise InvalidSpec(
                    "runtime",
                    f"the '{spec.device}' worker on {worker.host} cannot compile: it has no C++ compiler or lacks "
                    "Python's headers; install g++ and python3-dev there, or search with runtime 'eager'",
                )
    family = spec.tasks.family
    for worker in serving:
        reason = worker.families.get(family, "it does not know this family")
        if reason is not None:
            raise InvalidSpec(
                "tasks.family", f"the '{spec.device}' worker on {worker.host} cannot draw {family}: {reason}"
            )


def _trained_steps(session: Session, spec: SearchSpec) -> int:
    if spec.meta_training is not None:
        return spec.meta_training.inner_steps
    assert spec.checkpoint is not None, "a spec has one or the other"
    try:
        stored = checkpoints.get(session, spec.checkpoint)
    except NotFound as error:
        raise InvalidSpec("checkpoint", str(error)) from error
    config = codec.recipe_from_json(stored.config)
    _check_checkpoint_fits(spec, config)
    return config.meta_training.inner_steps


def _check_checkpoint_fits(spec: SearchSpec, config: Recipe) -> None:
    for name in ("network", "filters", "pooling", "hidden"):
        made, asked = getattr(config.model, name), getattr(spec.model, name)
        if made != asked:
            raise InvalidSpec(f"model.{name}", f"the checkpoint has {made}, the spec asks for {asked}")
    if spec.tasks.is_regression != config.tasks.is_regression:
        raise InvalidSpec(
            "tasks.family",
            f"the checkpoint was trained on {config.tasks.family}, whose quality is {config.tasks.metric}",
        )
    if spec.tasks.outputs != config.tasks.outputs:
        raise InvalidSpec(
            "tasks.ways", f"the checkpoint has {config.tasks.outputs} outputs, these tasks need {spec.tasks.outputs}"
        )
    if spec.norm_statistics != config.norm_statistics:
        raise InvalidSpec(
            "norm_statistics", f"the checkpoint was trained under '{config.norm_statistics}', the spec says otherwise"
        )
