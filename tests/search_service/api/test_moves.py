"""Submitting once, moving what is still as it was seen, and finding it again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from search_service.domain.search import Phase
from search_service.storage import searches
from search_service.storage.database import Database
from tests.search_service.api.test_access import slug


def submit(client: TestClient, spec: dict[str, Any], name: str | None = None) -> Any:
    return client.post("/v1/searches", json=spec, headers={} if name is None else {"Idempotency-Key": name})


def test_the_same_name_and_body_find_the_same_search(client: TestClient, spec: dict[str, Any]) -> None:
    first = submit(client, spec, "nightly-1")
    again = submit(client, {**spec, "priority": 0}, "nightly-1")  # a default written out is the same body
    assert first.json()["id"] == again.json()["id"]
    assert again.status_code == 202
    assert again.headers["location"] == first.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = submit(client, {**spec, "seed": 1}, "nightly-1")
    assert other.status_code == 422
    assert slug(other) == "idempotency-conflict"
    assert first.json()["id"] in other.json()["detail"]
    assert submit(client, spec, "nightly-2").json()["id"] != first.json()["id"]
    assert len(client.get("/v1/searches").json()["searches"]) == 2


def test_fifty_at_once_make_one_search(client: TestClient, spec: dict[str, Any]) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: submit(client, spec, "at-once"), range(50)))
    assert {answer.status_code for answer in answers} == {202}, {
        answer.text for answer in answers if answer.status_code != 202
    }
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1


@pytest.mark.parametrize("name", ["", "with space", "x" * 201])
def test_a_name_that_cannot_be(client: TestClient, spec: dict[str, Any], name: str) -> None:
    response = submit(client, spec, name)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == ["Idempotency-Key"]


def test_an_etag_tells_whether_anything_changed(client: TestClient, spec: dict[str, Any], database: Database) -> None:
    path = submit(client, spec).json()["links"]["self"]
    seen = client.get(path)
    etag = seen.headers["etag"]
    unchanged = client.get(path, headers={"If-None-Match": f'"other", {etag}'})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get(path).content == seen.content

    assert client.patch(path, json={"priority": 7}, headers={"If-Match": etag}).json()["priority"] == 7
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 200
    late = client.patch(path, json={"priority": 9}, headers={"If-Match": etag})
    assert late.status_code == 412
    assert slug(late) == "version-changed"
    assert client.post(f"{path}:cancel", headers={"If-Match": etag}).status_code == 412
    assert client.get(path).json()["priority"] == 7
    assert client.post(f"{path}:cancel", headers={"If-Match": "*"}).json()["status"] == "cancelled"
    assert slug(client.patch(path, json={"priority": 1})) == "illegal-move"


def test_lifecycle_verbs(client: TestClient, spec: dict[str, Any], database: Database) -> None:
    path = submit(client, spec).json()["links"]["self"]
    for verb, status in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")):
        assert client.post(f"{path}:{verb}").json()["status"] == status
    with database.session() as session:
        row = searches.lock(session, UUID(path.rpartition("/")[2]))
        searches.enter_phase(session, row, Phase.SEARCH)
    stopped = client.post(f"{path}:stop").json()
    assert (stopped["status"], stopped["stopping"]) == ("running", True)
    early = submit(client, spec).json()["links"]["self"]
    assert client.post(f"{early}:stop").json()["status"] == "cancelled"
    for verb in ("pause", "resume"):
        assert slug(client.post(f"{early}:{verb}")) == "illegal-move"
    assert client.post("/v1/searches/8a2fe0f0-9bd6-4d4c-8a70-6f4f4f0f1c2d:pause").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"), [({}, "priority"), ({"priority": 1001}, "priority"), ({"priority": 1, "name": "x"}, "name")]
)
def test_a_change_that_cannot_be(client: TestClient, spec: dict[str, Any], body: dict[str, Any], field: str) -> None:
    path = submit(client, spec).json()["links"]["self"]
    response = client.patch(path, json=body)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


@pytest.mark.parametrize("sort", ["created_at", "-created_at", "priority", "-priority"])
def test_every_order_turns_pages_without_loss(client: TestClient, spec: dict[str, Any], sort: str) -> None:
    priorities = (0, 5, -3, 5, 0, 5, 2)
    submitted = [submit(client, {**spec, "priority": priority}).json() for priority in priorities]
    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = client.get("/v1/searches", params={"limit": 2, "sort": sort, **({"cursor": cursor} if cursor else {})})
        seen += page.json()["searches"]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
        wrong = client.get(
            "/v1/searches", params={"sort": "priority" if "created" in sort else "created_at", "cursor": cursor}
        )
        assert wrong.status_code == 422
    column = sort.removeprefix("-")
    expected = sorted(submitted, key=lambda view: (view[column], view["created_at"]), reverse=sort.startswith("-"))
    assert [view["id"] for view in seen] == [view["id"] for view in expected]


def test_filters(client: TestClient, spec: dict[str, Any]) -> None:
    mine = submit(client, {**spec, "name": "Glyphs 100%"}).json()
    submit(client, {**spec, "name": "other"})
    submit(client, {**spec, "name": "third"})

    def listed(query: str) -> list[str]:
        return [view["name"] for view in client.get(f"/v1/searches?{query}").json()["searches"]]

    assert listed("name=glyphs") == listed("name=0%25") == ["Glyphs 100%"]
    assert listed("name=_") == []
    assert listed("status=queued") == ["third"]
    assert len(listed("status=queued&status=running")) == len(listed(f"submitted_by={mine['submitted_by']}")) == 3
    assert listed("device=cuda:x") == []
