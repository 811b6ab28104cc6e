"""The documentation site: it builds, its links lead somewhere, and what it tells people to type works."""

from __future__ import annotations

import html.parser
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import typer
import uvicorn
import yaml
from typer.main import get_command

from search_service.api import problems
from search_service.api.app import create_app
from search_service.domain.events import EventKind
from search_service.domain.keys import NewKey, Scope
from search_service.domain.search import SearchStatus
from search_service.domain.trial import TrialState
from search_service.settings import ENV_PREFIX, Settings
from search_service.storage import keys, searches, trials, workers
from search_service.storage.database import Database
from search_service.storage.trials import NewTrial
from tests.made_up_result import made_up_result

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name != "changelog.md")
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUILD_LIMIT = 100  # seconds
TIMED_OUT, REFUSED = 28, 22  # exit codes of curl
LEAST_CURL = (7, 84)
STREAM_SECONDS = 1  # that a test follows a stream, instead of what a page says
EXACT = {"type", "title", "status", "phase", "priority", "name", "scope", "state", "candidate", "field"}
"""Fields whose values in a shown answer are those of the real one; of others only the names are compared."""


def section(page: str, heading: str) -> str:
    """The text between a heading of a page and the next one as high."""
    text = (DOCS / page).read_text()
    level, _, rest = heading.partition(" ")
    found = re.search(rf"^{level} {re.escape(rest)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no '{heading}'"
    return found[1]


def table(text: str) -> list[list[str]]:
    """The cells of the first table of a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as it is built: a link that leads nowhere, or a page that nothing lists, is an error."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(DOCS), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_LIMIT)
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_on_the_site(site: Path) -> None:
    built = {page.relative_to(site).with_suffix("").as_posix() for page in site.rglob("*.html")}
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")} <= built


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    shutil.copy(DOCS / "conf.py", tmp_path)
    (tmp_path / "index.md").write_text("# A page\n\n[no heading](#nowhere)\n\n[no page](nowhere.md)\n")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", str(tmp_path)]
    done = subprocess.run([*command, str(tmp_path / "site")], capture_output=True, text=True, timeout=BUILD_LIMIT)
    assert done.returncode != 0
    assert done.stderr.count("xref_missing") == 2


class Fetched(html.parser.HTMLParser):
    """What a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.urls.append(named.get("src") or "")
        elif tag == "link":
            self.urls.append(named.get("href") or "")


def test_pages_fetch_nothing_from_elsewhere(site: Path) -> None:
    fetched = Fetched()
    for page in site.rglob("*.html"):
        fetched.feed(page.read_text())
    styles = "".join(style.read_text() for style in site.rglob("*.css"))
    urls = [
        *fetched.urls,
        *re.findall(r"url\(['\"]?([^)'\"]+)", styles),
        *re.findall(r"@import ['\"]([^'\"]+)", styles),
    ]
    assert [url for url in urls if re.match(r"(https?:)?//", url)] == []


def pictures() -> Any:
    found = util.spec_from_file_location("docs_pictures", DOCS / "pictures" / "concepts.py")
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(path.name for path in (DOCS / "images").glob("concepts-*.svg")))
def test_pictures_are_as_their_script_draws_them(name: str) -> None:
    assert (DOCS / "images" / name).read_text() == pictures().PICTURES[name](), "run python docs/pictures/concepts.py"


# ---- what people type


def typed(word: str) -> list[str]:
    """Command lines of the pages that begin with a word, in blocks and in running text."""
    lines: dict[str, None] = {}
    for page in PAGES:
        text = page.read_text()
        in_blocks = (line for _, block in FENCE.findall(text) for line in block.splitlines())
        in_text = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        lines |= {line.split(" #")[0].strip(): None for line in (*in_blocks, *in_text) if line.startswith(f"{word} ")}
    return list(lines)


