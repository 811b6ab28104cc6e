"""Pages as they come, before any script: what stands in them, what is escaped, what browsers are told."""

from __future__ import annotations

import gzip
import html
import re
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from search_service.domain.search import Phase
from search_service.pages import assets
from search_service.storage.database import Database
from tests.made_up_result import figures, made_up_result
from tests.search_service.pages.moving_search import MovingSearch

HOSTILE = "</title><script>alert(1)</script>\"' onload=x"


def text_of(page: str) -> str:
    """What is read of a page, scripts and tags left out."""
    visible = re.sub(r"<script.*?</script>|<style.*?</style>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", visible)).split())


@pytest.fixture
def done(database: Database) -> MovingSearch:
    search = MovingSearch(database)
    search.run_to_the_end()
    return search


def test_the_answer_stands_in_the_page(browser: TestClient, done: MovingSearch) -> None:
    text = text_of(browser.get(done.path).text)
    assert "Adapting to a new task takes 5.80 ms instead of 48.0 ms: 8.28 times as fast." in text
    # 0.0068 of accuracy is 0.68 of 100; a bound is never rounded down.
    assert "loses at most 0.68 of 100 answers on average (proved at 95 % confidence on 600 tasks made of 423" in text
    assert "1 of 100 answers was the limit" in text
    assert "Plain PyTorch takes about 77.8 ms" in text
    assert "13.4 times as fast (speedup_over_plain)" in text
    for part in (
        "00111@2",
        "conv1",
        "step 2",
        "updated",
        "frozen",
        "c0ffee",
        "lambda-search result",
        "From 0.008 to 0.01",
    ):
        assert part in text, part


def test_the_ways_beside_it(browser: TestClient, done: MovingSearch) -> None:
    text = text_of(browser.get(done.path).text)
    for way in ("Full, 5 steps (the baseline)", "in plain PyTorch", "Full, 1 step", "No adaptation (empty)"):
        assert way in text, way
    # Head only was screened and dropped: its latency is a prediction, and the page says so.
    head = text.partition("Head only, 5 steps")[2].partition("Body only")[0]
    assert "pred." in head
    assert "validation, 64 tasks, then dropped" in head
    assert "fewer steps 2.44× · fewer units 3.40× · this engine 1.62×" in text


