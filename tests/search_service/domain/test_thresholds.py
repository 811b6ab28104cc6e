"""Thresholds after the fact: answered from what was proved, or said to need evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_service.domain.result import Proved, SearchResult
from search_service.domain.thresholds import answer_at, answerable
from search_service.storage.codec import result_from_json
from tests.made_up_result import made_up_result


def proved(candidate: str, speedup: float, upper_bound: float, **changes: Any) -> Proved:
    figures: dict[str, Any] = {
        "latency_s": 0.01 / speedup,
        "speedup_over_plain": 2 * speedup,
        "quality": 0.9,
        "degradation": upper_bound - 0.002,
        "episodes": 600,
        "position": 1,
        "state": "qualified",
    }
    return Proved(candidate=candidate, speedup=speedup, upper_bound=upper_bound, **{**figures, **changes})


FRONT = [proved("00010", 10.0, 0.019), proved("00111", 7.0, 0.008), proved("01111", 5.0, 0.003)]


def result_of(goal: str, candidates: list[Proved], threshold: float = 0.02) -> SearchResult:
    document = result_from_json(made_up_result(front=[]))
    seconds = {"meta_training": 300.0, "search": 20.0, "timing": 10.0, "certificate": 60.0, "total": 400.0}
    return replace(document, goal=goal, proved=candidates, max_degradation=threshold, seconds=seconds)


@pytest.mark.parametrize(
    ("threshold", "answer"), [(0.02, "00010"), (0.019, "00010"), (0.0189, "00111"), (0.008, "00111"), (0.003, "01111")]
)
def test_a_front_answers_every_threshold_in_its_range(threshold: float, answer: str) -> None:
    told = answer_at(result_of("front", FRONT), threshold)
    assert (told.status, told.low, told.high) == ("answered", 0.003, 0.02)
    assert told.answer is not None
    assert told.answer.candidate == answer
    assert told.estimated_s is None
    assert told.candidates == []


@pytest.mark.parametrize(("threshold", "said"), [(0.0201, "above 0.02"), (0.0029, "below 0.003")])
def test_outside_it_says_what_another_search_would_take(threshold: float, said: str) -> None:
    result = result_of("front", FRONT)
    result = replace(result, search=replace(result.search, unresolved=["00011"]))
    told = answer_at(result, threshold)
    assert told.status == "needs_evaluation"
    assert said in told.reason
    assert told.answer is None
    assert told.candidates == ["00011"]
    assert told.estimated_s == 90.0  # without the model's training, which need not be done again


def test_a_search_for_the_fastest_answers_down_to_its_answers_bound() -> None:
    result = result_of("fastest", [proved("00010", 10.0, 0.025, state="unqualified"), proved("00111@2", 7.0, 0.008)])
    assert answerable(result) == (0.008, 0.02)
    told = answer_at(result, 0.01)
    assert told.answer is not None
    assert told.answer.candidate == "00111@2"
    assert answer_at(result, 0.007).status == answer_at(result, 0.03).status == "needs_evaluation"


def test_without_a_proof_only_its_own_threshold_is_answered() -> None:
    result = result_of("front", [])
    assert answerable(result) == (0.02, 0.02)
    assert answer_at(result, 0.02).answer is None
    assert answer_at(result, 0.01).status == "needs_evaluation"


@given(bounds=st.lists(st.floats(0.001, 0.03), min_size=1, max_size=6), threshold=st.floats(0.0005, 0.04))
def test_what_is_answered_is_the_fastest_that_was_proved(bounds: list[float], threshold: float) -> None:
    candidates = [proved(f"{number + 1:03b}", 10.0 - number, bound) for number, bound in enumerate(bounds)]
    told = answer_at(result_of("front", candidates), threshold)
    if told.answer is not None:
        assert told.answer.upper_bound <= threshold
        faster = [each for each in candidates if each.speedup > told.answer.speedup]
        assert all(each.upper_bound > threshold for each in faster)
