from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from search_service import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is the process's own; the other tests get it back."""
    loggers = [logging.getLogger(name) for name in (None, *logs.QUIET, *logs.ADOPTED)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_logger_writes_one_json_line_with_the_same_fields() -> None:
    stream = io.StringIO()
    logs.configure("worker", stream)
    with structlog.contextvars.bound_contextvars(search="s1", token=0):
        structlog.get_logger("ours").info("step done", seconds=0.5)
        logging.getLogger("library").warning("%s is %d", "this", 3, extra={"job": 7})
    structlog.get_logger("ours").info("idle")
    ours, library, idle = lines(stream)
    assert ours == {
        "event": "step done",
        "seconds": 0.5,
        "search": "s1",
        "token": 0,
        "process": "worker",
        "pid": ours["pid"],
        "level": "info",
        "logger": "ours",
        "timestamp": ours["timestamp"],
    }
    assert (library["event"], library["job"], library["search"], library["level"]) == ("this is 3", 7, "s1", "warning")
    assert ours.keys() - {"seconds"} == library.keys() - {"job"}
    assert "search" not in idle


def test_errors_stand_in_their_line() -> None:
    stream = io.StringIO()
    logs.configure("api", stream)
    try:
        raise ValueError("odd")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("library").exception("failed too")
    for line in lines(stream):
        assert "ValueError: odd" in line["exception"]
        assert line["level"] == "error"


def test_what_cannot_be_json_is_written_as_text() -> None:
    stream = io.StringIO()
    logs.configure("api", stream)
    structlog.get_logger("ours").info("odd", value={1, 2}, text="Λ\ud800")
    (line,) = lines(stream)
    assert line["value"] == "{1, 2}"


def test_people_at_a_terminal_get_text() -> None:
    stream = Terminal()
    logs.configure("worker", stream)
    structlog.get_logger("ours").info("step done", seconds=0.5)
    assert "step done" in stream.getvalue()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(stream.getvalue())


def test_libraries_with_handlers_of_their_own_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    uvicorn, handler = logging.getLogger("uvicorn.error"), logging.StreamHandler(io.StringIO())
    # A server that another test ran in this process has set it.
    monkeypatch.setattr(uvicorn, "level", logging.INFO)
    uvicorn.manager._clear_cache()  # type: ignore[attr-defined]
    uvicorn.addHandler(handler)
    logs.configure("api", stream)
    uvicorn.info("Started", extra={"color_message": "\x1b[1mStarted"})
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("procrastinate.worker").info("Starting job")
    (line,) = lines(stream)
    assert handler not in uvicorn.handlers
    assert line["event"] == "Started"
    assert "color_message" not in line


def test_it_goes_to_stderr_and_warnings_with_it() -> None:
    code = (
        "import warnings, structlog; from search_service import logs; logs.configure('dashboard');"
        "structlog.get_logger('ours').info('here'); warnings.warn('old')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    told, warned = [json.loads(line) for line in run.stderr.splitlines()]
    assert told["event"] == "here"
    assert "UserWarning: old" in warned["event"]
