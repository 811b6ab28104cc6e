from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from search_service import queue
from search_service.domain.evaluation import DIVERGED_QUALITY
from search_service.domain.search import Phase
from search_service.domain.trial import TrialState
from search_service.storage import searches, tokens, trials
from search_service.storage.database import Database
from tests.made_up_result import made_up_result


def submit(client: TestClient, spec: dict[str, Any], **changes: Any) -> str:
    response = client.post("/v1/searches", json={**spec, **changes})
    assert response.status_code == 202, response.text
    identity: str = response.json()["id"]
    return identity


def slug(response: Any) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    kind: str = response.json()["type"]
    return kind.rpartition(":")[2]


def test_pages_hold_every_search_once_newest_first(client: TestClient, spec: dict[str, Any]) -> None:
    submitted = [submit(client, spec, name=f"number {number}") for number in range(7)]
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = client.get("/v1/searches", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += [search["id"] for search in page["searches"]]
        cursor = page["next_cursor"]
        # What is submitted while somebody turns pages shifts nothing.
        submit(client, spec)
    assert cursor is None
    assert seen == submitted[::-1]


def test_searches_of_one_status(client: TestClient, spec: dict[str, Any]) -> None:
    first, second, third = (submit(client, spec) for _ in range(3))
    listed = client.get("/v1/searches?status=queued").json()["searches"]
    assert [search["id"] for search in listed] == [third]
    listed = client.get("/v1/searches?status=running").json()["searches"]
    assert [search["id"] for search in listed] == [second, first]


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("colour=red", "colour", "unknown parameter"),
        ("limit=0", "limit", "greater than or equal to 1"),
        ("limit=many", "limit", "must be a whole number"),
        (
            "status=lost",
            "status.0",
            "must be 'queued', 'running', 'paused', 'succeeded', 'failed' or 'cancelled', not 'lost'",
        ),
        ("cursor=%00", "cursor", "no cursor of this list"),
        ("cursor=MTIz", "cursor", "no cursor of this list"),
        ("cursor=ééé", "cursor", "no cursor of this list"),
    ],
)
def test_a_parameter_that_is_not_valid(client: TestClient, query: str, field: str, reason: str) -> None:
    response = client.get(f"/v1/searches?{query}")
    assert response.status_code == 422
    assert slug(response) == "invalid-parameter"
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert reason in error["reason"]


@pytest.mark.parametrize("name", ["0b1e6f52-98a5-4c1d-8a3a-3c8f2a6d1f00", "nonsense", "a:b"])
@pytest.mark.parametrize("rest", ["", "/trials", "/front", "/result"])
def test_no_such_search(client: TestClient, name: str, rest: str) -> None:
    response = client.get(f"/v1/searches/{name}{rest}")
    assert response.status_code == 404
    assert slug(response) == "not-found"
    assert response.json()["detail"] == f"no search is called '{name}'"
    assert client.post(f"/v1/searches/{name}:cancel").status_code == 404


def test_the_front_grows(client: TestClient, database: Database, spec: dict[str, Any]) -> None:
    search = submit(client, spec, max_degradation=0.02)
    path = f"/v1/searches/{search}/front"
    assert client.get(path).json() == {"max_degradation": 0.02, "best": None, "trials": [], "latency_ratio": None}
    with database.session() as session:
        new = [trials.NewTrial(f"{row:05b}", "group", row * 0.001) for row in range(1, 5)]
        trials.add_many(session, UUID(search), new)
        losing, good, dominated, _ = trials.of_search(session, UUID(search))
        losing.state, losing.degradation = TrialState.DROPPED, 0.1
        good.state, good.degradation = TrialState.SURVIVED, 0.01
        dominated.state, dominated.degradation = TrialState.SURVIVED, 0.015
        losing.quality, good.quality = DIVERGED_QUALITY / 300, 0.8
    front = client.get(path).json()
    assert [trial["number"] for trial in front["trials"]] == [0, 1]
    assert [trial["quality"] for trial in front["trials"]] == [None, 0.8]  # adaptation diverged: that is no figure
    assert front["best"]["number"] == 1


def test_trials_page_by_page(client: TestClient, database: Database, spec: dict[str, Any]) -> None:
    search = submit(client, spec)
    with database.session() as session:
        trials.add_many(session, UUID(search), [trials.NewTrial(f"{row:05b}", "group", 0.01) for row in range(1, 8)])
        for row in trials.of_search(session, UUID(search))[:2]:
            row.state = TrialState.DROPPED
            row.quality = 0.5
    page = client.get(f"/v1/searches/{search}/trials?limit=4").json()
    assert [trial["pattern"] for trial in page["trials"]] == ["00001", "00010", "00011", "00100"]
    page = client.get(f"/v1/searches/{search}/trials", params={"limit": 4, "cursor": page["next_cursor"]}).json()
    assert [trial["number"] for trial in page["trials"]] == [4, 5, 6]
    assert page["next_cursor"] is None
    dropped = client.get(f"/v1/searches/{search}/trials?state=dropped").json()["trials"]
    assert [(trial["state"], trial["quality"]) for trial in dropped] == [("dropped", 0.5)] * 2
    assert client.get(f"/v1/searches/{search}/trials?cursor=%21").status_code == 422
    assert client.get(f"/v1/searches/{search}/trials?state=odd").status_code == 422


