"""``python -m workers.search.pictures RESULT.json OUT...``: a result as a PNG or as an interactive page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from search_service.storage.codec import result_from_json
from workers.search.pictures.contents import contents_of
from workers.search.pictures.html import write_html
from workers.search.pictures.png import write_png

WRITERS = {".png": write_png, ".html": write_html}


def main(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A result document.")],
    pictures: Annotated[list[Path], typer.Argument(metavar="OUT...", help="What to write: *.png, *.html, or both.")],
    title: Annotated[str, typer.Option(help="What to call the search; its tasks unless said.")] = "",
) -> None:
    """Draw a result: the front, the answer's pattern and its figures."""
    for picture in pictures:
        if picture.suffix not in WRITERS:
            raise typer.BadParameter(f"'{picture}' ends in none of {', '.join(WRITERS)}", param_hint="OUT")
    try:
        contents = contents_of(result_from_json(json.loads(result.read_text(encoding="utf-8"))), title)
        for picture in pictures:
            WRITERS[picture.suffix](contents, picture)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"{result} is no result document: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        raise typer.Exit(1) from error
    except (OSError, ValueError) as error:
        print(f"{result} cannot be drawn: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
