from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service.domain.errors import EpisodesChanged, IllegalMove, NotFound
from search_service.domain.evaluation import EvaluationScope, LatencyScope, Split, TimingScope
from search_service.domain.recipe import Recipe
from search_service.domain.search import MetaTraining, NetworkSpec, Phase, SearchSpec, SearchStatus, TaskFamily
from search_service.domain.trial import TrialState
from search_service.storage import checkpoints, evaluations, latency_models, searches, timings, tokens, trials, workers
from search_service.storage.database import Database
from search_service.storage.tokens import TokenState
from search_service.storage.trials import NewTrial
from tests.made_up_result import made_up_result

SPEC = SearchSpec(
    tasks=TaskFamily(family="glyphs"),
    model=NetworkSpec(network="conv4"),
    meta_training=MetaTraining(),
    max_degradation=0.01,
)
RECIPE = Recipe(model=SPEC.model, tasks=SPEC.tasks, meta_training=MetaTraining(), norm_statistics="support")
SCOPE = EvaluationScope(
    checkpoint="c0ffee",
    family="glyphs",
    ways=5,
    shots=1,
    queries=15,
    split=Split.VALIDATION,
    seed=0,
    block_size=2,
    rate=0.1,
    norm_statistics="support",
)
TIMING_SCOPE = TimingScope(
    network="conv4",
    family="glyphs",
    ways=5,
    shots=1,
    queries=15,
    rate=0.1,
    norm_statistics="support",
    baseline="11111@5",
    runtime="eager",
    fingerprint="cpu",
)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.session() as session:
        yield session


def test_an_error_takes_everything_back(database: Database) -> None:
    added: list[UUID] = []

    def add_and_fail() -> None:
        with database.session() as session:
            added.append(searches.add(session, SPEC).id)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        add_and_fail()
    (identity,) = added
    with pytest.raises(NotFound, match=str(identity)), database.session() as session:
        searches.get(session, identity)


def test_a_search_goes_its_way(session: Session) -> None:
    row = searches.add(session, SPEC)
    assert (row.status, row.phase, row.phase_seconds, row.progress) == ("queued", None, {}, {})
    with pytest.raises(IllegalMove):
        searches.succeed(session, row, {})
    searches.start(session, row)
    searches.set_progress(row, {"done": 1, "total": 8, "unit": "blocks"})
    for phase in list(Phase)[1:]:
        searches.enter_phase(session, row, phase)
        assert row.progress == {}
    searches.succeed(session, row, made_up_result(search_id=str(row.id)))
    session.flush()
    assert set(row.phase_seconds) == set(Phase)
    assert all(seconds >= 0 for seconds in row.phase_seconds.values())
    with pytest.raises(IllegalMove, match="succeeded and cannot become cancelled"):
        searches.cancel(session, row)


def test_queued_searches_go_by_priority_and_then_by_age(session: Session) -> None:
    rows = []
    for priority in (0, 5, 0, 5):
        row = searches.add(session, SPEC)
        row.priority = priority
        rows.append(row)
    session.flush()
    order = []
    while (row := searches.lock_next_queued(session, "cpu")) is not None:
        searches.start(session, row)
        order.append(row.id)
    assert order == [rows[1].id, rows[3].id, rows[0].id, rows[2].id]
    assert searches.lock_next_queued(session, "cuda:x") is None


def test_a_token_goes_round(session: Session) -> None:
    search = searches.add(session, SPEC)
    first, second = tokens.create(session, search.id, Phase.SEARCH, 2)
    worker = uuid4()
    token = tokens.lock(session, search.id, Phase.SEARCH, 0)
    assert token is first
    assert (token.state, token.step, token.claim_no) == ("in_queue", 0, 0)
    assert tokens.claim(session, token, worker, {"block": 3}) == 1
    assert (token.state, token.worker_id, token.batch) == ("running", worker, {"block": 3})
    tokens.requeue(token)
    assert (token.state, token.step, token.batch) == ("in_queue", 0, None)
    assert tokens.claim(session, token, worker, token.batch) == 2
    tokens.advance(token)
    assert (token.state, token.step, token.claim_no, token.batch) == ("in_queue", 1, 2, None)
    tokens.hold(second)
    assert second.state == TokenState.HELD
    assert tokens.live_count(session, search.id, Phase.SEARCH) == 2
    assert [row.no for row in tokens.live(session)] == [0, 1]
    tokens.end(token)
    assert tokens.live_count(session, search.id, Phase.SEARCH) == 1
    assert [row.no for row in tokens.lock_live_of(session, search.id)] == [1]
    with pytest.raises(NotFound):
        tokens.lock(session, search.id, Phase.SEARCH, 7)


def _latency_s(row: str, step: int) -> float:
    return (int(row, base=2) + step) / 1000


def _trials(session: Session, rows: list[str], steps: int = 2) -> UUID:
    search = searches.add(session, SPEC)
    new = [NewTrial(f"{row}@{step}", row, _latency_s(row, step)) for row in rows for step in range(1, steps + 1)]
    trials.add_many(session, search.id, new)
    return search.id


