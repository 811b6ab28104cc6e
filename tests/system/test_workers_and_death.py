"""What must hold whatever dies when: no trial lost, none doubled, the same decisions, and nothing left running."""

from __future__ import annotations

import time

import psutil
import pytest
from sqlalchemy import delete, select, text, update

from search_service import lifecycle, queue
from search_service.domain.search import SearchStatus
from search_service.storage import codec, searches
from search_service.storage.tables import EvaluationRow, SearchRow, TokenRow, TrainingRow
from tests.system.conftest import Stack, small_spec, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def forget_evaluations(stack: Stack) -> None:
    """Make the next search judge everything anew, on the same checkpoint and with the same timings."""
    with stack.database.session() as session:
        session.execute(delete(EvaluationRow))


def assert_same_decisions(stack: Stack, one: SearchRow, other: SearchRow) -> None:
    """What both searches have screened has the same figures and fate; beyond their horizon each may know a few more.

    Several workers, or those that take up what a dead one held, run ahead of each other.
    """
    before, after = stack.screened(one.id), stack.screened(other.id)
    common = before.keys() & after.keys()
    assert len(common) >= 3
    assert all(before[candidate] == after[candidate] for candidate in common)
    assert one.max_degradation == other.max_degradation
    assert one.result is not None
    assert other.result is not None
    assert other.result["fastest"]["degradation"]["upper_bound"] <= one.max_degradation


@pytest.mark.parametrize("moment", ["mid-trial", "after-close"])
def test_kill_9_loses_and_doubles_nothing(stack: Stack, moment: str) -> None:
    healthy = stack.start_worker()
    undisturbed = stack.wait_for(stack.submit(small_spec()))
    evaluated = stack.evaluations()
    assert healthy.stop() == 0, stack.logs()
    forget_evaluations(stack)

    dying = stack.start_worker(moment, "3")
    search_id = stack.submit(small_spec())
    wait_until(lambda: dying.process.poll() is not None, f"the worker to die {moment}; {stack.logs()}")
    assert dying.process.returncode == -9
    stack.start_worker()
    row = stack.wait_for(search_id)

    assert_same_decisions(stack, undisturbed, row)
    again = stack.evaluations()
    common = evaluated.keys() & again.keys()
    assert len(common) > len(evaluated) / 2
    assert all(again[key] == evaluated[key] for key in common)
    # Counted once: what was computed is what is stored.
    assert row.effort["episode_adaptations"] == sum(map(len, again.values()))


def test_the_evaluator_dies_with_its_worker(stack: Stack) -> None:
    worker = stack.start_worker()
    stack.submit(small_spec(meta_training={"iterations": 1_000_000, "inner_steps": 2, "inner_rate": 0.001}))
    wait_until(lambda: _training_iteration(stack) > 0 or _progress(stack) > 0, f"training; {stack.logs()}")
    evaluators = worker.evaluators()
    assert evaluators
    worker.kill()
    started = time.monotonic()
    wait_until(lambda: not any(_is_running(child) for child in evaluators), "the evaluator to die", 3.0)
    assert time.monotonic() - started < 3.0


def test_cancel_frees_the_device_within_three_seconds(stack: Stack) -> None:
    worker = stack.start_worker()
    endless = small_spec(meta_training={"iterations": 1_000_000, "inner_steps": 2, "inner_rate": 0.001})
    search_id = stack.submit(endless)
    wait_until(lambda: _progress(stack) > 0, f"training; {stack.logs()}")
    evaluators = worker.evaluators()
    with stack.database.session() as session:
        lifecycle.cancel(session, search_id, 4)
    wait_until(lambda: not any(_is_running(child) for child in evaluators), "the evaluator to stop", 3.0)
    assert stack.search(search_id).status == SearchStatus.CANCELLED
    # The worker itself lives on and serves the next search.
    assert stack.wait_for(stack.submit(small_spec())).result is not None


def test_two_workers_find_what_one_finds(stack: Stack) -> None:
    stack.start_worker()
    one = stack.wait_for(stack.submit(small_spec()))
    forget_evaluations(stack)
    stack.start_worker()
    wait_until(lambda: "announced" in stack.workers[1].log.read_text(), f"the second worker; {stack.logs()}")
    two = stack.wait_for(stack.submit(small_spec()))

    assert_same_decisions(stack, one, two)
    assert two.effort["episode_adaptations"] == sum(map(len, stack.evaluations().values()))


