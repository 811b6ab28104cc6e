"""What people see of a search: the report, served for real, in the system's Chromium; the stores play the worker."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from search_service.api.app import create_app
from search_service.domain.keys import NewKey, Scope
from search_service.domain.search import Phase
from search_service.domain.trial import TrialState
from search_service.settings import Settings
from search_service.storage import keys, workers
from search_service.storage.database import Database
from tests.search_service.pages.moving_search import MovingSearch

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PATIENCE = 30_000  # milliseconds that the page gets to show something
PHONE = {"width": 360, "height": 740}

pytestmark = [
    pytest.mark.system,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("LAMBDA_SEARCH_TEST_OUTPUT") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def key(database: Database) -> str:
    with database.session() as session:
        families = {"glyphs": None, "sinusoid": None, "omniglot": None}
        workers.announce(session, uuid4(), host="here", pid=1, device="cpu", fingerprint={}, families=families)
        return keys.create(session, NewKey(name="the desk", scope=Scope.ADMIN))[1]


@pytest.fixture
def url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The service, on a port of its own."""
    app = create_app(Settings(database_url=database_url, home=tmp_path))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        stop_at = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < stop_at, "the service did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS)
        expect.set_options(timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def faults() -> list[str]:
    """What browsers complained about, and what they asked of other hosts."""
    return []


@pytest.fixture
def context(chromium: Browser, url: str, faults: list[str]) -> BrowserContext:
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    watch(context, url, faults)
    return context


def watch(context: BrowserContext, url: str, faults: list[str]) -> None:
    context.set_default_timeout(PATIENCE)
    context.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("request", lambda asked: None if asked.url.startswith((url, "data:")) else faults.append(asked.url))


def sign_in(page: Page, url: str, key: str, path: str = "/") -> None:
    page.goto(url + path)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(url + path)


def points(page: Page) -> int:
    return page.locator("#plot .scatterlayer .point").count()


def expect_no_sideways_scroll(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("window.innerWidth"), page.url


def test_from_a_key_to_an_answer(
    context: BrowserContext, url: str, key: str, database: Database, folder: Path, faults: list[str]
) -> None:
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.screenshot(path=folder / "report-sign-in.png")
    sign_in(page, url, key)

    # Submit by form: refused with the reason beside it, mended, taken.
    page.get_by_role("link", name="glyphs").click()
    page.get_by_label("How much quality may be lost").fill("-1")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("was not submitted")
    expect(page.locator("#threshold-problems")).to_contain_text("must be a number above 0, not -1.0")
    page.screenshot(path=folder / "report-refused.png", full_page=True)
    faults.clear()  # Chromium notes the answer 422 as an error
    page.get_by_label("How much quality may be lost").fill("0.01")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(r"/searches/[0-9a-f-]{36}$"))
    search = MovingSearch(database, UUID(page.url.rpartition("/")[2]))

    # Watch it move; the page is never loaded anew.
    page.evaluate("window.isTheSame = true")
    expect(page.locator("#head")).to_contain_text("Train the model")
    search.enter(Phase.META_TRAINING, 300, 2000, "training")
    expect(page.locator("#head")).to_contain_text("training (300 of 2 000 blocks)")
    search.enter(Phase.SEARCH)
    expect(page.locator("#head")).to_contain_text("Screen candidates")
    expect(page.locator("#announcer")).to_contain_text("Running: Screen candidates")
    search.list_candidates()
    search.judge(20)
    expect(page.locator("#plot .scatterlayer .point")).to_have_count(20)
    search.judge(70)
    expect(page.locator("#plot .scatterlayer .point")).to_have_count(70)
    expect(page.locator("#outcome")).to_contain_text("nothing is proved yet")
    expect(page.locator("#trials")).to_contain_text("pending 85")
    page.screenshot(path=folder / "report-running.png", full_page=True)

    # What has the focus keeps it while the page moves on.
    page.locator("#trials tbody a").first.focus()
    focused = page.evaluate("document.activeElement.id")
    search.judge(90)
    expect(page.locator("#trials")).to_contain_text("pending 65")
    assert page.evaluate("document.activeElement.id") == focused

    search.enter(Phase.CERTIFICATE)
    search.prove("00111", TrialState.UNQUALIFIED, 0.013)
    search.prove("00111@2")
    search.succeed()
    expect(page.get_by_role("heading", name="Adapting to a new task takes 5.80 ms instead of 48.0 ms")).to_be_visible()
    expect(page.locator("#plot .scatterlayer .point").first).to_be_visible()
    expect(page.locator("#announcer")).to_contain_text("The search has an answer")
    assert page.evaluate("window.isTheSame")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    page.screenshot(path=folder / "report-answer.png", full_page=True)
    assert faults == []


@pytest.fixture
def done(database: Database) -> MovingSearch:
    search = MovingSearch(database)
    search.run_to_the_end(warnings=["A warning that somebody should read."])
    return search


def test_sorting_and_opening_a_candidate_by_keyboard(
    context: BrowserContext, url: str, key: str, done: MovingSearch, folder: Path, faults: list[str]
) -> None:
    page = context.new_page()
    sign_in(page, url, key, done.path)

    page.goto(url + done.path)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()

    latency = page.locator("#trials").get_by_role("link", name="Latency")
    first = page.locator("#trials tbody tr").first
    expect(first).to_contain_text("00111@2")
    latency.press("Enter")
    expect(page.locator("#trials th[aria-sort=ascending]")).to_contain_text("Latency")
    expect(first).to_contain_text("00001")
    latency.press("Enter")
    expect(page.locator("#trials th[aria-sort=descending]")).to_contain_text("Latency")
    expect(first).to_contain_text("@5")
    page.locator("#trials").get_by_role("link", name="qualified 1", exact=True).click()
    expect(page.locator("#trials tbody tr")).to_have_count(1)

    page.get_by_role("link", name="00111@2").last.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("00111@2")
    expect(page.get_by_role("table", name="What is updated at which step")).to_be_visible()
    expect(page.get_by_role("cell", name="updated")).to_have_count(6)
    expect(page.get_by_role("cell", name="frozen")).to_have_count(4)
    page.screenshot(path=folder / "report-candidate.png", full_page=True)
    assert faults == []


def test_dark_mode_and_a_phone(
    context: BrowserContext, url: str, key: str, database: Database, done: MovingSearch, folder: Path, faults: list[str]
) -> None:
    failed = MovingSearch(database, name="a-name-without-any-place-to-break-it-" * 4)
    failed.start()
    failed.fail(detail="x" * 300)
    page = context.new_page()
    sign_in(page, url, key, done.path)
    expect(page.locator("#plot .scatterlayer .point").first).to_be_visible()

    def colours() -> list[str]:
        found: list[str] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('#plot .xtitle')).fill]"
        )
        return found

    light = colours()
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        "([, fill]) => getComputedStyle(document.querySelector('#plot .xtitle')).fill !== fill", arg=light
    )
    assert colours()[0] != light[0]
    page.screenshot(path=folder / "report-dark.png", full_page=True)
    page.emulate_media(color_scheme="light")

    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    trial = f"{done.path}/trials/{done.trial('00111@2').number}"
    for name, path in {"list": "/", "answer": done.path, "candidate": trial, "failed": failed.path}.items():
        page.goto(url + path)
        if path == done.path:
            expect(page.locator("#plot .scatterlayer .point").first).to_be_visible()
        expect_no_sideways_scroll(page)
        page.screenshot(path=folder / f"report-phone-{name}.png", full_page=True)
    assert faults == []


