"""Commands that talk to a running service about its searches: submit, watch, move, list, read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from search_service.cli.exits import BadSpec
from search_service.cli.spec_file import read_spec
from search_service.client import ApiProblem, Client, SearchView
from search_service.domain.errors import FieldProblem, SearchCancelled, SearchFailed
from search_service.domain.search import SearchStatus
from search_service.domain.trial import TrialState

Url = Annotated[str | None, typer.Option("--url", help="Where the service is; also LAMBDA_SEARCH_URL.")]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Which service of the profile file; also LAMBDA_SEARCH_PROFILE.")
]
SearchId = Annotated[str, typer.Argument(metavar="ID", help="The search's id.")]
SpecFile = Annotated[Path, typer.Argument(metavar="FILE", help="A search spec in YAML or JSON; - for standard input.")]
Json = Annotated[bool, typer.Option("--json", help="Print the document as JSON, for programs.")]


def submit(
    file: SpecFile,
    watch: Annotated[bool, typer.Option("--watch", help="Wait for the result and show it.")] = False,
    as_json: Json = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Submit a search and print its id."""
    spec = read_spec(file)
    with Client.of_profile(profile, url=url) as client:
        view = submit_spec(client, spec, str(file))
        if watch:
            print(f"submitted {view['id']}", file=sys.stderr)
            _watch(client, view["id"], as_json)
        elif as_json:
            print_json(dict(view))
        else:
            print(view["id"])


def watch(search_id: SearchId, as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Show how a search goes until it is over, then its result."""
    with Client.of_profile(profile, url=url) as client:
        _watch(client, search_id, as_json)


def result(
    search_id: SearchId,
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the JSON here.")] = None,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Show the result of a search."""
    with Client.of_profile(profile, url=url) as client:
        document = client.result(search_id)
    if output is not None:
        write_document(document, output)
    print_result(document, as_json)


def answer(
    search_id: SearchId,
    max_degradation: Annotated[float, typer.Option(help="Another threshold, in the metric's unit.")],
    as_json: Json = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Ask a finished search about another threshold, with no new evaluation."""
    from search_service.cli.show import show_answer, stdout_console

    with Client.of_profile(profile, url=url) as client:
        document = client.answer(search_id, max_degradation)
    if as_json:
        print_json(document)
    else:
        show_answer(document, stdout_console())


def list_searches(
    as_json: Json = False,
    status: Annotated[SearchStatus | None, typer.Option(help="Only searches in this status.")] = None,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """List searches, newest first."""
    from search_service.cli.show import show_searches, stdout_console

    with Client.of_profile(profile, url=url) as client:
        views = list(client.list(status))
    if as_json:
        print_json(views)
    elif views:
        show_searches(views, stdout_console())
    else:
        print("no searches")


def show(search_id: SearchId, as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Show a search as it stands: how far it is, and the front that it knows."""
    from search_service.cli.show import show_search, stdout_console

    with Client.of_profile(profile, url=url) as client:
        view = client.get(search_id)
        front = None if as_json else client.front(search_id)
    if front is None:
        print_json(view)
    else:
        show_search(view, front, stdout_console())


def trials(
    search_id: SearchId,
    state: Annotated[TrialState | None, typer.Option(help="Only candidates in this state.")] = None,
    as_json: Json = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """List the candidates of a search and what is known of each, by number."""
    from search_service.cli.show import show_trials, stdout_console

    with Client.of_profile(profile, url=url) as client:
        views = list(client.trials(search_id, None if state is None else state.value))
    if as_json:
        print_json(views)
    elif views:
        show_trials(views, stdout_console())
    else:
        print("no candidates")


def cancel(search_id: SearchId, as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Cancel a search that is queued or running."""
    with Client.of_profile(profile, url=url) as client:
        _say_moved(client.cancel(search_id), as_json)


def pause(search_id: SearchId, as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Begin no more work for a search; what runs is finished."""
    with Client.of_profile(profile, url=url) as client:
        _say_moved(client.pause(search_id), as_json)


def resume(search_id: SearchId, as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Let a paused search go on when its turn comes."""
    with Client.of_profile(profile, url=url) as client:
        _say_moved(client.resume(search_id), as_json)


def stop(search_id: SearchId, as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Let a search answer from what it knows: nothing more is screened, what has survived is proved."""
    with Client.of_profile(profile, url=url) as client:
        view = client.stop(search_id)
    _say_moved(view, as_json, "stopping" if view["stopping"] else "")


def priority(
    search_id: SearchId,
    value: Annotated[int, typer.Argument(metavar="PRIORITY", help="Higher goes first.", min=-1000, max=1000)],
    as_json: Json = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Change a search's priority while it is queued, paused or running."""
    with Client.of_profile(profile, url=url) as client:
        view = client.set_priority(search_id, value)
    _say_moved(view, as_json, f"priority {view['priority']}")


def events(
    search_id: SearchId,
    after: Annotated[int, typer.Option(help="Number of the last event that was read.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
    url: Url = None,
    profile: Profile = None,
) -> None:
    """Follow what happens to a search, from its first event to its last."""
    with Client.of_profile(profile, url=url) as client:
        for event in client.events(search_id, after):
            if as_json:
                print(json.dumps({"no": event.no, "kind": event.kind, **event.data}), flush=True)
            elif event.no is not None:
                told = ", ".join(f"{name} {value}" for name, value in event.data.items() if name != "at")
                print(f"{event.data['at'][:19]}  {event.no:>6}  {event.kind:<10} {told}".rstrip(), flush=True)


def submit_spec(client: Client, spec: dict[str, Any], source: str) -> SearchView:
    """Submit, and let a refusal read like any other fault of the spec.

    Raises:
        BadSpec: the service refuses the spec.
    """
    try:
        return client.submit(spec)
    except ApiProblem as problem:
        if problem.is_refused_document:
            raise BadSpec(source, problem.errors or [FieldProblem("spec", str(problem))]) from problem
        raise


def check_succeeded(view: SearchView) -> None:
    """Let a search that ended without a result be an error.

    Raises:
        SearchFailed: it failed; says why.
        SearchCancelled: somebody cancelled it.
    """
    match SearchStatus(view["status"]):
        case SearchStatus.CANCELLED:
            raise SearchCancelled(view["id"])
        case SearchStatus.FAILED:
            problem = view["problem"] or {}
            title, detail = str(problem.get("title", "")), str(problem.get("detail", ""))
            raise SearchFailed(view["id"], title, detail, problem.get("phase"))


def print_result(document: dict[str, Any], as_json: bool) -> None:
    """Print a result on stdout, for programs or for people."""
    from search_service.cli.show import show_result, stdout_console

    if as_json:
        print_json(document)
    else:
        show_result(document, stdout_console())


def write_document(document: dict[str, Any], file: Path) -> None:
    """Write a result as JSON."""
    file.write_text(_json(document) + "\n", encoding="utf-8")


def print_json(document: object) -> None:
    """Print JSON on stdout."""
    print(_json(document))


def _say_moved(view: SearchView, as_json: bool, moved: str = "") -> None:
    if as_json:
        print_json(view)
    else:
        print(f"{view['id']} {moved or view['status']}")


def _watch(client: Client, search_id: str, as_json: bool) -> None:
    from search_service.cli.progress import progress_on_stderr

    with progress_on_stderr(client) as progress:
        try:
            view = client.wait(search_id, progress)
        except KeyboardInterrupt:
            progress.say(f"the search goes on; look again with: lambda-search watch {search_id}")
            raise
    check_succeeded(view)
    print_result(client.result(search_id), as_json)


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)
