"""Proposals: inside the space, new, faster than asked, the same again, and found where they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_service.domain.candidate import Candidate
from search_service.domain.space import CandidateSpace
from workers.search.proposals import (
    Known,
    UnknownSampler,
    candidate_of,
    distributions,
    neighbours,
    parameters_of,
    propose,
    seeds,
)

spaces = st.builds(
    CandidateSpace,
    kind=st.sampled_from(["constant_rows", "per_step"]),
    units=st.sampled_from([2, 3, 5, 10]),
    max_steps=st.integers(1, 3),
    factors=st.sampled_from([(1.0,), (1.0, 2.0)]),
    lowered=st.booleans(),
)
SPACE = CandidateSpace("per_step", 5, 2, (1.0, 2.0), lowered=True)


def seconds_of(candidates: Sequence[Candidate]) -> list[float]:
    """A latency that grows with what is updated."""
    return [sum(1 + sum(row) + 3 * (5 - row.index(True)) for row in candidate.pattern.rows) for candidate in candidates]


def drawn(data: st.DataObject, space: CandidateSpace) -> Candidate:
    parameters = {}
    for name, distribution in distributions(space).items():
        choices = getattr(distribution, "choices", None) or range(distribution.low, distribution.high + 1)
        parameters[name] = data.draw(st.sampled_from(list(choices)))
    return candidate_of(parameters, space)


@given(data=st.data(), space=spaces)
def test_parameters_describe_candidates_of_the_space(data: st.DataObject, space: CandidateSpace) -> None:
    candidate = drawn(data, space)
    assert candidate in space
    assert candidate_of(parameters_of(candidate, space), space) == candidate


@settings(deadline=None)
@given(data=st.data(), space=spaces)
def test_neighbours_are_different_inside_and_mutual(data: st.DataObject, space: CandidateSpace) -> None:
    candidate = drawn(data, space)
    around = list(neighbours(candidate, space))
    assert len(set(around)) == len(around)
    assert candidate not in around
    assert all(neighbour in space for neighbour in around)
    for neighbour in around[:5]:
        same_steps = neighbour.steps == candidate.steps and neighbour.precision == candidate.precision
        if same_steps:  # a step that was dropped need not be among those that can be doubled
            assert candidate in neighbours(neighbour, space)


def test_seeds_are_constant_rows_at_the_base_rate() -> None:
    found = seeds(SPACE, 250)
    assert len(found) == 62
    assert all(len(set(each.pattern.rows)) == 1 and set(each.factors) == {1.0} for each in found)
    wide = CandidateSpace("per_step", 100, 8)
    assert "0" * 99 + "1" in [each.text for each in seeds(wide, 250)]
    assert len(seeds(wide, 250)) == 250
    assert seeds(CandidateSpace("per_step", 2, 2, (2.0,)), 250) == []  # the base rate is no factor of this space


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_sampler_comes_to_the_fastest_feasible_candidate(sampler: str) -> None:
    """Feasible: unit 4 moves at double rate in the last step. The fastest such is found within 160 of 16,000."""

    def violation(candidate: Candidate) -> float:
        row, factor = candidate.steps_taken[-1]
        return -0.01 if row[3] and factor == 2 else 0.05 - 0.02 * row[3]

    def judged(candidates: Sequence[Candidate]) -> list[Known]:
        return [
            Known(candidate=each, predicted_s=seconds, violation=violation(each))
            for each, seconds in zip(candidates, seconds_of(candidates), strict=True)
        ]

    known = judged(seeds(SPACE, 250))
    for _ in range(7):
        feasible = [each.predicted_s for each in known if each.violation is not None and each.violation <= 0]
        limit = min(feasible, default=float("inf"))
        proposed = propose(SPACE, sampler, known, seconds_of, limit, 16, seed=3)
        assert proposed == propose(SPACE, sampler, known, seconds_of, limit, 16, seed=3)
        assert not {each.candidate for each in known} & set(proposed)
        assert len(set(proposed)) == len(proposed) <= 16
        assert all(
            each in SPACE and seconds < limit for each, seconds in zip(proposed, seconds_of(proposed), strict=True)
        )
        known += judged(proposed)
    best = min((each for each in known if (each.violation or 0) <= 0), key=lambda each: each.predicted_s)
    assert best.candidate.pattern.text in ("00010", "00011")


def test_nothing_is_proposed_where_nothing_is_faster() -> None:
    known = [Known(candidate=Candidate.parse("00010"), predicted_s=8.0, violation=-0.01)]
    assert propose(SPACE, "random", known, seconds_of, 1.0, 8, seed=0) == []


def test_a_small_space_is_proposed_to_its_end_and_no_further() -> None:
    space = CandidateSpace("per_step", 2, 2)
    everything = set(space.candidates())
    known: list[Known] = []
    sizes = []
    for _ in range(6):
        proposed = propose(space, "random", known, lambda each: [1.0] * len(each), float("inf"), 4, seed=1)
        known += [Known(candidate=each, predicted_s=1.0, violation=0.1) for each in proposed]
        sizes.append(len(proposed))
    assert {each.candidate for each in known} == everything
    assert all(later <= earlier for earlier, later in pairwise(sizes))
    assert sizes[-1] == 0


def test_a_sampler_that_is_not_installed_is_named() -> None:
    with pytest.raises(UnknownSampler, match="'hub:nothing' needs optunahub"):
        propose(SPACE, "hub:nothing", [], seconds_of, float("inf"), 1, seed=0)