@pytest.mark.parametrize("line", typed("make"))
def test_make_targets_exist(line: str) -> None:
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", typed("lambda-search"))
def test_subcommands_and_their_options_exist(line: str) -> None:
    from search_service.cli.app import app

    command: Any = get_command(app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not getattr(command, "commands", {}), f"'{line}' names no subcommand"
    known = {option for parameter in command.params for option in parameter.opts}
    if command.context_settings.get("ignore_unknown_options"):  # what it does not know it hands on
        known |= options_of(command.name)
    assert {word for word in words if word.startswith("--")} <= known


def options_of(command: str) -> set[str]:
    """Options of a command that becomes another module."""
    module = import_module({"worker": "workers.runtime.__main__", "dashboard": "workers.dashboard"}[command])
    app = typer.Typer()
    app.command()(module.main)
    return {option for parameter in get_command(app).params for option in parameter.opts}


FILES = sorted({word for line in typed("lambda-search") for word in line.split() if "/" in word})


@pytest.mark.parametrize("file", FILES)
def test_files_that_are_typed_exist(file: str) -> None:
    assert (ROOT / file).exists()


def test_lines_of_the_example_are_quoted_as_they_stand() -> None:
    quoted = [block for language, block in FENCE.findall((DOCS / "quickstart.md").read_text()) if language == "yaml"]
    lines = [line for block in quoted for line in block.splitlines() if line]
    example = (ROOT / "examples" / "glyphs_5way_1shot.yaml").read_text().splitlines()
    assert lines
    assert [line for line in lines if line not in example] == []
    assert all(yaml.safe_load(block) for block in quoted)


# ---- tables that must be whole


def problem_kinds() -> set[problems.ProblemKind]:
    """Every kind of problem that the API knows, wherever its module keeps it."""
    found = set()
    for _, value in inspect.getmembers(problems):
        candidates = value.values() if isinstance(value, dict) else [value]
        found |= {candidate for candidate in candidates if isinstance(candidate, problems.ProblemKind)}
    return found


def test_every_problem_is_described() -> None:
    rows = table((DOCS / "problems.md").read_text())
    told = {(re.sub(r"\[(.*)\]\(#\1\)", r"\1", name), int(status), title) for name, status, title in rows}
    assert told == {(kind.slug, kind.status, kind.title) for kind in problem_kinds()}
    assert len(rows) == len(told)


@pytest.mark.parametrize("slug", sorted({kind.slug for kind in problem_kinds()}))
def test_a_problem_has_words_of_its_own(slug: str) -> None:
    assert len(section("problems.md", f"### {slug}").split()) > 5


def test_every_setting_is_described_as_it_describes_itself() -> None:
    told = {row[0]: row[1:] for row in table(section("operating.md", "## Settings"))}
    assert list(told) == [f"`{ENV_PREFIX}{name.upper()}`" for name in Settings.model_fields]
    for name, setting in Settings.model_fields.items():
        unless_said, meaning = told[f"`{ENV_PREFIX}{name.upper()}`"]
        assert meaning == (setting.description or "").replace("``", "`").replace("\n", " ")
        if isinstance(setting.default, str | int):
            assert unless_said == f"`{setting.default}`"


def test_every_status_is_described() -> None:
    assert [row[0].strip("`") for row in table(section("rest.md", "## Look"))] == [
        status.value for status in SearchStatus
    ]


def test_every_event_is_described() -> None:
    told = [name for row in table(section("rest.md", "## Follow")) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(told) == sorted(EventKind)


def test_every_scope_is_described() -> None:
    assert [row[0].strip("`") for row in table(section("operating.md", "## Keys"))] == [scope.value for scope in Scope]


def test_every_state_of_a_trial_is_named() -> None:
    assert all(f"`{state.value}`" in section("rest.md", "## Candidates") for state in TrialState)


# ---- REST by example


@dataclass
class Example:
    """A block of commands, and the answer that the page shows below it."""

    commands: str
    answer: Any = None
    heading: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether the page shows a problem."""
        return isinstance(self.answer, dict) and str(self.answer.get("type")).startswith(problems.TYPE_PREFIX)


@dataclass
class Service:
    """A service that the examples can be run against."""

    url: str
    key: str
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run a block of commands in bash, with the variables that earlier blocks left."""
        kept = self.folder / "variables"
        names = " ".join(sorted({*self.variables, *re.findall(r"^([A-Z_]+)=", commands, re.MULTILINE)}))
        # Stands for whoever reads the page: sees errors, and does not wait for streams to end.
        patience = f"--max-time {STREAM_SECONDS}" if "--max-time" in commands else ""
        script = f"""
            set -euo pipefail
            curl() {{ command curl --silent --show-error --fail-with-body --noproxy '*' "$@" {patience}; }}
            trap 'for name in {names}; do printf "%s=%s\\n" "$name" "${{!name-}}"; done > {shlex.quote(str(kept))}' EXIT
        """
        environment = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LAMBDA_SEARCH_URL": self.url,
            "LAMBDA_SEARCH_KEY": self.key,
            **self.variables,
        }
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{commands}"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        self.variables |= dict(line.split("=", 1) for line in kept.read_text().splitlines())
        return done


def examples() -> list[Example]:
    found: list[Example] = []
    heading = ""
    parts = re.compile(rf"^#+ ([^\n]*)$|{FENCE.pattern}", re.MULTILINE | re.DOTALL)
    for title, language, block in parts.findall((DOCS / "rest.md").read_text()):
        heading = title or heading
        if language == "bash":
            found.append(Example(block, heading=heading))
        elif language == "json":
            assert found[-1].answer is None, f"two answers to one block under '{heading}'"
            found[-1].answer = json.loads(block)
    return found


def test_every_section_of_the_page_has_an_example() -> None:
    headings = re.findall(r"^## (.*)$", FENCE.sub("", (DOCS / "rest.md").read_text()), re.MULTILINE)
    assert headings
    assert {example.heading for example in examples()} >= set(headings)


@pytest.fixture
def docs_service(database_url: str, database: Database, tmp_path: Path) -> Iterator[Service]:
    """A running API with a key, one CPU worker announced, and one search that has succeeded."""
    with database.session() as session:
        workers.announce(session, uuid4(), host="here", pid=1, device="cpu", fingerprint={}, families={"glyphs": None})
        _, key = keys.create(session, NewKey(name="nightly", scope=Scope.SUBMIT))
    app = create_app(Settings(database_url=database_url, home=tmp_path, max_running_searches=2))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        succeed(database, submit(url, key))
        folder = tmp_path / "examples"
        folder.mkdir()
        yield Service(url, key, folder)
    finally:
        server.should_exit = True
        thread.join()


def submit(url: str, key: str) -> UUID:
    """Submit a small search."""
    spec = {"tasks": {"family": "glyphs"}, "model": {"network": "conv4"}, "meta_training": {}, "max_degradation": 0.01}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{url}/v1/searches", json=spec, headers=headers, trust_env=False)
    return UUID(answer.raise_for_status().json()["id"])


def succeed(database: Database, search_id: UUID) -> None:
    """Let a running search have been answered."""
    with database.session() as session:
        row = searches.lock(session, search_id)
        trials.add_many(session, search_id, [NewTrial("00111@2", "group", 0.0059)])
        for trial in trials.of_search(session, search_id):
            trial.state = TrialState.QUALIFIED
            trial.confirmation = {"episodes": 600}
            trial.degradation = 0.0034
        searches.succeed(session, row, made_up_result(search_id=str(search_id)))


def curl_version() -> tuple[int, ...]:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        return (0,)
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout
    return tuple(map(int, re.findall(r"\d+", said.split()[1])[:2]))


@pytest.mark.skipif(curl_version() < LEAST_CURL, reason="the examples need bash and curl 7.84")
def test_the_examples_run_one_after_the_other(docs_service: Service) -> None:
    for example in examples():
        done = docs_service.run(example.commands)
        seen = f"under '{example.heading}':\n{example.commands}\n{done.stdout}\n{done.stderr}"
        wanted = {REFUSED} if example.is_problem else {0, TIMED_OUT} if "--max-time" in example.commands else {0}
        assert done.returncode in wanted, seen
        if example.answer is not None:
            check_shown(example.answer, answer_of(example, done.stdout, docs_service.folder), example.heading)
        if "/events" in example.commands:
            check_events(done.stdout)


def answer_of(example: Example, printed: str, folder: Path) -> Any:
    """What the service answered: printed, or written to a file."""
    file = re.search(r"--output (\S+)", example.commands)
    return json.loads(printed if file is None else (folder / file[1]).read_text())


def check_shown(shown: Any, real: Any, where: str) -> None:
    """A shown answer may leave fields out, and has none that the real one lacks."""
    if isinstance(shown, dict):
        for name, value in shown.items():
            assert name in real, f"the answer has no '{name}' ({where})"
            check_shown(value, real[name], f"{where}, {name}")
            if name in EXACT and not isinstance(value, dict | list):
                assert value == real[name], where
    elif isinstance(shown, list) and shown:
        assert real, where
        check_shown(shown[0], real[0], where)


def check_events(stream: str) -> None:
    """A stream tells events that there are, each with its number."""
    kinds = re.findall(r"^event: (\w+)$", stream, re.MULTILINE)
    assert kinds
    assert set(kinds) <= {*EventKind, "progress"}
    numbers = list(map(int, re.findall(r"^id: (\d+)$", stream, re.MULTILINE)))
    assert len(numbers) == len([kind for kind in kinds if kind != "progress"])
    assert numbers == sorted(numbers)