def test_what_was_not_judged_is_said(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    search.start()
    search.succeed(front=[], proved=[])
    text = text_of(browser.get(search.path).text)
    assert text.count("not judged by this search") == 2


def test_the_baseline_as_answer(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    search.start()
    search.succeed(fastest=made_up_result()["baseline"], proved=[])
    text = text_of(browser.get(search.path).text)
    assert "Nothing faster was proved to stay within the limit: adapt all units, as before." in text
    assert "times as fast. It loses" not in text


def test_no_guarantee_is_not_called_a_proof(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    search.start()
    search.succeed(method="asymptotic")
    text = text_of(browser.get(search.path).text)
    assert "(estimated, without guarantee, at 95 % confidence" in text
    assert "(proved at" not in text


def test_regression_speaks_of_errors(browser: TestClient, database: Database) -> None:
    def as_error(figure: dict[str, object]) -> dict[str, object]:
        return figure | {"quality": {"metric": "negative_mse", "estimate": -0.5, "low": -0.6, "high": -0.4}}

    spec = {
        "tasks": {"family": "sinusoid"},
        "model": {"network": "mlp"},
        "degradation": "relative",
        "max_degradation": 0.1,
        "degradation_bound": 5,
    }
    search = MovingSearch(database, **spec)
    search.start()
    result = made_up_result()
    for name in ("fastest", "baseline", "empty"):
        result[name] = as_error(result[name])
    search.succeed(**{name: result[name] for name in ("fastest", "baseline", "empty")}, max_degradation=0.05)
    text = text_of(browser.get(search.path).text)
    assert "at most 0.0068 of mean squared error, 1.4 % of the baseline's on average" in text
    assert "a loss of more than 5 on one task counts as that" in text
    assert "of 100 answers" not in text


def test_another_threshold(browser: TestClient, done: MovingSearch) -> None:
    text = text_of(browser.get(f"{done.path}?max_degradation=0.009").text)
    assert "For 0.009: 00111@2 loses at most 0.8 of 100 answers." in text
    assert "needs evaluation" in text_of(browser.get(f"{done.path}?max_degradation=0.001").text)
    assert browser.get(f"{done.path}?max_degradation=-1").status_code == 422


def test_a_running_search(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    text = text_of(browser.get(search.path).text)
    assert "waits for its turn" in text
    search.start()
    search.enter(Phase.SEARCH)
    search.list_candidates()
    search.judge(40)
    page = browser.get(search.path).text
    text = text_of(page)
    assert "screening (40 of 155 candidates)" in text
    assert "survived so far, nothing is proved yet" in text
    assert '<noscript><meta http-equiv="refresh"' in page
    assert "<progress" in page
    for form in ("pause", "stop", "cancel", "priority"):
        assert f'action="{search.path}/{form}"' in page


def test_moving_a_search_by_forms(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    for form, shown in (("pause", "paused"), ("resume", "running"), ("cancel", "The search was cancelled")):
        response = browser.post(f"{search.path}/{form}")
        assert response.status_code == 303, form
        assert shown in text_of(browser.get(response.headers["location"]).text)
    refused = browser.post(f"{search.path}/pause")
    assert refused.status_code == 409
    assert "is cancelled and cannot become paused" in text_of(refused.text)


def test_priority(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    assert browser.post(f"{search.path}/priority", data={"priority": "7"}).status_code == 303
    assert 'value="7"' in browser.get(search.path).text
    assert browser.post(f"{search.path}/priority", data={"priority": "many"}).status_code == 422


def test_a_failed_search_says_what_and_where_and_what_to_do(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    search.start()
    search.fail()
    page = browser.get(search.path).text
    for part in ("The evaluator failed", "out of memory: lower episodes.block", "Train the model", "What to do"):
        assert part in text_of(page), part
    assert f"/?again={search.id}#new" in page
    assert "&#34;family&#34;: &#34;glyphs&#34;" in browser.get(f"/?again={search.id}").text


def test_candidates_are_sorted_and_chosen_by_links(browser: TestClient, done: MovingSearch) -> None:
    def candidates(query: str) -> list[str]:
        table = browser.get(f"{done.path}{query}").text.partition('id="trials"')[2]
        return re.findall(r'id="trial-\d+"><code>([^<]+)', table)

    assert candidates("")[:2] == ["00111@2", "00111"]
    fastest = candidates("?sort=latency")
    assert fastest[0] == "00001"
    assert len(fastest) == 50
    assert candidates("?sort=latency&page=2")[0] not in fastest
    assert len(candidates("?sort=latency&page=4")) == 5
    assert candidates("?sort=-speedup")[:2] == ["00111", "00111@2"]
    assert candidates("?state=qualified") == ["00111@2"]
    assert browser.get(f"{done.path}?sort=name").status_code == 422
    page = browser.get(f"{done.path}?sort=latency").text
    assert 'aria-sort="ascending"' in page
    assert 'href="?sort=-latency#candidates"' in page


def test_a_trial_with_all_its_figures(browser: TestClient, done: MovingSearch) -> None:
    number = done.trial("00111@2").number
    text = text_of(browser.get(f"{done.path}/trials/{number}").text)
    for part in ("00111@2", "qualified", "step 2", "4.52×", "+0.0068", "tested as number 2", "64 validation tasks"):
        assert part in text, part
    for missing in ("999", "-1", "x", "9" * 30, "٣"):
        assert browser.get(f"{done.path}/trials/{missing}").status_code == 404, missing


def test_the_list(browser: TestClient, database: Database, done: MovingSearch) -> None:
    for number in range(25):
        MovingSearch(database, name=f"number {number}", priority=number)
    page = browser.get("/").text
    assert text_of(page).count("queued") >= 20
    following = re.search(r'href="([^"]+)" rel="next"', page)
    assert following is not None
    older = text_of(browser.get(html.unescape(following[1])).text)
    assert "8.28×" in older
    assert "number 24" not in older
    assert "number 24" in text_of(browser.get("/?sort=-priority").text).partition("number 23")[0]
    only = text_of(browser.get("/?status=succeeded&name=GLYPHS").text)
    assert "00111@2" in only
    assert "number 24" not in only
    assert browser.get("/?status=lost").status_code == 422
    assert browser.get("/?cursor=made-up").status_code == 422


def test_submitting_by_form(browser: TestClient) -> None:
    page = browser.get("/?example=sinusoid").text
    spec = html.unescape(page.partition("<textarea")[2].partition(">\n")[2].partition("</textarea>")[0])
    token = page.partition('name="token" value="')[2].partition('"')[0]
    form = {"spec": spec, "max_degradation": "0.2", "token": token}
    first, again = (browser.post("/searches", data=form) for _ in range(2))
    assert first.status_code == again.status_code == 303
    assert first.headers["location"] == again.headers["location"]
    assert "may lose 0.2" in text_of(browser.get(first.headers["location"]).text)
    # Gone back to and changed, it is another search.
    other = browser.post("/searches", data={**form, "max_degradation": "0.3"})
    assert other.headers["location"] != first.headers["location"]


@pytest.mark.parametrize(
    ("spec", "threshold", "field", "reason"),
    [
        ("{not json", "0.01", "spec", "is not JSON"),
        ("[" * 50_000, "0.01", "spec", "is nested too deeply"),
        ("[]", "0.01", "spec", "must be an object"),
        ('{"tasks": {"family": "glyphs", "shots": 1000}}', "0.01", "tasks.shots", "value must be 1 to 100"),
        ('{"tasks": {"family": "omniglot"}, "model": {"network": "conv4"}, "meta_training": {}}', "0.01",
         "tasks.family", "no omniglot.npz"),
        ('{"colour": "red"}', "0.01", "colour", "unknown field"),
        ("{}", "a little", "max_degradation", "must be a number with a point"),
        ('{"tasks": {"family": "glyphs"}, "model": {"network": "conv4"}, "meta_training": {}}', "-1",
         "max_degradation", "must be a number above 0"),
        ('{"tasks": {"family": "glyphs"}, "model": {"network": "conv4"}, "meta_training": {}}', "nan",
         "max_degradation", "must be a number above 0"),
    ],
)  # fmt: skip
def test_a_refused_form_keeps_what_was_typed(
    browser: TestClient, spec: str, threshold: str, field: str, reason: str
) -> None:
    response = browser.post("/searches", data={"spec": spec, "max_degradation": threshold, "token": "aa"})
    assert response.status_code == 422
    assert html.escape(spec, quote=False).replace('"', "&#34;") in response.text
    assert f'value="{threshold}"' in response.text
    assert f"<code>{field}</code>: " in response.text
    assert reason in html.unescape(response.text)
    assert 'aria-invalid="true"' in response.text


def test_hostile_names_are_text(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database, name=HOSTILE)
    search.start()
    search.enter(Phase.SEARCH, 1, 2, message=HOSTILE)
    search.list_candidates()
    search.judge(30)
    pages = ["/", search.path, f"{search.path}/trials/0", f"/?name={HOSTILE}", f"/?again={search.id}"]
    for path in pages:
        page = browser.get(path).text
        assert "<script>alert" not in page, path
        assert "&lt;script&gt;alert(1)" in page, path
    search.fail(HOSTILE, HOSTILE)
    assert "<script>alert" not in browser.get(search.path).text


def test_hostile_results_do_not_break_out_of_the_data_block(browser: TestClient, database: Database) -> None:
    search = MovingSearch(database)
    search.start()
    units = ["</script><script>alert(1)</script>", "b", "c", "d", "e"]
    fastest = figures("00111", 2, 0.0058, 0.8745, bound=0.0068) | {"units": units}
    search.succeed(fastest=fastest, warnings=["<img src=x onerror=alert(1)>"])
    page = browser.get(search.path).text
    assert "<script>alert" not in page
    assert "<img" not in page


def test_every_answer_is_guarded(browser: TestClient, done: MovingSearch) -> None:
    style = assets.address("style.css")
    for path in ("/", done.path, "/sign-in", "/docs", f"/searches/{uuid4()}", "/searches/x", "/?status=lost", style):
        response = browser.get(path)
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "same-origin"
        if path != style:
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            assert response.headers["cache-control"] == "no-store"


def test_no_page_names_another_host_or_holds_inline_code(browser: TestClient, done: MovingSearch) -> None:
    for path in ("/", done.path, f"{done.path}/trials/0", "/sign-in", "/docs"):
        page = browser.get(path).text
        assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page), path
        assert not re.findall(r"<[^>]* (?:style|on[a-z]+)=", page), path
        assert not re.findall(r"<script(?![^>]*(?: src=|application/json))[^>]*>", page), path


def test_every_input_has_a_label_and_every_table_a_caption(browser: TestClient, done: MovingSearch) -> None:
    for path in ("/", done.path, f"{done.path}/trials/0", "/sign-in"):
        page = browser.get(path).text
        labelled = set(re.findall(r'<label for="([^"]+)"', page))
        inputs = re.findall(r"<(?:input|select|textarea) (?![^>]*(?:type=\"hidden\"|hidden>))[^>]*>", page)
        assert {re.search(r'id="([^"]+)"', tag)[1] for tag in inputs} <= labelled, path  # type: ignore[index]
        assert page.count("<table") == page.count("<caption"), path
        assert not re.findall(r"<th(?=[ >])(?![^>]*scope=)[^>]*>", page), path
        assert page.count("<h1") == 1
        assert '<html lang="en">' in page
        identities = re.findall(r' id="([^"]+)"', page)
        assert len(identities) == len(set(identities)), path


def test_assets_are_kept_for_ever_under_the_name_of_their_content(stranger: TestClient) -> None:
    for name in ("style.css", "search.js", "icon.svg", "plotly.min.js", "swagger-ui-bundle.js"):
        response = stranger.get(assets.address(name), headers={"Accept-Encoding": "gzip"})
        assert response.status_code == 200, name
        assert "immutable" in response.headers["cache-control"]
        assert response.headers["content-encoding"] == "gzip"
        plain = stranger.get(assets.address(name), headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert plain.content == response.content == gzip.decompress(assets.load(name).compressed)
    assert "immutable" not in stranger.get("/static/0000000000000000/style.css").headers["cache-control"]
    for name in ("nothing.css", "..%2f__init__.py", "%2e%2e"):
        assert stranger.get(f"/static/{assets.digest()}/{name}").status_code == 404, name


def test_the_api_is_described_from_this_machine(browser: TestClient) -> None:
    page = browser.get("/docs").text
    assert "swagger-ui-bundle.js" in page
    assert "POST /v1/searches" in page
    assert "/sign-in" not in str(browser.get("/openapi.json").json()["paths"])


def test_the_process_that_serves_pages_imports_no_drawing_library() -> None:
    heavy = ("plotly", "swagger_ui", "torch", "optuna", "numpy", "workers")
    code = (
        "import sys; from search_service.api import app; from search_service.pages import assets; "
        "assets.load('plotly.min.js'); assets.load('swagger-ui.css'); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_colours_can_be_read() -> None:
    """Contrast of at least 4.5 to 1 (WCAG 2.2, 1.4.3) for text, 3 to 1 for what is drawn, light and dark."""
    style = assets.load("style.css").plain.decode()
    schemes = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colour = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", scheme))
        for ground in ("paper", "ground", "calm"):
            for ink in ("ink", "faint", "accent", "loss", "plain"):
                if (ink, ground) not in {("loss", "calm"), ("plain", "calm")}:
                    assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)
        assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
        assert contrast(colour["ink"], colour["loss-ground"]) >= 4.5
        assert contrast(colour["accent"], colour["off"]) >= 3
        assert contrast(colour["front"], colour["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_fault_of_ours_is_a_page_that_names_the_incident(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault <of ours>")

    monkeypatch.setattr("search_service.pages.listing.searches.page", fail)
    answer = browser.get("/")
    assert answer.status_code == 500
    assert answer.headers["content-type"].startswith("text/html")
    assert "a fault" not in answer.text
    incident = re.search(r"incident ([0-9a-f]{32})", answer.text)
    assert incident is not None
    assert incident[1] in caplog.text
    assert "default-src" in answer.headers["content-security-policy"]
