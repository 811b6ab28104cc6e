"""Interleaved timing on a clock of the test's own, and ratios on made-up samples."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest

from workers.adaptation.timing import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    MIN_SAMPLE_S,
    RETRIES,
    ROUNDS_BETWEEN_LOOKS,
    WARM_UP_ROUNDS,
    Clock,
    interleave,
    median_ratio,
)


class Machine(Clock):
    """A clock that only its subjects move, and a diary of what ran."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.stolen_s = 0.0
        self.runs: list[tuple[str, int]] = []

    def wall(self) -> float:
        return self.now_s

    def computed(self) -> float:
        return self.now_s - self.stolen_s

    def subject(self, name: str, seconds: Callable[[int], float]) -> Callable[[int], None]:
        def run(number: int) -> None:
            self.runs.append((name, number))
            self.now_s += seconds(len(self.runs))

        return run

    def subjects(self, **seconds: Callable[[int], float]) -> dict[str, Callable[[int], None]]:
        return {name: self.subject(name, function) for name, function in seconds.items()}


def steady(seconds: float) -> Callable[[int], float]:
    return lambda _: seconds


def noisy(seconds: float, spread: float, seed: int) -> Callable[[int], float]:
    generator = np.random.default_rng(seed)
    return lambda _: float(seconds * np.exp(spread * generator.standard_normal()))


def test_steady_subjects_need_the_fewest_rounds() -> None:
    machine = Machine()
    subjects = machine.subjects(full=steady(0.4), late=steady(0.1))
    result = interleave(subjects, "full", limit_s=1e9, clock=machine)
    assert result.tight
    assert result.rounds == MIN_ROUNDS
    assert len(machine.runs) == 2 * (WARM_UP_ROUNDS + MIN_ROUNDS)
    np.testing.assert_allclose(result.samples_s["full"], 0.4, rtol=1e-9)
    np.testing.assert_allclose(result.samples_s["late"], 0.1, rtol=1e-9)


def test_every_round_runs_each_subject_once_on_its_own_number_in_an_order_of_its_own() -> None:
    machine = Machine()
    names = ["a", "b", "c"]
    subjects = machine.subjects(a=noisy(1, 0.5, 0), b=noisy(2, 0.5, 1), c=noisy(3, 0.5, 2))
    result = interleave(subjects, "a", limit_s=1e9, clock=machine)
    timed = machine.runs[len(names) * WARM_UP_ROUNDS :]
    rounds = [timed[start : start + 3] for start in range(0, len(timed), 3)]
    assert len(rounds) == result.rounds
    followed: Counter[tuple[str, str]] = Counter()
    for number, entries in enumerate(rounds):
        assert [entry[1] for entry in entries] == [number] * 3
        assert sorted(entry[0] for entry in entries) == names
        followed.update((before[0], after[0]) for before, after in pairwise(entries))
    assert len(followed) == 6  # nobody is always behind the same one
    assert max(followed.values()) < 2 * min(followed.values())


def test_noise_asks_for_more_rounds_but_not_for_ever() -> None:
    quiet, loud, hopeless = (
        interleave(machine.subjects(full=noisy(1, spread, 0), late=noisy(0.1, spread, 1)), "full", 1e9, clock=machine)
        for machine, spread in ((Machine(), 0.01), (Machine(), 0.07), (Machine(), 2.0))
    )
    assert quiet.tight
    assert loud.tight
    assert not hopeless.tight
    assert MIN_ROUNDS == quiet.rounds < loud.rounds < hopeless.rounds == MAX_ROUNDS
    assert loud.rounds % ROUNDS_BETWEEN_LOOKS == 0


def test_one_loud_subject_keeps_all_running() -> None:
    machine = Machine()
    subjects = machine.subjects(full=steady(1), still=steady(0.5), loud=noisy(0.1, 0.3, 0))
    assert interleave(subjects, "full", 1e9, clock=machine).rounds > MIN_ROUNDS


@pytest.mark.parametrize("limit_s", [0.001, 23.0, 30.0])
def test_no_round_starts_after_the_limit_save_the_first(limit_s: float) -> None:
    machine = Machine()
    subjects = machine.subjects(full=noisy(0.5, 2.0, 0), late=noisy(0.2, 2.0, 1))
    starts: list[float] = []

    def started(_: float) -> None:
        starts.append(machine.now_s)

    result = interleave(subjects, "full", limit_s, started, machine)
    assert MIN_ROUNDS <= result.rounds < MAX_ROUNDS
    late = [number for number, at in enumerate(starts) if at - starts[0] > limit_s]
    assert all(number < MIN_ROUNDS for number in late)


