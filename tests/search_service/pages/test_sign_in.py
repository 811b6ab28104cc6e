"""Signing in and out: who gets a cookie, what it is like, and what foreign pages cannot do."""

from __future__ import annotations

from http.cookies import SimpleCookie

import pytest
from fastapi.testclient import TestClient

from search_service.domain.keys import Scope
from search_service.guard import COOKIE
from search_service.pages.security import local_path
from search_service.settings import Settings
from search_service.storage.database import Database
from search_service.storage.keys import SESSION_LIFETIME
from tests.search_service.api.conftest import make_key
from tests.search_service.pages.conftest import visiting
from tests.search_service.pages.moving_search import MovingSearch

PAGES = ("/", "/docs", "/searches/00000000-0000-0000-0000-000000000001")
FOREIGN = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


def cookie_of(response: object) -> str:
    header: str = response.headers["set-cookie"]  # type: ignore[attr-defined]
    return header


@pytest.mark.parametrize("path", [*PAGES, "/?status=failed&name=a%20b"])
def test_pages_lead_to_the_form_and_back(stranger: TestClient, key: str, path: str) -> None:
    asked = stranger.get(path)
    assert asked.status_code == 303
    form = stranger.get(asked.headers["location"])
    assert form.status_code == 200
    wanted = form.text.partition('name="next" value="')[2].partition('"')[0].replace("&amp;", "&")
    assert wanted == path
    entered = stranger.post("/sign-in", data={"key": key, "next": wanted})
    assert entered.status_code == 303
    assert entered.headers["location"] == path
    assert stranger.get("/").status_code == 200


def test_the_cookie(stranger: TestClient, key: str) -> None:
    cookie = SimpleCookie(cookie_of(stranger.post("/sign-in", data={"key": f" {key}\n"})))[COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"].lower() == "strict"
    assert cookie["path"] == "/"
    assert int(cookie["max-age"]) == SESSION_LIFETIME.total_seconds()
    assert not cookie["secure"]
    assert not cookie["domain"]
    assert key not in cookie.value


@pytest.mark.parametrize("headers", [{"Origin": "https://localhost"}, {}])
def test_the_cookie_of_an_encrypted_page_stays_on_encrypted_pages(
    stranger: TestClient, key: str, headers: dict[str, str]
) -> None:
    address = "/sign-in" if headers else "https://localhost/sign-in"
    response = stranger.post(address, data={"key": key}, headers=headers or {"Origin": "https://localhost"})
    assert "secure" in cookie_of(response).lower().split("; ")


@pytest.mark.parametrize("key_typed", ["", "lsk_guessed", "x" * 5000])
def test_another_key_opens_nothing(stranger: TestClient, key_typed: str) -> None:
    response = stranger.post("/sign-in", data={"key": key_typed, "next": "/docs"})
    assert response.status_code in (401, 422)
    assert "set-cookie" not in response.headers
    assert key_typed == "" or key_typed not in response.text
    assert stranger.get("/").status_code == 303


def test_signing_out_ends_the_session_and_not_only_the_cookie(browser: TestClient, settings: Settings) -> None:
    secret = browser.cookies[COOKIE]
    assert browser.post("/sign-out").headers["location"] == "/sign-in"
    assert COOKIE not in browser.cookies
    with visiting(settings) as other:
        other.cookies.set(COOKIE, secret)
        assert other.get("/").status_code == 303


def test_signing_in_anew_ends_the_session_before(browser: TestClient, settings: Settings, key: str) -> None:
    earlier = browser.cookies[COOKIE]
    browser.post("/sign-in", data={"key": key})
    assert browser.cookies[COOKIE] != earlier
    with visiting(settings) as other:
        other.cookies.set(COOKIE, earlier)
        assert other.get("/").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost:8001", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_foreign_pages_can_send_no_form(browser: TestClient, key: str, database: Database, headers: dict) -> None:
    search = MovingSearch(database)
    forms = {
        "/sign-in": {"key": key},
        "/sign-out": {},
        "/searches": {"spec": "{}"},
        f"{search.path}/cancel": {},
        f"{search.path}/priority": {"priority": "7"},
    }
    for path, form in forms.items():
        response = browser.post(path, data=form, headers=headers)
        assert response.status_code == 403, path
        assert "set-cookie" not in response.headers
    assert "queued" in browser.get(search.path).text


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        "",
        "docs",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "https://evil.example/",
        "http:evil.example",
        "javascript:alert(1)",
        " //evil.example",
    ],
)
def test_next_leads_nowhere_else(stranger: TestClient, key: str, wanted: str | None) -> None:
    assert local_path(wanted) == "/"
    form = {"key": key} if wanted is None else {"key": key, "next": wanted}
    assert stranger.post("/sign-in", data=form).headers["location"] == "/"


def test_next_keeps_paths_of_ours() -> None:
    for path in ("/", "/searches/x?sort=-quality#candidates", "/?next=https://evil.example"):
        assert local_path(path) == path


def test_whoever_comes_from_a_foreign_page_is_led_on_once(stranger: TestClient) -> None:
    """A browser holds a strict cookie back when a link elsewhere leads here; the next step is our own page's."""
    asked = stranger.get("/docs", headers=FOREIGN)
    form = stranger.get(asked.headers["location"], headers=FOREIGN)
    assert 'content="0; url=/docs"' in form.text
    assert "api key" not in form.text.lower()
    assert 'name="key"' in stranger.get(asked.headers["location"]).text


def test_a_key_in_the_header_opens_pages(stranger: TestClient, key: str) -> None:
    assert stranger.get("/", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    refused = stranger.get("/", headers={"Authorization": "Bearer lsk_guessed"})
    assert refused.status_code == 401
    assert refused.headers["content-type"].startswith("text/html")


def test_what_was_typed_is_not_led_away(stranger: TestClient) -> None:
    response = stranger.post("/searches", data={"spec": "{}"})
    assert response.status_code == 401
    assert "go back" in response.text


def test_foreign_names_get_no_page(stranger: TestClient) -> None:
    for path in (*PAGES, "/sign-in"):
        assert stranger.get(path, headers={"host": "evil.example"}).status_code == 421
    assert stranger.post("/sign-in", data={"key": "x"}, headers={"host": "evil.example"}).status_code == 421


def test_a_reader_sees_and_moves_nothing(stranger: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    stranger.post("/sign-in", data={"key": make_key(database, "a reader", Scope.READ)})
    assert 'action="/searches"' not in stranger.get("/").text
    page = stranger.get(search.path).text
    assert "/cancel" not in page
    assert stranger.post(f"{search.path}/cancel").status_code == 403
    assert stranger.post("/searches", data={"spec": "{}"}).status_code == 403