def test_trials_are_stored_once(session: Session) -> None:
    search = _trials(session, ["01", "10"])
    assert trials.add_many(session, search, [NewTrial("01@1", "01", 1.0), NewTrial("10@2", "10", 1.0)]) == 0
    assert [row.candidate for row in trials.of_search(session, search)] == ["01@1", "01@2", "10@1", "10@2"]
    assert trials.counts(session, search) == {**dict.fromkeys(TrialState, 0), TrialState.PENDING: 4}


def test_many_trials_are_stored_quickly(session: Session) -> None:
    search = searches.add(session, SPEC).id
    assert trials.add_many(session, search, (NewTrial(str(number), "row", 1.0) for number in range(20_000))) == 20_000
    assert trials.counts(session, search)[TrialState.PENDING] == 20_000


def test_tokens_take_groups_in_the_order_of_predicted_latency(session: Session) -> None:
    search = _trials(session, ["10", "11", "01"])

    def take(token_no: int, horizon_s: float = math.inf) -> list[str]:
        return [row.candidate for row in trials.take_group(session, search, token_no, horizon_s)]

    assert trials.free_groups(session, search, math.inf) == 3
    assert take(0) == ["01@1", "01@2"]
    assert take(1) == ["10@1", "10@2"]
    assert [row.number for row in trials.taken(session, search, 1)] == [0, 1]
    for row in trials.taken(session, search, 0):
        row.blocks, row.token_no = 1, None
    assert take(0) == ["01@1", "01@2"]  # the fastest group is judged to its end
    slowest = trials.taken(session, search, 0)[1]
    slowest.state, slowest.token_no = TrialState.DROPPED, None
    assert trials.free_groups(session, search, math.inf) == 1
    assert trials.free_groups(session, search, _latency_s("11", 1) - 1e-6) == 0
    assert take(2, _latency_s("11", 1)) == ["11@1"]  # of its group, what lies within the horizon
    assert take(3, _latency_s("11", 1)) == []
    assert take(3) == ["11@2"]
    assert take(4) == []


def test_a_budget_limits_how_many_trials_are_begun(session: Session) -> None:
    search = _trials(session, ["01", "10"])
    assert trials.free_groups(session, search, math.inf, 0) == 0
    assert trials.take_group(session, search, 0, math.inf, 0) == []
    assert [row.candidate for row in trials.take_group(session, search, 0, math.inf, 1)] == ["01@1"]
    assert (trials.judged_count(session, search), trials.reserved_blocks(session, search)) == (1, 1)
    for row in trials.taken(session, search, 0):
        row.blocks, row.token_no = 3, None
    assert (trials.judged_count(session, search), trials.reserved_blocks(session, search)) == (1, 3)
    assert trials.free_groups(session, search, math.inf, 0) == 1  # what was begun goes on
    assert [row.candidate for row in trials.take_group(session, search, 0, math.inf, 0)] == ["01@1"]
    assert trials.take_group(session, search, 1, math.inf, 5, 1)[0].candidate == "01@2"
    assert [row.candidate for row in trials.take_group(session, search, 2, math.inf, None, 1)] == ["10@1"]


def test_further_trials_are_numbered_after_those_there_are(session: Session) -> None:
    search = _trials(session, ["01"])
    assert trials.add_many(session, search, [NewTrial("01@2", "01", 1.0), NewTrial("11@2", "11", 1.0)]) == 1
    assert [(row.number, row.candidate) for row in trials.of_search(session, search)] == [
        (0, "01@1"),
        (1, "01@2"),
        (2, "11@2"),
    ]


def test_an_earlier_evaluation_wins(session: Session) -> None:
    scope = evaluations.ensure_scope(session, SCOPE)
    assert evaluations.ensure_scope(session, SCOPE) == scope == SCOPE.key
    stored = evaluations.put_block(session, scope, 0, {"01": [0.5, 0.25], "10": [1.0, 0.0]}, {"host": "a"})
    assert stored == {"01": [0.5, 0.25], "10": [1.0, 0.0]}
    stored = evaluations.put_block(session, scope, 0, {"01": [0.0, 0.0], "11": [0.75, 0.75]}, {"host": "b"})
    assert stored == {"01": [0.5, 0.25], "11": [0.75, 0.75]}
    assert evaluations.block(session, scope, ["10", "00"], 0) == {"10": [1.0, 0.0]}
    assert evaluations.block(session, scope, ["10"], 1) == {}
    evaluations.put_block(session, scope, 2, {"01": [0.5, 0.5]}, {})
    assert evaluations.blocks(session, scope, "01", 5) == [[0.5, 0.25]]
    assert evaluations.put_block(session, scope, 0, {}, {}) == {}


