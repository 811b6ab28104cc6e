"""Searches that are paused, resumed and stopped while real workers work on them."""

from __future__ import annotations

import pytest

from search_service import lifecycle
from search_service.domain.search import SearchStatus
from search_service.storage import events, searches, tokens
from tests.system.conftest import Stack, small_spec, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

SLOW = {"block": 5, "validation": 200, "confirmation": 800}
"""Episodes of a search that screens for many seconds."""


def is_quiet(stack: Stack) -> bool:
    """Whether no step runs and none waits for a worker."""
    with stack.database.session() as session:
        return all(token.state == "held" for token in tokens.live(session))


def test_a_paused_search_rests_and_comes_to_the_same_answer(stack: Stack) -> None:
    stack.start_worker()
    undisturbed = stack.wait_for(stack.submit(small_spec()))
    search = stack.submit(small_spec(episodes=SLOW, name="paused"))
    wait_until(lambda: stack.search(search).phase == "search", "the search to screen", 120)
    with stack.database.session() as session:
        lifecycle.pause(session, search, 4)
    wait_until(lambda: is_quiet(stack), "what ran to end")
    judged = stack.screened(search)
    before = stack.search(search)
    assert before.status == SearchStatus.PAUSED

    # Another search has the worker meanwhile.
    stack.wait_for(stack.submit(small_spec(seed=5)))
    assert stack.screened(search) == judged
    assert stack.search(search).version == before.version

    with stack.database.session() as session:
        lifecycle.resume(session, search, 4)
    after = stack.wait_for(search)
    assert after.checkpoint == undisturbed.checkpoint
    assert judged.items() <= stack.screened(search).items() or judged.keys() <= stack.screened(search).keys()
    with stack.database.session() as session:
        kinds = [row.kind for row in events.after(session, search, 0, 10_000)]
    assert kinds.index("paused") < kinds.index("resumed") < kinds.index("succeeded")


def test_a_stopped_search_answers_from_what_it_knows(stack: Stack) -> None:
    stack.start_worker()
    search = stack.submit(small_spec(episodes=SLOW, max_degradation=2.0, degradation_bound=10.0))
    wait_until(lambda: stack.search(search).phase == "search", "the search to screen", 120)
    with stack.database.session() as session:
        lifecycle.stop(session, search, 4)
    row = stack.wait_for(search)
    result = searches.result(row)
    assert row.stopping
    assert any("Stopped on request" in warning for warning in result.warnings)
    assert result.fastest.degradation.upper_bound is not None
    assert result.fastest.degradation.upper_bound <= result.max_degradation
    # What was cut short answers no other search.
    again = searches.result(
        stack.wait_for(stack.submit(small_spec(episodes=SLOW, max_degradation=2.0, degradation_bound=10.0)))
    )
    assert again.search.answered_from is None
    assert again.search.judged >= result.search.judged
