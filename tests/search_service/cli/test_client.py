"""The client against a real API."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import UUID

import pytest

from search_service.client import ApiProblem, Client, SearchView, ServiceUnreachable
from search_service.domain.errors import FieldProblem
from search_service.domain.search import Phase, SearchStatus
from search_service.storage import searches, trials
from search_service.storage.database import Database


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    with Client(service, os.environ["LAMBDA_SEARCH_KEY"], attempts=2) as client:
        yield client


def test_a_submitted_search_can_be_looked_at_and_cancelled(client: Client, spec: dict[str, Any]) -> None:
    view = client.submit(spec)
    assert client.get(view["id"])["spec"]["tasks"]["family"] == "glyphs"
    assert client.cancel(view["id"])["status"] == "cancelled"
    assert client.wait(view["id"])["status"] == "cancelled"


def test_lists_go_through_every_page(
    client: Client, database: Database, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search_service.client.SEARCHES_PER_PAGE", 2)
    monkeypatch.setattr("search_service.client.TRIALS_PER_PAGE", 3)
    submitted = [client.submit(spec)["id"] for _ in range(5)]
    assert [view["id"] for view in client.list()] == submitted[::-1]
    assert [view["id"] for view in client.list(SearchStatus.RUNNING)] == submitted[1::-1]
    with database.session() as session:
        trials.add_many(
            session, UUID(submitted[0]), [trials.NewTrial(f"{row:05b}", "group", 0.01) for row in range(1, 8)]
        )
    assert [trial["number"] for trial in client.trials(submitted[0])] == list(range(7))
    assert list(client.trials(submitted[0], "dropped")) == []


def test_waiting_shows_every_look_and_ends_with_the_search(
    client: Client, database: Database, spec: dict[str, Any], result_document: Callable[..., dict[str, Any]]
) -> None:
    search = client.submit(spec)["id"]
    seen: list[str] = []

    def look(view: SearchView) -> None:
        seen.append(view["status"])
        if len(seen) == 2:
            with database.session() as session:
                row = searches.lock(session, UUID(search))
                searches.enter_phase(session, row, Phase.BASELINE)
                searches.succeed(session, row, result_document(search_id=search))

    assert client.wait(search, look, poll=0.01)["status"] == "succeeded"
    assert seen == ["running", "running", "succeeded"]
    assert client.result(search) == result_document(search_id=search)


def test_what_on_progress_raises_ends_the_waiting(client: Client, spec: dict[str, Any]) -> None:
    def look(_: SearchView) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        client.wait(client.submit(spec)["id"], look)


def test_a_refusal_names_the_fields(client: Client, spec: dict[str, Any]) -> None:
    with pytest.raises(ApiProblem) as caught:
        client.submit({**spec, "colour": "red", "seed": "many"})
    problem = caught.value
    assert problem.status == 422
    assert problem.is_refused_document
    assert {error.field for error in problem.errors} == {"colour", "seed"}


def test_a_spec_that_no_worker_can_run(client: Client, spec: dict[str, Any]) -> None:
    with pytest.raises(ApiProblem) as caught:
        client.submit({**spec, "tasks": {"family": "omniglot"}})
    (error,) = caught.value.errors
    assert error.field == "tasks.family"
    assert "no omniglot.npz" in error.reason


@pytest.mark.parametrize("search", ["nonsense", "../../readyz", "a b?c#d", "ü"])
def test_an_id_is_one_part_of_the_path_whatever_it_is(client: Client, search: str) -> None:
    with pytest.raises(ApiProblem) as caught:
        client.get(search)
    assert caught.value.status == 404
    assert not caught.value.is_refused_document


def test_no_result_yet(client: Client, spec: dict[str, Any]) -> None:
    search = client.submit(spec)["id"]
    with pytest.raises(ApiProblem, match="has no result yet"):
        client.result(search)


class Flaky:
    """A server that hangs up on its first ``failures`` requests."""

    def __init__(self, failures: int, status: int, body: bytes) -> None:
        flaky = self
        self.requests: list[str] = []
        self.names: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                flaky.requests.append(self.command)
                flaky.names.append(self.headers.get("Idempotency-Key"))
                if len(flaky.requests) <= failures:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: object) -> None:
                """Stay quiet."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> Flaky:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_service.client.FIRST_PAUSE", 0.0)


@pytest.mark.usefixtures("no_pause")
def test_reads_are_tried_again() -> None:
    with Flaky(2, 200, json.dumps({"id": "x"}).encode()) as server, Client(server.url, attempts=3) as client:
        assert dict(client.get("x")) == {"id": "x"}
        assert server.requests == ["GET"] * 3


@pytest.mark.usefixtures("no_pause")
def test_reads_are_not_tried_for_ever() -> None:
    with Flaky(9, 200, b"{}") as server, Client(server.url, attempts=3) as client:
        with pytest.raises(ServiceUnreachable, match="lambda-search up"):
            client.get("x")
        assert server.requests == ["GET"] * 3


def test_a_submission_is_tried_again_under_the_same_name(spec: dict[str, Any]) -> None:
    with Flaky(1, 202, b"{}") as server, Client(server.url) as client:
        client.submit(spec)
        client.submit(spec)
    assert server.requests == ["POST", "POST", "POST"]
    first, again, other = server.names
    assert first == again != other


def test_keys_are_not_made_twice() -> None:
    with Flaky(1, 201, b'{"key": "x"}') as server, Client(server.url) as client:
        with pytest.raises(ServiceUnreachable):
            client.create_key("mine")
        assert server.requests == ["POST"]


def test_events_are_followed_to_the_last(
    client: Client, database: Database, spec: dict[str, Any], result_document: Callable[..., dict[str, Any]]
) -> None:
    search = client.submit(spec)["id"]

    def finish() -> None:
        with database.session() as session:
            row = searches.lock(session, UUID(search))
            searches.succeed(session, row, result_document(search_id=search))

    seen = []
    for event in client.events(search):
        seen.append(event)
        if event.kind == "phase":
            threading.Thread(target=finish).start()
    numbered = [event for event in seen if event.no is not None]
    assert [event.kind for event in numbered] == ["submitted", "started", "phase", "succeeded"]
    assert numbered[-1].data["answer"] == "00111@2"
    assert any(event.kind == "progress" for event in seen)
    # From where one stopped, and after the end.
    assert [event.no for event in client.events(search, numbered[1].no or 0)] == [numbered[2].no, numbered[3].no]
    assert list(client.events(search, numbered[-1].no or 0)) == []
    with pytest.raises(ApiProblem, match="nothing of this name"):
        list(client.events("8a2fe0f0-9bd6-4d4c-8a70-6f4f4f0f1c2d"))


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b'"text"', b"[]", b'{"errors": [3]}'])
def test_an_error_that_is_no_problem_document(body: bytes) -> None:
    with Flaky(0, 502, body) as server, Client(server.url) as client:
        with pytest.raises(ApiProblem, match="answers 502") as caught:
            client.get("x")
        assert caught.value.errors == []


def test_a_problem_reads_as_what_it_is() -> None:
    problem = ApiProblem(422, "The spec cannot be run", "seed: is odd", [FieldProblem("seed", "is odd")])
    assert str(problem) == "The spec cannot be run: seed: is odd"


@pytest.mark.parametrize("url", ["http://127.0.0.1:notaport", "nowhere", "ftp://127.0.0.1"])
def test_an_url_that_is_none(url: str) -> None:
    with pytest.raises(ServiceUnreachable), Client(url, attempts=1) as client:
        client.get("x")
