"""``python -m search_service.cli.postgres_keeper FOLDER``: keeps the embedded Postgres for as long as its parent lives.

The server detaches itself from whoever starts it, so a killed parent would leave it behind. The keeper waits at the end
of a pipe, which closes however the parent ends, and then stops the server.
"""

from __future__ import annotations

import argparse
import json
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search_service.cli.processes import module_command, module_environment, quoted_end
from search_service.domain.errors import DatabaseUnavailable

START_LIMIT = 60.0  # seconds; making a new data folder takes about one
STOP_LIMIT = 30.0  # seconds


@contextmanager
def kept_postgres(folder: Path, log: Path, remove: Path | None = None) -> Iterator[str]:
    """Run the embedded Postgres on ``folder`` and give its URL; it stops at the end, or when this process dies.

    Args:
        folder: its data, made if missing.
        log: where the keeper's own complaints go.
        remove: a folder to delete once the server has stopped, however this process ends.

    Raises:
        DatabaseUnavailable: it does not start; says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = [str(folder), *(["--remove", str(remove)] if remove else [])]
    with log.open("ab") as complaints:
        keeper = subprocess.Popen(
            module_command("search_service.cli.postgres_keeper", *arguments),
            env=module_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            start_new_session=True,
        )
    try:
        yield _announced_url(keeper, log)
    finally:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with suppress(BrokenPipeError):
            keeper.stdin.close()
        try:
            keeper.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        keeper.stdout.close()


def _announced_url(keeper: subprocess.Popen[bytes], log: Path) -> str:
    assert keeper.stdout is not None
    answered, _, _ = select.select([keeper.stdout], [], [], START_LIMIT)
    if not answered:
        raise DatabaseUnavailable(f"the embedded Postgres has not started within {START_LIMIT:.0f} s; see {log}")
    try:
        answer = json.loads(keeper.stdout.readline())
    except ValueError:
        raise DatabaseUnavailable(f"the embedded Postgres does not start; {quoted_end(log)}") from None
    if "error" in answer:
        raise DatabaseUnavailable(answer["error"])
    url: str = answer["url"]
    return url


def main() -> None:
    """Start the server, write its URL as JSON, wait until standard input ends, stop the server."""
    from search_service.storage.embedded import embedded_postgres

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--remove", type=Path)
    options = parser.parse_args()
    # Whoever ends the parent ends the pipe; a signal sent to everybody must not come first. Not SIG_IGN, which the
    # server would inherit.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        with embedded_postgres(options.folder) as url:
            print(json.dumps({"url": url}), flush=True)
            sys.stdin.buffer.read()
    except DatabaseUnavailable as error:
        with suppress(BrokenPipeError):
            print(json.dumps({"error": str(error)}), flush=True)
        sys.exit(1)
    finally:
        if options.remove is not None:
            shutil.rmtree(options.remove, ignore_errors=True)


if __name__ == "__main__":
    main()
