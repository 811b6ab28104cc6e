"""``python -m workers.adaptation.episodes``: list the task families, fetch the dataset of one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args, get_type_hints

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes import unavailable_reason
from workers.adaptation.episodes.fetch import OMNIGLOT_BASE_URL, fetch_omniglot

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

DataDir = Annotated[Path, typer.Option("--data-dir", metavar="DIR", help="Where datasets are.")]


@app.command()
def fetch(
    dataset: Annotated[Literal["omniglot"], typer.Argument(help="Which one.")],
    data_dir: DataDir,
    base_url: Annotated[str, typer.Option(help="The folder that has the archives.")] = OMNIGLOT_BASE_URL,
) -> None:
    """Download a dataset, check it and store it as the workers read it."""
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bars = {}

            def show(name: str, received: int, total: int | None) -> None:
                if name not in bars:
                    bars[name] = progress.add_task(name, total=total)
                progress.update(bars[name], completed=received)

            path = fetch_omniglot(data_dir, base_url, progress=show)
    except DatasetUnavailable as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"{dataset} is in {path}")


@app.command("list")
def list_families(
    data_dir: DataDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object; null is ready.")] = False,
) -> None:
    """Say for each task family whether it can be drawn here, and if not, why."""
    families = sorted(get_args(get_type_hints(TaskFamily)["family"]))
    reasons = {family: unavailable_reason(family, data_dir) for family in families}
    if as_json:
        print(json.dumps(reasons, indent=2))
        return
    for family, reason in reasons.items():
        print(f"{family:<10} {reason or 'ready'}")


if __name__ == "__main__":
    app(prog_name="python -m workers.adaptation.episodes")
