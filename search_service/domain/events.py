"""What happens to a search, as events that people and programs follow."""

from __future__ import annotations

from enum import StrEnum


class EventKind(StrEnum):
    """The kinds of events; each is told once, in the transaction of what it tells."""

    SUBMITTED = "submitted"
    STARTED = "started"
    PHASE = "phase"
    """`phase`: the one that begins."""
    TRIAL = "trial"
    """A candidate was decided about: `candidate`, `state`, `degradation`, `latency_s`, `speedup`, `reason`."""
    BEST = "best"
    """The best candidate so far is another one: `candidate`, `speedup`, `degradation`, `proved`."""
    PRIORITY = "priority"
    """`priority`: the new one."""
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    """`answer`: the candidate; `speedup`."""
    FAILED = "failed"
    """`title`, `detail`: why."""
    CANCELLED = "cancelled"

    @property
    def is_last(self) -> bool:
        """Whether no event follows."""
        return self in (EventKind.SUCCEEDED, EventKind.FAILED, EventKind.CANCELLED)
