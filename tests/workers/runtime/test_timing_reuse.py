"""Timings of an earlier search: taken over where one undisturbed run holds all that is asked for, else timed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from search_service.domain.recipe import Recipe
from search_service.domain.search import Phase, SearchSpec
from search_service.domain.trial import TrialState
from search_service.storage import checkpoints, searches, timings, tokens, trials
from search_service.storage.codec import spec_from_json
from search_service.storage.database import Database
from search_service.storage.tables import TokenRow
from search_service.storage.trials import NewTrial
from tests.system.conftest import small_spec
from workers.runtime.case import Case
from workers.runtime.phases import timing
from workers.runtime.work import TimingWork

SPEC: SearchSpec = spec_from_json(small_spec())
FINGERPRINT = {"class": "cpu"}
SURVIVORS = ["001", "011"]


def figures(run: str, **changes: Any) -> dict[str, Any]:
    return {"run": run, "tight": True, "latency_s": {"median": 0.002}, "speedup": {"estimate": 3.0}, **changes}


def case_of(session: Session) -> tuple[Case, TokenRow]:
    """A search about to be timed, with two survivors."""
    row = searches.add(session, SPEC)
    searches.start(session, row)
    recipe = Recipe.of(SPEC)
    checkpoints.lock_training(session, recipe)
    checkpoints.add(session, checkpoint_id="aa", recipe=recipe, uri="aa", quality={})
    row.checkpoint = "aa"
    row.max_degradation = 0.1
    row.latency_model = {"error": {"largest": 0.05}}
    searches.enter_phase(session, row, Phase.TIMING)
    trials.add_many(session, row.id, [NewTrial(text, "group", 0.001) for text in SURVIVORS])
    for trial in trials.of_search(session, row.id):
        trial.state, trial.blocks, trial.degradation = TrialState.SURVIVED, 1, 0.0
    (token,) = tokens.create(session, row.id, Phase.TIMING, 1)
    session.flush()
    return Case(session, row, FINGERPRINT, _no_episodes), token


def _no_episodes(_: Any) -> Any:
    raise AssertionError("timing draws no episodes here")


def same_run(text: str) -> dict[str, Any]:
    return figures("earlier")


def runs_of_their_own(text: str) -> dict[str, Any]:
    return figures(f"earlier, {text}")


def disturbed(text: str) -> dict[str, Any]:
    return figures("earlier", tight=text != "011")


@pytest.mark.parametrize(
    ("stored", "left_out", "is_reused"),
    [
        (same_run, None, True),
        (same_run, "011", False),
        (runs_of_their_own, None, False),
        (disturbed, None, False),
    ],
)
def test_an_earlier_run_is_reused_if_it_holds_everything(
    database: Database, stored: Callable[[str], dict[str, Any]], left_out: str | None, is_reused: bool
) -> None:
    with database.session() as session:
        case, token = case_of(session)
        texts = [*(candidate.text for candidate in case.full_by_steps), *SURVIVORS]
        timings.put(session, case.timing_scope("eager"), {text: stored(text) for text in texts if text != left_out})
        assert timing.plan(case) == 1
        batch = timing.take(case, token)
        assert batch is not None
        assert batch["candidates"] == ["111", "111@2", *SURVIVORS]
        work = timing.work(case, batch)
        if not is_reused:
            assert isinstance(work, TimingWork)
            assert work.candidates == batch["candidates"]
            return
        assert work is None
        timing.record(case, token, batch, None)
        assert [row.latency_s for row in trials.of_search(session, case.row.id)] == [0.002, 0.002]
        assert case.row.timings.keys() == set(texts)
        assert timing.plan(case) == 0
