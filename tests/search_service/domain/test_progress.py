"""How far a search is: a guess that keeps some promises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search_service.domain.progress import USUAL_S, outlook
from search_service.domain.search import Phase

SECONDS = st.floats(0, 1e5)
SHARES = st.floats(0, 1)


@given(phase=st.sampled_from(Phase), share=SHARES, seconds=SECONDS, done=SECONDS)
def test_it_is_a_share_and_seconds(phase: Phase, share: float, seconds: float, done: float) -> None:
    ahead = outlook(phase, share, seconds, {"baseline": done}, is_over=False)
    assert 0 <= ahead.share < 1
    assert ahead.left_s is not None
    assert ahead.left_s >= 0


@given(phase=st.sampled_from(Phase), seconds=st.floats(1, 1e4), shares=st.tuples(SHARES, SHARES))
def test_more_done_in_the_same_time_leaves_less(phase: Phase, seconds: float, shares: tuple[float, float]) -> None:
    less, more = (outlook(phase, share, seconds, {}, is_over=False).left_s for share in sorted(shares))
    assert less is not None
    assert more is not None
    if min(shares) > 0.01:
        assert more <= less


def test_the_last_phase_half_done_takes_as_long_again() -> None:
    last = list(USUAL_S)[-1]
    ahead = outlook(last, 0.5, 30.0, {"search": 40.0}, is_over=False)
    assert ahead.left_s == 30.0
    assert ahead.share == 0.7


def test_a_slower_device_takes_longer_for_what_comes() -> None:
    usual, slow = (
        outlook(Phase.SEARCH, 0.0, 0.0, {"meta_training": 50.0, "baseline": 8.0 * times}, is_over=False)
        for times in (1.0, 5.0)
    )
    assert usual.left_s is not None
    assert slow.left_s == 5 * usual.left_s


def test_before_it_runs_and_after_the_end() -> None:
    assert outlook(None, 0.0, 0.0, {}, is_over=False).left_s is None
    assert outlook(Phase.SEARCH, 0.2, 3.0, {}, is_over=True).share == 1.0
