"""``lambda-search run``: one search from nothing to its result, everything it needs started and stopped around it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search_service.cli.environment import read_settings, require
from search_service.cli.exits import Interrupted, interruptible
from search_service.cli.processes import module_command, module_environment
from search_service.cli.remote import Json, SpecFile, check_succeeded, print_result, submit_spec, write_document
from search_service.cli.spec_file import STDIN, read_spec
from search_service.client import Client, SearchView
from search_service.domain.errors import LambdaSearchError

if TYPE_CHECKING:
    from search_service.cli.local_stack import StackPlan
    from search_service.cli.progress import Show

PICTURES_LIMIT = 120.0  # seconds
PICTURES = {".png": "the front as a picture", ".html": "the same, interactive"}


def run(
    file: SpecFile,
    as_json: Json = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Write the result as JSON here, and beside it pictures as PNG and HTML."
        ),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="Keep database, checkpoints and logs here, for the next run too."),
    ] = None,
    workers: Annotated[int, typer.Option(help="How many workers share this machine.", min=1)] = 1,
) -> None:
    """Run one search from nothing to its result: start what it needs, show how it goes, and shut down."""
    from search_service.cli.progress import progress_on_stderr

    spec = read_spec(file)
    if output is not None:
        _check_output(output)
    require("worker")
    with interruptible(), _plan(home, workers) as plan:
        document = _search(plan, spec, str(file), progress_on_stderr)
    pictures: list[Path] = []
    if output is not None:
        write_document(document, output)
        pictures = _draw(output, str(spec.get("name", "")))
    print_result(document, as_json)
    if not as_json:
        _say_what_next(file, output, pictures)


def _search(plan: StackPlan, spec: dict[str, Any], source: str, show: Any) -> dict[str, Any]:
    from search_service.cli.local_stack import local_stack

    with local_stack(plan, _say) as stack, Client(stack.url, stack.key) as client:
        view = submit_spec(client, spec, source)
        _say(f"submitted {view['id']}")
        try:
            progress: Show
            with show(client) as progress:

                def look(view: SearchView) -> None:
                    stack.check()
                    progress(view)

                view = client.wait(view["id"], look)
        except Interrupted:
            _say("cancelling the search")
            with suppress(LambdaSearchError):
                client.cancel(view["id"])
            raise
        check_succeeded(view)
        return client.result(view["id"])


@contextmanager
def _plan(home: Path | None, workers: int) -> Iterator[StackPlan]:
    """Where everything goes: ``home``, or a folder that is gone afterwards, save the logs of a run that failed."""
    from search_service.cli.local_stack import StackPlan

    private = home is None
    folder = Path(tempfile.mkdtemp(prefix="lambda-search-run-")) if home is None else home.expanduser().absolute()
    logs = Path(tempfile.mkdtemp(prefix="lambda-search-logs-")) if private else folder / "logs"
    # Datasets stay where the user has them; everything this run makes goes into its own folder.
    settings = read_settings().model_copy(
        update={"home": folder, "artifacts_url": (folder / "artifacts").as_uri(), "database_url": None}
    )
    try:
        yield StackPlan(settings=settings, logs=logs, workers=workers, remove_home=private)
    except LambdaSearchError:
        _say(f"logs are in {logs}")
        raise
    except BaseException:
        if private:
            shutil.rmtree(logs, ignore_errors=True)
        raise
    else:
        if private:
            shutil.rmtree(logs, ignore_errors=True)
    finally:
        # The keeper of the embedded Postgres removes it too; here for a run that did not come so far.
        if private:
            shutil.rmtree(folder, ignore_errors=True)


def _check_output(output: Path) -> None:
    """Refuse an output that could not be written two minutes later."""
    if output.suffix in PICTURES:
        raise typer.BadParameter(
            "it is the JSON document; pictures go beside it as PNG and HTML", param_hint="--output"
        )
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise typer.BadParameter(f"'{output}' is a folder, or its folder is not there", param_hint="--output")


def _draw(document: Path, title: str) -> list[Path]:
    """Draw the result beside the document; pictures that fail do not spoil the result."""
    pictures = [document.with_suffix(suffix) for suffix in PICTURES]
    arguments = [str(document), *map(str, pictures), *(["--title", title] if title else [])]
    try:
        done = subprocess.run(
            module_command("workers.search.pictures", *arguments),
            env=module_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PICTURES_LIMIT,
        )
    except subprocess.TimeoutExpired:
        _say(f"no pictures: drawing them took longer than {PICTURES_LIMIT:.0f} s")
        return []
    if done.returncode != 0:
        _say(f"no pictures: {(done.stderr.strip().splitlines() or ['they could not be drawn'])[-1]}")
        return []
    return pictures


def _say_what_next(file: Path, output: Path | None, pictures: Sequence[Path]) -> None:
    spec = "FILE" if file == STDIN else str(file)
    print("\nWhat to do next:")
    if output is not None:
        print(f"  the whole result            {output}")
    else:
        print(f"  keep result and pictures    lambda-search run {spec} --output result.json")
    for picture in pictures:
        print(f"  {PICTURES[picture.suffix]:<26}  {picture}")
    print(f"  another threshold or model  change max_degradation or model in {spec}, and run again")
    print("  a service that stays        lambda-search up, then: lambda-search submit FILE --watch")
    print("  real handwriting            lambda-search datasets fetch omniglot, then examples/omniglot_5way_1shot.yaml")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
