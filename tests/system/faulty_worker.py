"""A worker that kills itself with SIGKILL at a planned moment: real code, real process, real death.

``faulty_worker.py MOMENT COUNT [worker options]``: MOMENT is ``mid-trial`` (the evaluator is computing the COUNT-th
judgement) or ``after-close`` (the COUNT-th step is committed, its queue task has not ended).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import typer

from search_service.domain.search import Phase
from workers.runtime import __main__ as worker_main
from workers.runtime.advance import Advancer, Claim
from workers.runtime.evaluator_child import Assignment
from workers.runtime.work import JudgingWork


def main() -> None:
    moment, count = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    seen = {"steps": 0}

    def die_at_count() -> None:
        seen["steps"] += 1
        if seen["steps"] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    compute, close = Advancer._compute, Advancer._close

    def compute_or_die(self: Advancer, claim: Claim) -> Any:
        if isinstance(claim.work, JudgingWork) and claim.job.phase == Phase.SEARCH:
            pipe = self.evaluator._pipe
            assert pipe is not None
            if seen["steps"] + 1 == count:
                pipe.send(Assignment(claim.work, {}))  # the child is computing when its parent dies
            die_at_count()
        return compute(self, claim)

    def close_and_die(self: Advancer, claim: Claim, outcome: Any) -> None:
        close(self, claim, outcome)
        if claim.job.phase == Phase.SEARCH:
            die_at_count()

    if moment == "mid-trial":
        Advancer._compute = compute_or_die  # type: ignore[method-assign]
    else:
        Advancer._close = close_and_die  # type: ignore[method-assign]
    typer.run(worker_main.main)


if __name__ == "__main__":
    main()
