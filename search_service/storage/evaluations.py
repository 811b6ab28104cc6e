"""Per-episode qualities, block by block, shared by every search. The first stored row wins. Never commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.domain.errors import EpisodesChanged
from search_service.domain.evaluation import EvaluationScope
from search_service.storage.tables import EpisodeDigestRow, EvaluationRow, EvaluationScopeRow


def ensure_scope(session: Session, scope: EvaluationScope) -> str:
    """Store what a scope's key is made of, once; the key."""
    statement = insert(EvaluationScopeRow).values(key=scope.key, fields=asdict(scope)).on_conflict_do_nothing()
    session.execute(statement)
    return scope.key


def block(session: Session, scope: str, candidates: Iterable[str], number: int) -> dict[str, list[float]]:
    """Qualities of the candidates on one block; candidates that have none stored are left out."""
    query = select(EvaluationRow.candidate, EvaluationRow.qualities).where(
        EvaluationRow.scope == scope, EvaluationRow.block == number, EvaluationRow.candidate.in_(list(candidates))
    )
    return {candidate: list(qualities) for candidate, qualities in session.execute(query)}


def blocks(session: Session, scope: str, candidate: str, count: int) -> list[list[float]]:
    """Qualities of one candidate on the blocks 0..``count``-1, up to the first that is not stored."""
    query = (
        select(EvaluationRow.block, EvaluationRow.qualities)
        .where(EvaluationRow.scope == scope, EvaluationRow.candidate == candidate, EvaluationRow.block < count)
        .order_by(EvaluationRow.block)
    )
    found: list[list[float]] = []
    for number, qualities in session.execute(query):
        if number != len(found):
            break
        found.append(list(qualities))
    return found


def missing_blocks(session: Session, scope: str, candidates: Iterable[str], count: int) -> list[int]:
    """Those of the blocks 0..``count``-1 on which not all of the candidates have been judged."""
    wanted = set(candidates)
    query = (
        select(EvaluationRow.block)
        .where(EvaluationRow.scope == scope, EvaluationRow.candidate.in_(wanted), EvaluationRow.block < count)
        .group_by(EvaluationRow.block)
        .having(func.count() == len(wanted))
    )
    complete = set(session.scalars(query))
    return [number for number in range(count) if number not in complete]


def put_block(
    session: Session,
    scope: str,
    number: int,
    qualities: Mapping[str, Sequence[float]],
    provenance: dict[str, Any],
) -> dict[str, list[float]]:
    """Store qualities of candidates on one block, and read back what stands: an earlier row wins.

    Args:
        session: where to store them; the scope must be there.
        scope: the scope's key.
        number: the block.
        qualities: per candidate, one quality per episode.
        provenance: what computed them.

    Returns:
        The stored qualities of the same candidates, in single precision.
    """
    if not qualities:
        return {}
    # Sorted, so that two workers that store the same candidates never wait for each other in a circle.
    values = [
        {
            "scope": scope,
            "candidate": candidate,
            "block": number,
            "qualities": list(qualities[candidate]),
            "provenance": provenance,
        }
        for candidate in sorted(qualities)
    ]
    session.execute(insert(EvaluationRow).on_conflict_do_nothing(), values)
    return block(session, scope, qualities, number)


def check_digest(session: Session, scope: str, number: int, digest: str) -> None:
    """Store the digest of a block's episodes, or compare it with the stored one.

    Raises:
        EpisodesChanged: other episodes were drawn for this block before.
    """
    session.execute(insert(EpisodeDigestRow).values(scope=scope, block=number, digest=digest).on_conflict_do_nothing())
    query = select(EpisodeDigestRow.digest).where(EpisodeDigestRow.scope == scope, EpisodeDigestRow.block == number)
    stored = session.scalars(query).one()
    if stored != digest:
        raise EpisodesChanged(scope, number, stored, digest)