def test_the_result_is_there_once_the_search_has_succeeded(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    search = submit(client, spec)
    response = client.get(f"/v1/searches/{search}/result")
    assert response.status_code == 409
    assert slug(response) == "result-not-ready"
    with database.session() as session:
        row = searches.lock(session, UUID(search))
        searches.enter_phase(session, row, Phase.BASELINE)
        searches.succeed(session, row, made_up_result(search_id=search))
    assert client.get(f"/v1/searches/{search}/result").json() == made_up_result(search_id=search)
    view = client.get(f"/v1/searches/{search}").json()
    assert view["status"] == "succeeded"
    assert set(view["phase_seconds"]) == {"meta_training", "baseline"}
    assert view["finished_at"] is not None
    assert view["elapsed_s"] > 0


def test_the_result_of_a_failed_search_says_why_it_failed(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    search = submit(client, spec)
    with database.session() as session:
        row = searches.lock(session, UUID(search))
        searches.fail(session, row, title="The evaluator failed", detail="out of memory")
    response = client.get(f"/v1/searches/{search}/result")
    assert response.status_code == 409
    assert slug(response) == "search-failed"
    assert "during meta_training" in response.json()["detail"]
    assert "out of memory" in response.json()["detail"]
    assert client.get(f"/v1/searches/{search}").json()["problem"] == {
        "title": "The evaluator failed",
        "detail": "out of memory",
        "phase": "meta_training",
    }
    response = client.post(f"/v1/searches/{search}:cancel")
    assert response.status_code == 409
    assert slug(response) == "illegal-move"


def test_cancelling_ends_the_tokens_calls_back_the_jobs_and_lets_the_next_run(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    first, _, third = (submit(client, spec) for _ in range(3))
    assert client.get(f"/v1/searches/{third}").json()["status"] == "queued"
    response = client.post(f"/v1/searches/{first}:cancel")
    assert response.status_code == 200
    assert response.json()["status"] == "cancelled"
    assert client.get(f"/v1/searches/{third}").json()["status"] == "running"
    with database.session() as session:
        assert tokens.live_count(session, UUID(first), Phase.META_TRAINING) == 0
        jobs = session.execute(text("select id, args ->> 'search_id' from procrastinate.procrastinate_jobs")).all()
        status = queue.job_status(session, [identity for identity, _ in jobs])
        assert {search: status[identity] for identity, search in jobs if search in (first, third)} == {
            first: "cancelled",
            third: "todo",
        }
    again = client.post(f"/v1/searches/{first}:cancel")
    assert again.status_code == 200
    assert again.json()["finished_at"] == response.json()["finished_at"]
    response = client.get(f"/v1/searches/{first}/result")
    assert response.status_code == 409
    assert slug(response) == "search-cancelled"


def test_a_queued_search_can_be_cancelled(client: TestClient, spec: dict[str, Any]) -> None:
    *_, third = (submit(client, spec) for _ in range(3))
    view = client.post(f"/v1/searches/{third}:cancel").json()
    assert (view["status"], view["phase"], view["started_at"]) == ("cancelled", None, None)


def test_paths_and_methods_that_are_not_there(client: TestClient) -> None:
    response = client.get("/v1/nothing")
    assert response.status_code == 404
    assert slug(response) == "no-such-path"
    response = client.delete("/v1/searches")
    assert response.status_code == 405
    assert slug(response) == "method-not-allowed"
    assert set(response.headers["allow"].split(", ")) <= {"GET", "POST"}


def test_another_threshold_is_answered_from_the_result(
    client: TestClient, database: Database, spec: dict[str, Any]
) -> None:
    search = submit(client, spec)
    assert slug(client.get(f"/v1/searches/{search}/answer?max_degradation=0.01")) == "result-not-ready"
    with database.session() as session:
        row = searches.lock(session, UUID(search))
        searches.enter_phase(session, row, Phase.BASELINE)
        searches.succeed(session, row, made_up_result(search_id=search))
    answered = client.get(f"/v1/searches/{search}/answer", params={"max_degradation": 0.009})
    assert answered.status_code == 200, answered.text
    assert answered.json()["status"] == "answered"
    assert answered.json()["answer"]["candidate"] == "00111@2"
    outside = client.get(f"/v1/searches/{search}/answer", params={"max_degradation": 0.5}).json()
    assert outside["status"] == "needs_evaluation"
    assert outside["estimated_s"] is not None
    for wrong in ("0", "-1", "nan", "much", ""):
        assert client.get(f"/v1/searches/{search}/answer", params={"max_degradation": wrong}).status_code == 422
