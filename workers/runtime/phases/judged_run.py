"""Runs: candidates judged on one block, each of which also yields those of its pattern's first 1, 2, ... steps.

Shared by every phase that judges. Evaluations that are stored already, by this search or another, are not computed.
"""

from __future__ import annotations

from collections.abc import Iterable

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.errors import BaselineDiverged
from search_service.domain.evaluation import DIVERGED_QUALITY, Split
from search_service.domain.search import Phase
from search_service.storage import checkpoints, evaluations
from search_service.storage.tables import CheckpointRow
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch
from workers.runtime.work import JudgingOutcome, JudgingWork, Outcome
from workers.search.statistics import Qualities


def batch_for(
    case: Case, candidates: Iterable[Candidate], split: Split, block: int, checkpoint: CheckpointRow | None = None
) -> Batch:
    """The batch that judges candidates: a run for each that is not stored yet and no first steps of another.

    Args:
        case: the search.
        candidates: what to judge.
        split: on whose classes.
        block: on which block.
        checkpoint: what adapts; the search's own unless said.
    """
    wanted = list(candidates)
    texts = [candidate.text for candidate in wanted]
    key = evaluations.ensure_scope(case.session, case.scope(split, checkpoint))
    stored = evaluations.block(case.session, key, texts, block)
    missing = [candidate for candidate in wanted if candidate.text not in stored]
    included = {text for candidate in missing for text in _first_steps(candidate) if text != candidate.text}
    return {
        "runs": [candidate.text for candidate in missing if candidate.text not in included],
        "candidates": texts,
        "split": split.value,
        "block": block,
        "checkpoint": (checkpoint or case.checkpoint).id,
    }


def work_for(case: Case, batch: Batch) -> JudgingWork | None:
    """What an evaluator computes for a batch; None when every evaluation is stored."""
    if not batch["runs"]:
        return None
    return JudgingWork(
        subject=case.subject_of(checkpoints.get(case.session, batch["checkpoint"])),
        candidates=batch["runs"],
        split=Split(batch["split"]),
        seed=case.spec.seed,
        block=batch["block"],
        block_size=case.spec.episodes.block,
    )


def record(case: Case, batch: Batch, outcome: Outcome | None) -> None:
    """Store the qualities of a batch and count the effort."""
    computed: dict[str, list[float]] = {}
    if outcome is not None:
        assert isinstance(outcome, JudgingOutcome)
        runs = [Candidate.parse(text) for text in batch["runs"]]
        for run in runs:
            by_step = outcome.qualities[run.text]
            computed.update((text, by_step[number]) for text, number in _first_steps(run).items())
        computed = {text: computed[text] for text in batch["candidates"] if text in computed}
        checkpoint = checkpoints.get(case.session, batch["checkpoint"])
        key = case.scope(Split(batch["split"]), checkpoint).key
        evaluations.check_digest(case.session, key, batch["block"], outcome.digest)
        evaluations.put_block(case.session, key, batch["block"], computed, case.device)
        size = case.spec.episodes.block
        passes = sum(_image_passes(case, run.pattern.steps) for run in runs)
        case.add_effort(episode_adaptations=size * len(computed), image_passes=size * passes)
    # What this very search has judged before on the same block is no reuse.
    own = {candidate.text for candidate in [*case.full_by_steps, case.empty]} if case.phase != Phase.BASELINE else set()
    case.add_effort(reused_evaluations=sum(text not in computed and text not in own for text in batch["candidates"]))


def _first_steps(candidate: Candidate) -> dict[str, int]:
    """Texts of the candidates that judging one yields -> which of its qualities are theirs; itself is the last.

    They are its pattern's first 1, 2, ... steps (of the empty pattern, itself). A lowered prefix is that of the whole
    pattern, so first steps that freeze more units are other candidates.
    """
    lowest = candidate.pattern.lowest_active_unit
    return {
        candidate.first_steps(steps).text: number
        for number, steps in enumerate(range(min(candidate.steps, 1), candidate.steps + 1))
        if candidate.precision == Precision.FLOAT32 or candidate.pattern.first_steps(steps).lowest_active_unit == lowest
    }


def baseline_qualities(case: Case, split: Split) -> Qualities:
    """Qualities of the baseline on every block of a split.

    Raises:
        BaselineDiverged: its adaptation diverged on some episode, so nothing can be compared with it.
    """
    qualities = case.qualities(split, case.baseline.text, case.blocks(split))
    if qualities.min() <= DIVERGED_QUALITY:
        raise BaselineDiverged(case.baseline.text, case.rate)
    return qualities


def _image_passes(case: Case, steps: int) -> int:
    """Examples that pass forward through the network when a run of ``steps`` steps is judged on one episode."""
    tasks = case.spec.tasks
    support_passes = steps if case.spec.norm_statistics == "query" else steps + 1
    return support_passes * tasks.support_size + max(steps, 1) * tasks.query_size
