"""A run: one candidate judged on one block, which also yields the candidates of its first 1, 2, ... steps.

Shared by every phase that judges. Evaluations that are stored already, by this search or another, are not computed.
"""

from __future__ import annotations

from collections.abc import Iterable

from search_service.domain.candidate import Candidate
from search_service.domain.errors import BaselineDiverged
from search_service.domain.evaluation import DIVERGED_QUALITY, Split
from search_service.domain.search import Phase
from search_service.storage import evaluations, tokens
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch
from workers.runtime.work import JudgingOutcome, JudgingWork, Outcome
from workers.search.statistics import Qualities


def batch_for(case: Case, candidates: Iterable[Candidate], split: Split, block: int) -> Batch:
    """The batch that judges candidates which are all first steps of the longest one, in its precision."""
    wanted = list(candidates)
    longest = max(wanted, key=lambda candidate: candidate.pattern.steps)
    key = evaluations.ensure_scope(case.session, case.scope(split))
    texts = [candidate.text for candidate in wanted]
    stored = evaluations.block(case.session, key, texts, block)
    return {
        "run": longest.text,
        "candidates": texts,
        "split": split.value,
        "block": block,
        "known": len(stored) == len(texts),
    }


def work_for(case: Case, batch: Batch) -> JudgingWork | None:
    """What an evaluator computes for a batch; None when every evaluation is stored."""
    if batch["known"]:
        return None
    return JudgingWork(
        subject=case.subject,
        candidates=[batch["run"]],
        split=Split(batch["split"]),
        seed=case.spec.seed,
        block=batch["block"],
        block_size=case.spec.episodes.block,
    )


def record(case: Case, batch: Batch, outcome: Outcome | None) -> None:
    """Store the qualities of a batch and count the effort."""
    candidates = [Candidate.parse(text) for text in batch["candidates"]]
    size = case.spec.episodes.block
    if outcome is None:
        if case.phase != Phase.SEARCH:
            case.add_effort(reused_evaluations=len(candidates))
        else:  # full patterns were judged by this very search, in its baseline phase
            own = set(case.full_by_steps)
            case.add_effort(reused_evaluations=sum(candidate not in own for candidate in candidates))
        return
    assert isinstance(outcome, JudgingOutcome)
    case.add_effort(episode_adaptations=size * len(candidates))
    key = case.scope(Split(batch["split"])).key
    evaluations.check_digest(case.session, key, batch["block"], outcome.digest)
    by_step = outcome.qualities[batch["run"]]
    evaluations.put_block(
        case.session,
        key,
        batch["block"],
        {candidate.text: by_step[max(candidate.pattern.steps, 1) - 1] for candidate in candidates},
        case.device,
    )
    case.add_effort(image_passes=size * _image_passes(case, Candidate.parse(batch["run"]).pattern.steps))


def baseline_qualities(case: Case, split: Split) -> Qualities:
    """Qualities of the baseline on every block of a split.

    Raises:
        BaselineDiverged: its adaptation diverged on some episode, so nothing can be compared with it.
    """
    qualities = case.qualities(split, case.baseline.text)
    if qualities.min() <= DIVERGED_QUALITY:
        raise BaselineDiverged(case.baseline.text, case.rate)
    return qualities


def show_blocks(case: Case, split: Split, runs: int, message: str, just_done: int = 0) -> None:
    """Progress of a round that judges every block of a split, one token per block and ``runs`` steps per token."""
    blocks = case.blocks(split)
    first = (tokens.count_of(case.session, case.row.id, case.phase) - 1) // blocks * blocks
    done = tokens.steps_taken(case.session, case.row.id, case.phase, first) + just_done
    case.set_progress(min(done / runs, blocks), blocks, "blocks", message)


def _image_passes(case: Case, steps: int) -> int:
    """Examples that pass forward through the network when a run of ``steps`` steps is judged on one episode."""
    tasks = case.spec.tasks
    support_passes = steps if case.spec.norm_statistics == "query" else steps + 1
    return support_passes * tasks.support_size + max(steps, 1) * tasks.query_size
