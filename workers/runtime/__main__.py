"""``python -m workers.runtime``: one worker on one device."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from search_service import logs, telemetry
from search_service.domain.errors import DatabaseUnavailable
from search_service.settings import Settings
from workers.runtime import metrics
from workers.runtime.worker import Worker


def main(
    device: Annotated[str, typer.Option(help="cpu, cuda:0, or auto: the first GPU if there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on a CPU; all cores unless said.")] = None,
) -> None:
    """Serve searches on one device until SIGTERM or Ctrl-C."""
    logs.configure("worker")
    settings = Settings()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        worker = Worker(settings, device, threads or settings.threads or cores)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        telemetry.start("lambda-search-worker")
        metrics.serve(settings.metrics_port)
        worker.run()
    except DatabaseUnavailable as error:
        typer.echo(f"worker: {error}", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    typer.run(main)
