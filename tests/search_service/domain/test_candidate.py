"""Candidates: one text each, and exactly as many as the space says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.errors import InvalidPattern
from search_service.domain.lambda_pattern import LambdaPattern

patterns = st.integers(1, 6).flatmap(
    lambda units: st.lists(st.tuples(*[st.booleans()] * units), max_size=4).map(
        lambda rows: LambdaPattern(units=units, rows=tuple(rows))
    )
)


factors = st.one_of(st.just(1.0), st.integers(1, 999_999).map(lambda digits: float(f"{digits}e-3")))


@given(data=st.data(), pattern=patterns, precision=st.sampled_from(Precision))
def test_a_text_reads_back_as_the_same_candidate(
    data: st.DataObject, pattern: LambdaPattern, precision: Precision
) -> None:
    rates = tuple(data.draw(st.lists(factors, min_size=pattern.steps, max_size=pattern.steps)))
    if precision != Precision.FLOAT32 and not pattern.lowest_active_unit:
        with pytest.raises(InvalidPattern, match="no frozen unit before the first active one"):
            Candidate(pattern, rates, precision)
        return
    candidate = Candidate(pattern, rates, precision)
    assert Candidate.parse(candidate.text, pattern.units) == candidate
    assert (candidate.text == pattern.text) == (precision == Precision.FLOAT32 and set(rates) <= {1.0})


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("00111*2/00111*2", "00111*2@2"),
        ("00111*1@2", "00111@2"),
        ("00111*2.0/00111/00000*7/00111", "00111*2/00111@2"),
        ("01*5e-1@3:bfloat16", "01*0.5@3:bfloat16"),
        ("000*3", "000"),
    ],
)
def test_one_candidate_has_one_text(text: str, canonical: str) -> None:
    assert Candidate.parse(text).text == canonical
    assert Candidate.parse(canonical).text == canonical


def test_first_steps_keep_rates_and_precision() -> None:
    candidate = Candidate.parse("00111*2/00010/01000:bfloat16")
    assert candidate.first_steps(2).text == "00111*2/00010:bfloat16"
    assert candidate.steps_taken[0] == ((False, False, True, True, True), 2.0)


@pytest.mark.parametrize(
    "text",
    [
        "00010:",
        "00010:float32",
        "00010:int8",
        "00010:bfloat16:bfloat16",
        "00:10",
        "01*",
        "01*0",
        "01*-1",
        "01*nan",
        "01*1e9",
        "01*1.0000001",
        "01*2*2",
        "01@2*2",
        "01*.",
        "01*2@0",
        "01*2/1*2",
    ],
)
def test_other_texts_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidPattern, match=text.split(":")[0].split("*")[0]):
        Candidate.parse(text)


def test_factors_are_as_many_as_rows() -> None:
    with pytest.raises(InvalidPattern, match="2 rate factors for 1 rows"):
        Candidate(LambdaPattern.parse("01"), (1.0, 2.0))
