"""Every error the product raises on purpose, under one base.

An error is a noun, carries the values that were wrong, and its message says what happened, where, and what to do.
The HTTP status of each lives in one table in ``search_service.api.problems``; nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LambdaSearchError(Exception):
    """Base of every deliberate error of this product."""


class InvalidPattern(LambdaSearchError, ValueError):
    """A text or matrix is not a Λ-pattern."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text
        self.reason = reason
        super().__init__(f"'{text}' is not a Λ-pattern: {reason}")


class InvalidSpec(LambdaSearchError, ValueError):
    """A search spec cannot be run; names the field and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        self.field = field
        self.reason = reason
        super().__init__(f"{field}: {reason}")


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field that was refused, and why."""

    field: str
    reason: str


class UnreadableSpec(LambdaSearchError, ValueError):
    """A document is not a search spec; names every field that is wrong."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{problem.field}: {problem.reason}" for problem in self.problems))


class IllegalMove(LambdaSearchError):
    """A search was asked to move to a status that cannot follow its present one."""

    def __init__(self, search_id: str, present: str, wanted: str) -> None:
        self.search_id = search_id
        self.present = present
        self.wanted = wanted
        super().__init__(f"search {search_id} is {present} and cannot become {wanted}")


class NotFound(LambdaSearchError, LookupError):
    """No row of this kind has this name."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"no {kind} is called '{name}'")


class Unauthenticated(LambdaSearchError):
    """A request carries no API key that is in force."""


class Forbidden(LambdaSearchError):
    """A key does not allow what it was used for."""


class TooManyQueued(LambdaSearchError):
    """A key has as many searches waiting as it may."""

    def __init__(self, name: str, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} searches of key '{name}' wait already, which is its limit: try again when some run")


class VersionChanged(LambdaSearchError):
    """A search is no longer as it was when it was looked at."""

    def __init__(self, search_id: str, version: int) -> None:
        super().__init__(f"search {search_id} is at version {version} by now: look at it again before changing it")


class IdempotencyConflict(LambdaSearchError):
    """An idempotency key was used for something else before."""

    def __init__(self, idempotency_key: str, search_id: str) -> None:
        super().__init__(
            f"idempotency key '{idempotency_key}' stands for another body, that of search {search_id}: "
            "take a new key for a new search"
        )


class ResultNotReady(LambdaSearchError):
    """A result was asked for before the search has one."""

    def __init__(self, search_id: str, status: str) -> None:
        self.search_id = search_id
        self.status = status
        super().__init__(f"search {search_id} is {status} and has no result yet")


class SearchFailed(LambdaSearchError):
    """A result was asked for of a search that failed; carries why."""

    def __init__(self, search_id: str, title: str, detail: str, phase: str | None) -> None:
        self.search_id = search_id
        self.title = title
        self.detail = detail
        self.phase = phase
        during = f" during {phase}" if phase else ""
        super().__init__(f"search {search_id} failed{during} and has no result: {detail or title}")


class SearchCancelled(LambdaSearchError):
    """A result was asked for of a search that was cancelled."""

    def __init__(self, search_id: str) -> None:
        self.search_id = search_id
        super().__init__(f"search {search_id} was cancelled and has no result")


class EpisodesChanged(LambdaSearchError):
    """A block's episodes were drawn otherwise than the stored evaluations of that block."""

    def __init__(self, scope: str, block: int, stored: str, drawn: str) -> None:
        self.scope = scope
        self.block = block
        self.stored = stored
        self.drawn = drawn
        super().__init__(
            f"block {block} of scope {scope} was drawn with digest {drawn}, its stored evaluations with {stored}: "
            "the dataset or the drawing of episodes has changed; raise ENGINE_VERSION or restore the dataset"
        )


class DatasetUnavailable(LambdaSearchError):
    """The drawings of a task family are not on this machine."""

    def __init__(self, family: str, reason: str) -> None:
        self.family = family
        self.reason = reason
        super().__init__(f"dataset '{family}' cannot be used: {reason}")


class DatabaseUnavailable(LambdaSearchError):
    """The Postgres behind the service does not answer, or has not been migrated."""


class ArtifactMissing(LambdaSearchError):
    """A stored file is not where the database says it is."""

    def __init__(self, name: str, store: str) -> None:
        self.name = name
        self.store = store
        super().__init__(
            f"'{name}' is not in the artifact store '{store}': every worker must see the same "
            "LAMBDA_SEARCH_ARTIFACTS_URL, and nothing may be removed from it"
        )


class EvaluatorFailed(LambdaSearchError):
    """The evaluator child process died or raised while it computed a batch."""


class BaselineDiverged(LambdaSearchError):
    """The full pattern's own qualities are not numbers, so nothing can be compared with it."""

    def __init__(self, pattern: str, rate: float) -> None:
        self.pattern = pattern
        self.rate = rate
        super().__init__(
            f"the baseline {pattern} diverges at rate {rate} (its qualities are not numbers): lower baseline.rate, "
            "or train the checkpoint longer"
        )


class CompilationFailed(LambdaSearchError):
    """A program could not be compiled."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the compiler failed; search with runtime 'eager' instead, or mend the compiler: {reason}")


class UnsupportedNetwork(LambdaSearchError):
    """A network cannot be adapted as it stands (random operations, running statistics, units that overlap)."""
