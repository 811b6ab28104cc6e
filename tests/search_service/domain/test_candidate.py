"""Candidates: one text each, and exactly as many as the space says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_service.domain.candidate import Candidate, Precision, constant_row_candidates
from search_service.domain.errors import InvalidPattern
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.space import constant_rows_size

patterns = st.integers(1, 6).flatmap(
    lambda units: st.lists(st.tuples(*[st.booleans()] * units), max_size=4).map(
        lambda rows: LambdaPattern(units=units, rows=tuple(rows))
    )
)


@given(pattern=patterns, precision=st.sampled_from(Precision))
def test_a_text_reads_back_as_the_same_candidate(pattern: LambdaPattern, precision: Precision) -> None:
    if precision != Precision.FLOAT32 and not pattern.lowest_active_unit:
        with pytest.raises(InvalidPattern, match="no frozen unit before the first active one"):
            Candidate(pattern, precision)
        return
    candidate = Candidate(pattern, precision)
    assert Candidate.parse(candidate.text, pattern.units) == candidate
    assert (candidate.text == pattern.text) == (precision == Precision.FLOAT32)


@pytest.mark.parametrize("text", ["00010:", "00010:float32", "00010:int8", "00010:bfloat16:bfloat16", "00:10"])
def test_other_texts_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidPattern, match=text.split(":")[0]):
        Candidate.parse(text)


@pytest.mark.parametrize("lowered", [False, True])
@given(units=st.integers(1, 6), max_steps=st.integers(1, 4))
def test_listed_candidates_are_different_and_as_many_as_the_space_holds(
    lowered: bool, units: int, max_steps: int
) -> None:
    listed = [candidate.text for candidate in constant_row_candidates(units, max_steps, lowered)]
    assert len(listed) == len(set(listed)) == constant_rows_size(units, max_steps, lowered)


def test_a_lower_precision_adds_the_patterns_that_freeze_the_lowest_unit() -> None:
    assert constant_rows_size(5, 5) == 155
    assert constant_rows_size(5, 5, lowered=True) == 155 + 15 * 5
