"""The composition of ``lambda-search``: its commands, and how it ends. Importing this loads nothing heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from search_service.cli import datasets, keys, remote, serve
from search_service.cli.doctor import doctor
from search_service.cli.exits import FAILURE, Interrupted, explain
from search_service.cli.run import run
from search_service.domain.errors import LambdaSearchError

INTERRUPTED = 130

app = typer.Typer(
    name="lambda-search",
    help="Finds the fastest way for a meta-trained model to adapt to a new task within an allowed loss of quality.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(serve.up)
app.command()(remote.submit)
app.command()(remote.watch)
app.command()(remote.show)
app.command()(remote.trials)
app.command()(remote.result)
app.command()(remote.answer)
app.command("list")(remote.list_searches)
app.command()(remote.events)
app.command()(remote.pause)
app.command()(remote.resume)
app.command()(remote.stop)
app.command()(remote.cancel)
app.command()(remote.priority)
app.add_typer(keys.app, name="keys")
app.add_typer(datasets.app, name="datasets")
app.command()(serve.api)
app.command(context_settings=serve.PASS_ON)(serve.worker)
app.command(context_settings=serve.PASS_ON)(serve.dashboard)
app.command()(serve.migrate)
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: instead of those of this process.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="lambda-search")
    except LambdaSearchError as error:
        sys.exit(explain(error))
    except Interrupted as interrupted:
        print(f"stopped by {interrupted}", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough of it; nothing more may be written when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)
