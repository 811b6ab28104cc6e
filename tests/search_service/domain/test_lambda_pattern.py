from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_service.domain.errors import InvalidPattern
from search_service.domain.lambda_pattern import MAX_STEPS, MAX_UNITS, LambdaPattern, constant_row_patterns

Rows = tuple[tuple[bool, ...], ...]


@st.composite
def matrices(draw: st.DrawFn, max_units: int = 6, max_steps: int = 8) -> tuple[int, Rows]:
    units = draw(st.integers(1, max_units))
    row = st.tuples(*[st.booleans()] * units)
    return units, tuple(draw(st.lists(row, max_size=max_steps)))


patterns = matrices().map(lambda matrix: LambdaPattern(units=matrix[0], rows=matrix[1]))


@given(patterns)
def test_parsing_the_text_gives_the_pattern_back(pattern: LambdaPattern) -> None:
    assert LambdaPattern.parse(pattern.text) == pattern
    assert LambdaPattern.parse(pattern.text, units=pattern.units) == pattern
    assert str(pattern) == pattern.text


@given(matrices(max_units=3, max_steps=3), matrices(max_units=3, max_steps=3))
def test_equal_patterns_and_only_they_have_equal_texts(first: tuple[int, Rows], second: tuple[int, Rows]) -> None:
    one, other = LambdaPattern(*first), LambdaPattern(*second)
    assert (one == other) == (one.text == other.text)
    assert (one == other) == (
        first[0] == second[0] and [row for row in first[1] if any(row)] == [row for row in second[1] if any(row)]
    )


@given(matrices(), st.data())
def test_every_spelling_has_one_canonical_text(matrix: tuple[int, Rows], data: st.DataObject) -> None:
    units, rows = matrix
    if not rows:
        return
    segments = []
    for row, run in groupby("".join("01"[bit] for bit in row) for row in rows):
        left = len(list(run))
        while left:
            count = data.draw(st.integers(1, left))
            segments.append(row if count == 1 and data.draw(st.booleans()) else f"{row}@{count}")
            left -= count
    spelled = LambdaPattern.parse("/".join(segments))
    assert spelled == LambdaPattern(units, rows)
    assert spelled.text == LambdaPattern(units, rows).text


@given(matrices(), st.data())
def test_rows_of_zeros_are_no_steps(matrix: tuple[int, Rows], data: st.DataObject) -> None:
    units, rows = matrix
    padded = list(rows)
    for _ in range(data.draw(st.integers(0, 3))):
        padded.insert(data.draw(st.integers(0, len(padded))), (False,) * units)
    pattern = LambdaPattern(units, tuple(padded))
    assert pattern == LambdaPattern(units, rows)
    assert pattern.steps == sum(any(row) for row in rows)
    assert all(any(row) for row in pattern.rows)


@given(matrices())
def test_everything_below_the_lowest_active_unit_is_frozen(matrix: tuple[int, Rows]) -> None:
    pattern = LambdaPattern(*matrix)
    active = {unit for row in matrix[1] for unit, bit in enumerate(row) if bit}
    assert pattern.lowest_active_unit == min(active, default=None)
    assert set(pattern.active_units) == active


@given(patterns, st.integers(0, 10))
def test_the_first_steps_are_a_prefix(pattern: LambdaPattern, steps: int) -> None:
    assert pattern.first_steps(steps).rows == pattern.rows[:steps]


def test_known_texts() -> None:
    assert LambdaPattern.parse("00111/00111").text == "00111@2"
    assert LambdaPattern.parse("00111@2/00010@1").text == "00111@2/00010"
    assert LambdaPattern.parse("000/010/000/010").text == "010@2"
    assert LambdaPattern.full(3, 2).text == "111@2"
    assert LambdaPattern.empty(4).text == "0000"
    assert LambdaPattern.parse("0000") == LambdaPattern.empty(4)
    assert LambdaPattern.empty(4).is_constant
    assert not LambdaPattern.parse("01/10").is_constant


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a row"),
        ("01/", "is not a row"),
        ("012", "is not a row"),
        ("01@0", "is not a row"),
        ("01@", "is not a row"),
        ("01@-1", "is not a row"),
        (" 01", "is not a row"),
        ("01\n", "is not a row"),
        ("٠١", "is not a row"),
        ("01/011", "rows have 2 and 3 units"),
        (f"01@{MAX_STEPS + 1}", "at most 64 steps"),
        ("/".join(["01"] * (MAX_STEPS + 1)), "at most 64 steps"),
        ("01@" + "9" * 5000, "at most 64 steps"),
        ("1" * (MAX_UNITS + 1), "1 to 512 units"),
    ],
)
def test_what_is_not_a_pattern(text: str, reason: str) -> None:
    with pytest.raises(InvalidPattern, match=reason):
        LambdaPattern.parse(text)


def test_a_pattern_of_another_network() -> None:
    with pytest.raises(InvalidPattern, match="it has 3 units, the network has 5"):
        LambdaPattern.parse("011", units=5)
    with pytest.raises(InvalidPattern, match="has 2 units, expected 3"):
        LambdaPattern(units=3, rows=((True, False),))


@given(st.integers(1, 5), st.integers(1, 5))
def test_the_constant_rows_are_all_there_once(units: int, max_steps: int) -> None:
    listed = list(constant_row_patterns(units, max_steps))
    assert len(listed) == len(set(listed)) == (2**units - 1) * max_steps
    assert all(pattern.is_constant and 1 <= pattern.steps <= max_steps for pattern in listed)
