"""How the command line ends: exit codes, signals, and errors in plain words on stderr."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from search_service.domain.errors import FieldProblem, LambdaSearchError

FAILURE = 1
BAD_SPEC = 2

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class BadSpec(LambdaSearchError, ValueError):
    """A spec cannot be read, or was refused; names every field at fault."""

    def __init__(self, source: str, problems: Sequence[FieldProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.field}: {problem.reason}" for problem in self.problems))


class Interrupted(BaseException):
    """The process was told to end by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.exit_code = 128 + number
        super().__init__(signal.Signals(number).name)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise :class:`Interrupted`; further ones must not disturb the ending.

    Everything that is stopped on the way out is stopped within a limit of its own, so nobody waits for ever.
    """

    def first(number: int, _: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, further)
        raise Interrupted(number)

    def further(_: int, __: FrameType | None) -> None:
        print("already stopping, a few seconds more", file=sys.stderr, flush=True)

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    for each, handler in before.items():
        # nohup has SIGHUP ignored, and so it stays.
        if each != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(each, first)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def explain(error: LambdaSearchError) -> int:
    """Say on stderr what went wrong, and give the exit code."""
    if isinstance(error, BadSpec):
        print(f"{error.source} is not a search that can be run:", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem.field}: {problem.reason}", file=sys.stderr)
        return BAD_SPEC
    print(f"lambda-search: {error}", file=sys.stderr)
    return FAILURE
