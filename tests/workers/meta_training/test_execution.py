"""Which execution a training goes on in: the fastest of those tried, and what is not offered is not tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from search_service.domain.errors import CompilationFailed
from workers.meta_training import execution as execution_module
from workers.meta_training.execution import WORTH_COMPILING_S, Execution, choose, eager_options

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ONE, FOUR = Execution(1), Execution(4)
COMPILED = Execution(1, "compiled")
LONG = WORTH_COMPILING_S + 1


@pytest.fixture(autouse=True)
def with_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "compiler", lambda device: "g++ 12")


Measure = Callable[[Sequence[Execution]], dict[Execution, float]]


def measuring(seconds: dict[Execution, float]) -> tuple[Measure, list[list[Execution]]]:
    tried: list[list[Execution]] = []

    def seconds_left(executions: Sequence[Execution]) -> dict[Execution, float]:
        tried.append(list(executions))
        return {execution: seconds[execution] for execution in executions}

    return seconds_left, tried


@pytest.mark.parametrize(
    ("seconds", "device", "chosen", "tried"),
    [
        ({ONE: 20.0, FOUR: 10.0}, CPU, FOUR, [[ONE, FOUR]]),  # too short to compile
        ({ONE: LONG, FOUR: 10.0}, CPU, FOUR, [[ONE, FOUR]]),
        ({ONE: 2 * LONG, FOUR: LONG, COMPILED: 1.0}, CPU, COMPILED, [[ONE, FOUR], [FOUR, COMPILED]]),
        ({ONE: LONG, FOUR: 2 * LONG, COMPILED: 3 * LONG}, CPU, ONE, [[ONE, FOUR], [ONE, COMPILED]]),
        ({ONE: LONG, FOUR: 2 * LONG}, GPU, ONE, [[ONE, FOUR]]),
    ],
)
def test_the_fastest_of_what_pays_is_chosen(
    seconds: dict[Execution, float], device: torch.device, chosen: Execution, tried: list[list[Execution]]
) -> None:
    seconds_left, measured = measuring(seconds)
    assert choose(ONE, [ONE, FOUR], seconds_left, device) == chosen
    assert measured == tried


def test_a_compiler_that_fails_leaves_the_fastest_eager_execution(caplog: pytest.LogCaptureFixture) -> None:
    def seconds_left(executions: Sequence[Execution]) -> dict[Execution, float]:
        if COMPILED in executions:
            raise CompilationFailed("a bug of its own")
        return {execution: LONG * execution.tasks_at_once for execution in executions}

    assert choose(ONE, [ONE, FOUR], seconds_left, CPU) == ONE
    assert "a bug of its own" in caplog.text


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_module, "compiler", lambda device: None)
    seconds_left, tried = measuring({ONE: LONG})
    assert choose(ONE, [ONE], seconds_left, CPU) == ONE
    assert tried == [[ONE]]
    assert COMPILED.here(CPU) == ONE
    assert FOUR.here(CPU) == FOUR


def test_with_a_compiler_an_execution_stays_what_it_is() -> None:
    assert COMPILED.here(CPU) == COMPILED


@pytest.mark.parametrize(
    ("usual", "meta_batch", "lanes", "device", "options"),
    [
        (ONE, 4, 2, CPU, [1, 2]),
        (ONE, 1, 2, CPU, [1]),
        (ONE, 32, 2, CPU, [1, 8]),
        (Execution(25), 4, 2, CPU, [25, 2]),
        (Execution(25), 32, 1, GPU, [25, 32]),
    ],
)
def test_every_lanes_share_of_the_tasks_is_worth_trying(
    usual: Execution, meta_batch: int, lanes: int, device: torch.device, options: list[int]
) -> None:
    assert eager_options(usual, meta_batch, lanes, device) == [Execution(tasks) for tasks in options]


@pytest.mark.parametrize("execution", [ONE, FOUR, COMPILED])
def test_an_execution_survives_its_text(execution: Execution) -> None:
    assert Execution.parse(execution.text) == execution
