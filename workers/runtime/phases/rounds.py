"""A round of a phase: some blocks of episodes, one token each, that take as many steps as a block takes runs."""

from __future__ import annotations

from typing import Any

from search_service.storage import tokens
from search_service.storage.tables import TokenRow
from workers.runtime.case import Case


def begin(case: Case, blocks: list[int], message: str, **subject: Any) -> int:
    """Begin a round on these blocks.

    Args:
        case: the search, whose phase plans it.
        blocks: indices of the blocks that something is missing on.
        message: what the round is for, shown while it lasts.
        subject: what else its tokens need to know; see :func:`present`.

    Returns:
        How many tokens it takes.
    """
    first = tokens.count_of(case.session, case.row.id, case.phase)
    case.row.round = {**subject, "blocks": blocks, "first_token": first}
    case.set_progress(0, len(blocks), "blocks", message)
    return len(blocks)


def present(case: Case) -> dict[str, Any]:
    """The round under way: ``blocks``, ``first_token``, and its subject."""
    if case.row.round is None:
        raise LookupError(f"search {case.row.id} has no round in phase {case.row.phase}")
    return case.row.round


def block_of(case: Case, token: TokenRow) -> int:
    """The block that a token of the round is for."""
    begun = present(case)
    block: int = begun["blocks"][token.no - begun["first_token"]]
    return block


def show_step(case: Case, runs: int = 1) -> None:
    """Show that one more step of the round has been taken, of ``runs`` on each block."""
    begun = present(case)
    blocks = len(begun["blocks"])
    done = tokens.steps_taken(case.session, case.row.id, case.phase, begun["first_token"]) + 1
    case.set_progress(min(done / runs, blocks), blocks, "blocks", case.row.progress.get("message", ""))
