"""What people see: the dashboard as a real process, in the system's Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from search_service.domain.keys import NewKey, Scope
from search_service.domain.lambda_pattern import constant_row_patterns
from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily
from search_service.domain.trial import TrialState
from search_service.storage import keys, searches, trials
from search_service.storage.database import Database
from tests.made_up_result import made_up_result
from workers.search.study import mirror
from workers.search.study_storage import open_study_storage

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PATIENCE = 30_000  # milliseconds that the page gets to show something

pytestmark = [
    pytest.mark.system,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH"),
]

DROPPED, UNQUALIFIED, ANSWER = 18, 1, 1
SPEC = SearchSpec(
    name="seen in a browser",
    tasks=TaskFamily(family="glyphs"),
    model=NetworkSpec(network="conv4"),
    meta_training=MetaTraining(),
    max_degradation=0.01,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("LAMBDA_SEARCH_TEST_OUTPUT") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def study(database: Database) -> None:
    """The study of a search with candidates dropped, tested in vain, and proved."""
    certified: list[dict[str, Any]] = [
        {"state": TrialState.UNQUALIFIED, "latency_s": 0.004, "confirmation": {"upper_bound": 0.013}},
        {"state": TrialState.QUALIFIED, "latency_s": 0.006, "confirmation": {"upper_bound": 0.008}},
    ]
    figures = [{"state": TrialState.DROPPED, "degradation": 0.2 + 0.01 * at} for at in range(DROPPED)]
    figures += [{"degradation": 0.004, **each} for each in certified]
    with database.session() as session:
        row = searches.add(session, SPEC)
        searches.start(session, row)
        patterns = constant_row_patterns(len(SPEC.units), 5)
        trials.add_many(session, row.id, [trials.NewTrial(pattern.text, "group", 0.01) for pattern in patterns])
        for trial, changes in zip(trials.of_search(session, row.id), figures, strict=False):
            for name, value in {"blocks": 1, **changes}.items():
                setattr(trial, name, value)
        succeeded = made_up_result(search_id=str(row.id))
        searches.succeed(session, row, succeeded)
    storage = open_study_storage(database)
    assert mirror(database, storage) == len(figures)
    storage.engine.dispose()


@pytest.fixture
def dashboard_url(database_url: str, study: None) -> Iterator[str]:
    command = [sys.executable, "-m", "workers.dashboard", "--port", "0"]
    environment = {**os.environ, "LAMBDA_SEARCH_DATABASE_URL": database_url}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()
        assert process.wait(timeout=20) == 0


@pytest.fixture
def page(database: Database) -> Iterator[Page]:
    """A browser that knows a key."""
    with database.session() as session:
        _, secret = keys.create(session, NewKey(name="who looks", scope=Scope.READ))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS)
        page = browser.new_page(
            viewport={"width": 1400, "height": 1000}, http_credentials={"username": "anybody", "password": secret}
        )
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        browser.close()


def test_the_dashboard_shows_trials_with_their_constraint(dashboard_url: str, page: Page, folder: Path) -> None:
    body = page.locator("body")

    page.goto(dashboard_url)
    page.get_by_text(SPEC.name).first.click()
    expect(body).to_contain_text("latency (s)")
    # The plot of the study keeps trials that break a constraint apart.
    expect(page.locator(".legend").get_by_text("Infeasible", exact=True).first).to_be_visible()
    expect(body).to_contain_text(f"Best Trial (number={DROPPED + UNQUALIFIED})")
    for plot in ("Front: latency against quality", "Importance of units for degradation, 20 candidates"):
        expect(page.locator(".gtitle", has_text=plot)).to_be_visible()
    page.screenshot(path=folder / "dashboard-study.png", full_page=True)

    study = page.url.rstrip("/")
    page.goto(f"{study}/note")
    expect(body).to_contain_text("Fastest pattern under the threshold: 00111@2")
    page.screenshot(path=folder / "dashboard-note.png")

    page.goto(f"{study}/trials?numbers={DROPPED}")
    expect(body).to_contain_text(f"{DROPPED + UNQUALIFIED + ANSWER} Trials")
    expect(body).to_contain_text("constraint certificate 0.013 > 0.01: infeasible")
    page.screenshot(path=folder / "dashboard-infeasible.png")

    page.goto(f"{study}/trials?numbers={DROPPED + UNQUALIFIED}")
    expect(body).to_contain_text("constraint certificate 0.008 <= 0.01: feasible")
    page.screenshot(path=folder / "dashboard-feasible.png")

    page.goto(f"{study}/trials?numbers=0")
    expect(body).to_contain_text("constraint degradation 0.2 > 0.01: infeasible")
    expect(body).to_contain_text("Pruned")
    page.screenshot(path=folder / "dashboard-dropped.png")