def test_pause_sees_the_share_of_the_limit_and_may_stop() -> None:
    machine = Machine()
    shares: list[float] = []
    subjects = machine.subjects(full=steady(1.0), late=steady(1.0))
    interleave(subjects, "full", 10.0, shares.append, machine)
    assert shares == pytest.approx([min(1.0, 0.2 * number) for number in range(len(shares))])

    def stop(_: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        interleave(subjects, "full", 10.0, stop, machine)


def test_short_calls_are_repeated_until_the_clock_can_tell_and_reported_each() -> None:
    machine = Machine()
    call_s = MIN_SAMPLE_S / 10
    result = interleave(machine.subjects(long=steady(1.0), short=steady(call_s)), "long", 1e9, clock=machine)
    np.testing.assert_allclose(result.samples_s["short"], call_s, rtol=1e-6)
    names = Counter(name for name, _ in machine.runs)
    assert names["long"] == WARM_UP_ROUNDS + MIN_ROUNDS
    assert names["short"] == pytest.approx(WARM_UP_ROUNDS + 10 * MIN_ROUNDS, abs=MIN_ROUNDS)


def test_a_sample_without_its_processor_is_taken_again() -> None:
    machine = Machine()

    def robbed(number: int) -> None:
        """Every fifth call loses its processor for a while."""
        machine.runs.append(("robbed", number))
        stolen = 3.0 if len(machine.runs) % 5 == 0 else 0.0
        machine.now_s += 1.0 + stolen
        machine.stolen_s += stolen

    result = interleave({"robbed": robbed}, "robbed", limit_s=1e9, clock=machine)
    np.testing.assert_allclose(result.samples_s["robbed"], 1.0)
    assert result.repeated > 0
    assert result.disturbed == 0


def test_a_sample_that_is_always_robbed_is_kept_and_counted() -> None:
    machine = Machine()

    def robbed(_: int) -> None:
        machine.now_s += 2.0
        machine.stolen_s += 1.0

    result = interleave({"robbed": robbed}, "robbed", limit_s=1e9, clock=machine)
    assert result.disturbed == result.rounds
    assert result.repeated == RETRIES * result.rounds


def test_a_run_says_why_it_ended() -> None:
    def run(spread: float, limit_s: float) -> str:
        machine = Machine()
        subjects = machine.subjects(full=noisy(1, spread, 0), late=noisy(0.1, spread, 1))
        return interleave(subjects, "full", limit_s, clock=machine).ended

    assert (run(0.001, 1e9), run(2.0, 5.0), run(2.0, 1e9)) == ("tight", "time limit", "round limit")


def test_the_load_is_read_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = itertools.count(1.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    machine = Machine()
    result = interleave(machine.subjects(full=steady(1)), "full", 1.0, clock=machine)
    assert (result.load_before, result.load_after) == (1.0, 2.0)


def test_the_reference_against_itself_is_exactly_one() -> None:
    samples = np.random.default_rng(0).lognormal(size=50)
    ratio = median_ratio(samples, samples)
    assert (ratio.estimate, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


def test_a_ratio_is_of_medians_and_scales() -> None:
    slow, fast = np.array([8.0, 1.0, 6.0, 100.0, 5.0]), np.array([2.0, 2.5, 1.0, 3.0, 0.1])
    ratio = median_ratio(slow, fast)
    assert ratio.estimate == 6.0 / 2.0
    assert ratio.low <= ratio.estimate <= ratio.high
    doubled = median_ratio(2 * slow, fast)
    assert (doubled.estimate, doubled.low, doubled.high) == (2 * ratio.estimate, 2 * ratio.low, 2 * ratio.high)
    assert median_ratio(slow, fast) == ratio  # seeded


def drifting(rounds: int, truth: float, seed: int) -> Mapping[str, np.ndarray]:
    """Two subjects on a machine whose speed drifts by 50 % and that is disturbed now and then."""
    generator = np.random.default_rng(seed)
    drift = 1 + 0.5 * np.sin(np.arange(rounds) / 15 + generator.uniform(0, 6))
    disturbed = np.where(generator.random((2, rounds)) < 0.05, 5.0, 1.0)
    noise = np.exp(0.05 * generator.standard_normal((2, rounds)))
    return {"slow": truth * drift * noise[0] * disturbed[0], "fast": drift * noise[1] * disturbed[1]}


def test_the_interval_holds_the_truth() -> None:
    truth, held = 8.0, 0
    trials = 120
    for seed in range(trials):
        samples = drifting(60, truth, seed)
        ratio = median_ratio(samples["slow"], samples["fast"], seed)
        held += ratio.low <= truth <= ratio.high
    assert held >= 0.88 * trials
