"""The space of candidates: its size without listing, its list, and what belongs to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_service.domain.candidate import Candidate
from search_service.domain.space import CandidateSpace

spaces = st.builds(
    CandidateSpace,
    kind=st.sampled_from(["constant_rows", "per_step"]),
    units=st.integers(1, 4),
    max_steps=st.integers(1, 3),
    factors=st.sampled_from([(1.0,), (1.0, 2.0), (0.5, 1.0, 4.0)]),
    lowered=st.booleans(),
).filter(lambda space: space.size <= 5000)


@given(space=spaces)
def test_listed_candidates_are_different_all_inside_and_as_many_as_the_size_says(space: CandidateSpace) -> None:
    listed = list(space.candidates())
    assert len({candidate.text for candidate in listed}) == len(listed) == space.size
    assert all(candidate in space for candidate in listed)


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (CandidateSpace("constant_rows", 5, 5), 155),
        (CandidateSpace("constant_rows", 5, 5, lowered=True), 155 + 15 * 5),
        (CandidateSpace("constant_rows", 5, 2, (1.0, 2.0, 4.0)), 31 * 3 + 31 * 9),
        (CandidateSpace("per_step", 5, 2), 992),
        (CandidateSpace("per_step", 5, 5), 29_583_455),
        (CandidateSpace("per_step", 5, 2, (1.0, 2.0)), 62 + 62**2),
    ],
)
def test_sizes_known_beforehand(space: CandidateSpace, size: int) -> None:
    assert space.size == size


def test_a_huge_space_is_counted_too() -> None:
    assert CandidateSpace("per_step", 512, 64).size == sum((2**512 - 1) ** steps for steps in range(1, 65))


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("00111@2", True),
        ("00111*2@2", True),
        ("00111/00110", False),
        ("00111@3", False),
        ("00111*4", False),
        ("0011", False),
        ("00000", False),
        ("00111:bfloat16", False),
    ],
)
def test_what_belongs_to_a_space(text: str, inside: bool) -> None:
    space = CandidateSpace("constant_rows", 5, 2, (1.0, 2.0))
    assert (Candidate.parse(text) in space) == inside
