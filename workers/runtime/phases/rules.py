"""What every phase answers to the token protocol.

All methods but ``work`` run inside a short transaction that holds the search's row; ``work`` says what a device then
computes with no transaction open.
"""

from __future__ import annotations

from typing import Any, Protocol

from search_service.domain.search import Phase
from search_service.storage.tables import TokenRow
from workers.runtime.case import Case
from workers.runtime.work import Outcome, Work

Batch = dict[str, Any]
"""What one step of a token is about; JSON, shown on the token while it runs."""


class MustWait(Exception):
    """Raised by ``take``: the token waits, without a job, until the reaper finds that it can go on."""


class PhaseRules(Protocol):
    """One phase of a search."""

    def plan(self, case: Case) -> int:
        """How many tokens to make: called when the phase begins and whenever its last live token has ended.

        Zero means that the phase is over.
        """
        ...

    def take(self, case: Case, token: TokenRow) -> Batch | None:
        """The batch of a token's present step, or None when the token has no more work.

        Asked again for the same step, after a worker died, it gives the same work, less what has become known since.

        Raises:
            MustWait: there is work, but another search is doing it.
        """
        ...

    def work(self, case: Case, batch: Batch) -> Work | None:
        """What a device must compute for a batch; None when all of it is known already."""
        ...

    def record(self, case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
        """Store what came out and advance the search's trials."""
        ...

    def following(self, case: Case) -> Phase | None:
        """The phase that comes after this one is over; None where the search has its answer."""
        ...