def test_two_workers_that_store_the_same_block_agree(database: Database) -> None:
    with database.session() as session:
        scope = evaluations.ensure_scope(session, SCOPE)
    candidates = [f"{number:05b}" for number in range(1, 32)]
    read: list[dict[str, list[float]]] = []
    barrier = threading.Barrier(4)

    def work(mine: float, order: list[str]) -> None:
        barrier.wait()
        with database.session() as session:
            read.append(evaluations.put_block(session, scope, 0, {name: [mine, mine] for name in order}, {}))

    threads = [
        threading.Thread(target=work, args=(number / 4, candidates if number % 2 else candidates[::-1]))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(read) == 4
    assert all(one == read[0] for one in read)
    assert len(read[0]) == len(candidates)


def test_other_episodes_are_noticed(session: Session) -> None:
    scope = evaluations.ensure_scope(session, SCOPE)
    evaluations.check_digest(session, scope, 0, "abc")
    evaluations.check_digest(session, scope, 0, "abc")
    with pytest.raises(EpisodesChanged, match=r"block 0 .* digest xyz.* with abc"):
        evaluations.check_digest(session, scope, 0, "xyz")


def test_a_later_timing_replaces_an_earlier_one(session: Session) -> None:
    timings.put(session, TIMING_SCOPE, {"01": {"median": 1.0}})
    timings.put(session, TIMING_SCOPE, {"01": {"median": 2.0}, "10": {"median": 3.0}})
    timings.put(session, TIMING_SCOPE, {})
    assert timings.get(session, TIMING_SCOPE.key, ["01", "10", "11"]) == {"01": {"median": 2.0}, "10": {"median": 3.0}}


def test_one_search_trains_a_recipe_and_one_checkpoint_comes_of_it(session: Session) -> None:
    mine, other = searches.add(session, SPEC).id, searches.add(session, SPEC).id
    training = checkpoints.lock_training(session, RECIPE)
    assert checkpoints.own_training(training, mine)
    assert not checkpoints.own_training(training, other)
    checkpoints.advance_training(training, iteration=100, uri="state", history={"loss": [1.0]})
    checkpoints.release_training(training)
    assert checkpoints.own_training(checkpoints.lock_training(session, RECIPE), other)
    assert checkpoints.find_by_recipe(session, RECIPE) is None
    made = checkpoints.add(session, checkpoint_id="aa", recipe=RECIPE, uri="aa", quality={})
    same = checkpoints.add(session, checkpoint_id="bb", recipe=RECIPE, uri="bb", quality={})
    assert made is same
    assert checkpoints.get(session, "aa") is made
    for absent in ("bb", "", "\x00", "\ud800"):
        with pytest.raises(NotFound):
            checkpoints.get(session, absent)


def test_workers_come_and_go(session: Session) -> None:
    stays, goes, forgotten = uuid4(), uuid4(), uuid4()
    for worker in (stays, goes, forgotten):
        workers.announce(session, worker, host="h", pid=1, device="cpu", fingerprint={}, families={"glyphs": None})
    workers.stop(session, goes)
    session.execute(
        text("update lambda_search.workers set seen_at = now() - interval '2 hours' where id = :id"),
        {"id": forgotten},
    )
    assert [row.id for row in workers.announced(session)] == [stays]
    workers.seen(session, forgotten)
    workers.announce(session, goes, host="h", pid=2, device="cuda:x", fingerprint={}, families={})
    assert {row.id for row in workers.announced(session)} == {stays, goes, forgotten}
    session.expire_all()
    assert [row.pid for row in workers.announced(session) if row.device == "cuda:x"] == [2]


def test_rows_speak_in_statuses(session: Session) -> None:
    row = searches.add(session, SPEC)
    session.expire(row)
    assert SearchStatus(row.status) is SearchStatus.QUEUED


def test_blocks_on_which_something_is_missing(session: Session) -> None:
    scope = evaluations.ensure_scope(session, SCOPE)
    for block, candidates in ((0, ["01", "10"]), (1, ["01"]), (2, ["01", "10"]), (4, ["01", "10"])):
        evaluations.put_block(session, scope, block, {candidate: [0.5, 0.25] for candidate in candidates}, {})
    assert evaluations.missing_blocks(session, scope, ["01", "10"], 4) == [1, 3]
    assert evaluations.missing_blocks(session, scope, ["01"], 3) == []
    assert evaluations.missing_blocks(session, scope, ["11"], 2) == [0, 1]


def test_a_latency_model_is_stored_once(session: Session) -> None:
    scope = LatencyScope(
        network="n",
        family="glyphs",
        ways=5,
        shots=1,
        norm_statistics="support",
        max_steps=5,
        lowered=False,
        runtime="eager",
        fingerprint="f",
    )
    assert latency_models.get(session, scope.key) is None
    latency_models.put(session, scope, {"constant_s": 0.5})
    latency_models.put(session, scope, {"constant_s": 0.7})
    assert latency_models.get(session, scope.key) == {"constant_s": 0.5}
    assert latency_models.get(session, replace(scope, max_steps=4).key) is None
