"""Log lines of every process: JSON on stderr, or for people where stderr is a terminal.

structlog's loggers and the standard library's (uvicorn, procrastinate, SQLAlchemy, optuna) go one way, so every line
has the same fields. What is bound with ``structlog.contextvars`` (``request_id`` in the API; ``search``, ``phase``,
``token`` and ``step`` in a worker and its evaluator) stands in each line of that request or step.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

QUIET = ("alembic", "asgi_correlation_id", "httpcore", "httpx", "opentelemetry", "procrastinate", "uvicorn.access")
"""Loggers of which only warnings are of interest: each of their steps, and each request, has a line of ours."""
ADOPTED = ("uvicorn", "optuna")
"""Loggers that bring handlers of their own."""


def configure(process: str, stream: TextIO | None = None) -> None:
    """Let this process log one way. Call it once, where a process begins.

    Args:
        process: what the process is: ``api``, ``worker``, ``evaluator``, ``dashboard``; field ``process`` of each line.
        stream: where to; stderr unless said.
    """
    stream = sys.stderr if stream is None else stream
    is_terminal = stream.isatty()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _Process(process),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), _drop_colours],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(is_terminal)],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    adopt(*ADOPTED)
    logging.captureWarnings(True)


def adopt(*names: str) -> None:
    """Let loggers, and those below them, that a library gave handlers log like all others; after importing it."""
    below = [name for name in logging.root.manager.loggerDict if name.startswith(tuple(f"{name}." for name in names))]
    for name in (*names, *below):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _rendering(is_terminal: bool) -> list[Processor]:
    if is_terminal:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]


def _drop_colours(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # uvicorn's message once more, with escape sequences
    return event


class _Process:
    """Adds which process logs, under its present id."""

    def __init__(self, process: str) -> None:
        self._process = process

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("process", self._process)
        event.setdefault("pid", os.getpid())
        return event