def test_a_lost_job_and_a_lost_database_connection_are_made_good(stack: Stack) -> None:
    stack.start_worker()
    wait_until(lambda: "announced" in stack.workers[0].log.read_text(), f"the worker; {stack.logs()}")
    search_id = stack.submit(small_spec(seed=1))
    with stack.database.session() as session:
        session.execute(text("delete from procrastinate.procrastinate_jobs where status = 'todo'"))
    wait_until(lambda: stack.search(search_id).phase != "meta_training", f"the reaper; {stack.logs()}")
    with stack.database.session() as session:
        session.execute(
            text(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        )
    assert stack.wait_for(search_id).result is not None


def test_the_same_recipe_is_trained_once_by_two_searches_at_a_time(stack: Stack) -> None:
    stack.start_worker()
    stack.start_worker()
    recipe = {"iterations": 1500, "inner_steps": 2, "inner_rate": 0.01}
    first, second = (stack.submit(small_spec(meta_training=recipe, max_degradation=ε)) for ε in (0.4, 0.5))
    a, b = stack.wait_for(first), stack.wait_for(second)
    assert a.checkpoint == b.checkpoint
    with stack.database.session() as session:
        assert len(session.scalars(select(TrainingRow)).all()) == 1


def test_a_search_that_diverges_fails_with_advice_and_the_worker_lives(stack: Stack) -> None:
    stack.start_worker()
    diverging = small_spec(meta_training={"iterations": 50, "inner_steps": 5, "inner_rate": 100.0})
    row = stack.wait_for(stack.submit(diverging), SearchStatus.FAILED)
    assert row.problem is not None
    assert "diverged" in row.problem["detail"]
    assert "inner_rate" in row.problem["detail"]
    assert stack.wait_for(stack.submit(small_spec())).result is not None


def test_candidates_that_diverge_are_dropped_and_the_answer_is_finite(stack: Stack) -> None:
    stack.start_worker()
    spec = small_spec(
        meta_training={"inner_steps": 1, "inner_rate": 0.01, "iterations": 30, "meta_batch": 4},
        baseline={"steps": 1, "rate": 5.0},
        space={"max_steps": 15},
    )
    row = stack.wait_for(stack.submit(spec))
    assert row.result is not None
    codec.result_from_json(row.result)
    worst = min(entry["quality"]["estimate"] for entry in row.result["full_by_steps"])
    assert worst <= -1e20, "the rate was chosen so that some candidates diverge"
    assert row.result["fastest"]["quality"]["estimate"] > -1e4


def test_a_step_that_kills_its_workers_fails_its_search_only(stack: Stack) -> None:
    search_id = stack.submit(small_spec())
    with stack.database.session() as session:
        session.execute(update(TokenRow).values(attempts=6))
    stack.start_worker()
    row = stack.wait_for(search_id, SearchStatus.FAILED)
    assert row.problem is not None
    assert "6 workers died" in row.problem["detail"]


def test_training_begins_again_when_its_stored_state_is_lost(stack: Stack) -> None:
    worker = stack.start_worker()
    recipe = {"iterations": 4000, "inner_steps": 2, "inner_rate": 0.01}
    search_id = stack.submit(small_spec(meta_training=recipe))
    wait_until(lambda: _progress(stack) > 0, f"training; {stack.logs()}")
    with stack.database.session() as session:
        session.execute(update(TrainingRow).values(iteration=4000, uri="trainings/lost.safetensors"))
    worker.kill()
    stack.start_worker()
    row = stack.wait_for(search_id)
    assert row.checkpoint is not None
    with stack.database.session() as session:
        assert session.scalars(select(TrainingRow.uri)).one() != "trainings/lost.safetensors"


def test_sigterm_ends_a_busy_worker_in_good_order(stack: Stack) -> None:
    worker = stack.start_worker()
    search_id = stack.submit(small_spec(meta_training={"iterations": 20_000, "inner_steps": 2, "inner_rate": 0.001}))
    wait_until(lambda: _progress(stack) > 0, f"training; {stack.logs()}")
    evaluators = worker.evaluators()
    assert worker.stop() == 0, stack.logs()
    assert not any(_is_running(child) for child in evaluators)
    with stack.database.session() as session:
        tokens = session.scalars(select(TokenRow).where(TokenRow.search_id == search_id)).all()
        assert [token.state for token in tokens] == ["in_queue"]
        assert queue.job_status(session, [tokens[0].job_id or 0]) == {tokens[0].job_id: "todo"}


def _training_iteration(stack: Stack) -> int:
    with stack.database.session() as session:
        return max(session.scalars(select(TrainingRow.iteration)).all(), default=0)


def _progress(stack: Stack) -> float:
    with stack.database.session() as session:
        running = searches.page(session, limit=100, statuses=[SearchStatus.RUNNING])
        return max((row.progress.get("done", 0) for row in running), default=0)


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
