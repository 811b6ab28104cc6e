from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from search_service.domain.keys import Scope
from search_service.settings import Settings
from search_service.storage.database import Database
from tests.search_service.api.conftest import asking, make_key

LOGGER = "search_service.api.request_log"


def samples(client: TestClient) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Name of each series, its labels, its value."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(**named: str) -> frozenset[tuple[str, str]]:
    return frozenset(named.items())


def test_requests_are_counted_by_template(client: TestClient, spec: dict[str, Any]) -> None:
    search = client.post("/v1/searches", json=spec).json()["id"]
    client.get(f"/v1/searches/{search}")
    client.get(f"/v1/searches/{uuid4()}")
    client.get("/no/such/path")
    client.request("BREW", "/v1/searches")
    found = samples(client)
    total = found["lambda_search_http_requests_total"]
    assert total[labels(method="POST", route="/v1/searches", status="202")] == 1
    assert total[labels(method="GET", route="/v1/searches/{search_id}", status="200")] == 1
    assert total[labels(method="GET", route="/v1/searches/{search_id}", status="404")] == 1
    assert total[labels(method="GET", route="other", status="404")] == 1
    assert not any(search in str(series) for series in total)
    assert not any("BREW" in str(series) for series in total)
    counted = found["lambda_search_http_request_seconds_count"]
    assert counted[labels(method="GET", route="/v1/searches/{search_id}")] == 2


def test_what_is_stored_is_read_when_asked(client: TestClient, spec: dict[str, Any]) -> None:
    for _ in range(3):
        client.post("/v1/searches", json=spec)
    found = samples(client)
    assert found["lambda_search_searches"] == {
        labels(status="running", device="cpu"): 2,
        labels(status="queued", device="cpu"): 1,
    }
    assert found["lambda_search_queue_jobs"] == {labels(device="cpu", state="todo"): 2}
    assert found["lambda_search_workers"] == {labels(device="cpu"): 1}
    assert found["lambda_search_event_listeners"] == {frozenset(): 0}
    assert {name.removesuffix("_total") for name in found} == {
        "lambda_search_http_requests",
        "lambda_search_http_request_seconds_bucket",
        "lambda_search_http_request_seconds_count",
        "lambda_search_http_request_seconds_sum",
        "lambda_search_searches",
        "lambda_search_queue_jobs",
        "lambda_search_workers",
        "lambda_search_event_listeners",
    }


def test_a_key_of_scope_read_is_enough_and_none_is_not(settings: Settings, database: Database) -> None:
    reader = make_key(database, "prometheus", Scope.READ)
    assert asking(settings, reader).get("/metrics").status_code == 200
    assert asking(settings, None).get("/metrics").status_code == 401


def test_the_format_is_the_one_asked_for_and_not_in_the_reference(client: TestClient) -> None:
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")
    accept = "application/openmetrics-text; version=1.0.0"
    assert client.get("/metrics", headers={"Accept": accept}).text.endswith("# EOF\n")
    assert "/metrics" not in client.get("/openapi.json").json()["paths"]


def test_a_request_has_one_id_everywhere(
    client: TestClient, spec: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/v1/searches/nothing", headers={"X-Request-ID": "from-outside.1"})
    assert answer.headers["x-request-id"] == "from-outside.1"
    assert answer.json()["request_id"] == "from-outside.1"
    with caplog.at_level(logging.INFO):
        answer = client.post("/v1/searches", json=spec)
    (submitted,) = [record for record in caplog.records if record.message == "submitted"]
    assert submitted.search == answer.json()["id"]  # type: ignore[attr-defined]
    assert len(answer.headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("insane", ["a b", "x" * 129, 'id"; drop', "Λ".encode()])
def test_an_insane_id_is_replaced(client: TestClient, insane: str | bytes) -> None:
    answer = client.get("/livez", headers=[(b"X-Request-ID", insane.encode() if isinstance(insane, str) else insane)])
    assert len(answer.headers["x-request-id"]) == 32
    assert answer.headers["x-request-id"].isalnum()


def test_what_nobody_foresaw_has_an_id_and_is_counted(
    client: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("search_service.storage.searches.page", broken)
    answer = client.get("/v1/searches")
    assert answer.status_code == 500
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    total = samples(client)["lambda_search_http_requests_total"]
    assert total[labels(method="GET", route="/v1/searches", status="500")] == 1


def test_a_request_has_one_line_but_not_where_health_is_asked(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGER):
        for path in ("/livez", "/readyz", f"/v1/searches/{uuid4()}", "/nothing"):
            client.get(path)
    told = [vars(record) for record in caplog.records if record.name == LOGGER]
    assert [(line["method"], line["route"], line["status"], line["key"]) for line in told] == [
        ("GET", "/v1/searches/{search_id}", 404, "admin"),
        ("GET", None, 404, None),
    ]
    assert all(0 <= line["seconds"] < 10 for line in told)


def test_prometheus_asks_pods_by_their_addresses(client: TestClient) -> None:
    assert client.get("/metrics", headers={"host": "10.1.2.3:8000"}).status_code == 200
    assert client.get("/v1/searches", headers={"host": "10.1.2.3:8000"}).status_code == 421
    assert client.get("/metrics", headers={"host": "10.1.2.3:8000", "authorization": "Bearer x"}).status_code == 401