def test_the_list_moves_and_the_api_is_described(
    context: BrowserContext, url: str, key: str, database: Database, folder: Path, faults: list[str]
) -> None:
    search = MovingSearch(database)
    page = context.new_page()
    sign_in(page, url, key)
    expect(page.locator("#searches")).to_contain_text("waiting")
    page.evaluate("window.isTheSame = true")
    search.run_to_the_end()
    expect(page.locator("#searches")).to_contain_text("8.28×")
    assert page.evaluate("window.isTheSame")
    page.screenshot(path=folder / "report-list.png", full_page=True)

    page.get_by_role("link", name="API", exact=True).click()
    expect(page.locator("#swagger")).to_contain_text("/v1/searches/{search_id}/result")
    expect(page.locator("#plain")).to_be_hidden()
    # A request that is tried goes out with the session.
    page.locator("#operations-keys-own_key_v1_keys_self_get .opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table")).to_contain_text('"name": "the desk"')
    page.screenshot(path=folder / "report-api.png")
    page.emulate_media(color_scheme="dark")
    page.screenshot(path=folder / "report-api-dark.png")
    assert faults == []


def test_without_scripts(
    chromium: Browser, url: str, key: str, database: Database, done: MovingSearch, folder: Path, faults: list[str]
) -> None:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    watch(context, url, faults)
    page = context.new_page()
    sign_in(page, url, key, done.path)
    expect(page.get_by_role("heading", name="Adapting to a new task")).to_be_visible()
    page.get_by_text("The same in numbers").click()
    expect(page.get_by_role("table").first).to_be_visible()
    page.get_by_label("max_degradation").fill("0.009")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("For 0.009: 00111@2 loses at most")).to_be_visible()
    page.screenshot(path=folder / "report-without-scripts.png", full_page=True)

    other = MovingSearch(database, name="another")
    page.goto(url + other.path)
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1")).to_contain_text("paused")
    page.get_by_text("Cancel…").click()
    page.get_by_role("button", name="Cancel the search").click()
    expect(page.get_by_role("heading", name="The search was cancelled")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto(url + done.path)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert faults == []


def test_a_link_from_elsewhere_needs_no_second_signing_in(
    context: BrowserContext, url: str, key: str, done: MovingSearch
) -> None:
    page = context.new_page()
    sign_in(page, url, key)
    # Another name of this machine is another site to the browser.
    foreign = url.replace("127.0.0.1", "localhost")
    page.goto(f"{foreign}/sign-in")
    page.evaluate("(address) => { location.href = address; }", url + done.path)
    expect(page.get_by_role("heading", name="Adapting to a new task")).to_be_visible()
