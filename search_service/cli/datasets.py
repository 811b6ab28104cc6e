"""``lambda-search datasets``: what tasks can be drawn from on this machine, and fetching what is missing."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from search_service.cli.environment import become, read_settings, require
from search_service.cli.remote import Json

MODULE = "workers.adaptation.episodes"

app = typer.Typer(help="List datasets, and fetch those that must be downloaded.", no_args_is_help=True)


class Dataset(StrEnum):
    """Datasets that can be fetched."""

    OMNIGLOT = "omniglot"


DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where datasets are; LAMBDA_SEARCH_DATA_DIR unless said."),
]


@app.command()
def fetch(
    dataset: Annotated[Dataset, typer.Argument(help="Which one.")],
    data_dir: DataDir = None,
) -> None:
    """Download a dataset, check it and store it as the workers read it."""
    require("worker")
    become(MODULE, "fetch", dataset.value, "--data-dir", str(_folder(data_dir)))


@app.command("list")
def list_datasets(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Say for each task family whether it can be drawn here, and if not, why."""
    require("worker")
    become(MODULE, "list", "--data-dir", str(_folder(data_dir)), *(["--json"] if as_json else []))


def _folder(data_dir: Path | None) -> Path:
    return read_settings().data_dir if data_dir is None else data_dir
