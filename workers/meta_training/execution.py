"""How outer gradients are computed: how many tasks together, and in which runtime. Long trainings try what is fastest.

An execution never changes what is computed beyond rounding, so it is no part of a recipe.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from search_service.domain.errors import CompilationFailed
from search_service.domain.search import Runtime
from workers.adaptation.device import compiler
from workers.adaptation.model import TOGETHER

log = logging.getLogger(__name__)

WORTH_CHOOSING_S = 120.0
"""Seconds of training left below which whatever execution is at hand stays: trying others takes seconds."""
WORTH_COMPILING_S = 600.0
"""Seconds of training left, in the fastest eager execution, from which compiling is tried. Compiled outer gradients
took 0.6 to 0.8 of the eager time (conv4, one and five steps; 0.2 for a small MLP) and up to some minutes to compile."""
TOGETHER_ON_A_CPU = 8
"""Most tasks of one call that are tried on a CPU, beside what the model's kind asks for; more did not gain."""

NO_COMPILER = "there is no C++ compiler, or Python's headers are missing"


@dataclass(frozen=True, slots=True)
class Execution:
    """One way to compute the outer gradient of a batch of tasks."""

    tasks_at_once: int = 1
    """Tasks that one program call computes together (``torch.vmap``)."""
    runtime: Runtime = "eager"

    @property
    def text(self) -> str:
        """As JSON, for the metadata of a training state."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Execution:
        """The execution whose :attr:`text` this is."""
        return cls(**json.loads(text))

    def here(self, device: torch.device) -> Execution:
        """This execution, or the same tasks eagerly where ``device`` has no compiler."""
        if self.runtime == "eager" or compiler(device) is not None:
            return self
        log.warning("meta-training goes on eagerly: it was compiled before, and here %s", NO_COMPILER)
        return Execution(self.tasks_at_once)


def eager_options(usual: Execution, meta_batch: int, lanes: int, device: torch.device) -> list[Execution]:
    """What is worth trying eagerly: the usual execution, and every lane's share of the tasks in one call.

    The first inner step of all tasks shares its parameters, so that tasks computed together share its forward pass.
    """
    most = TOGETHER_ON_A_CPU if device.type == "cpu" else max(TOGETHER, meta_batch)
    share = min(math.ceil(meta_batch / lanes), most)
    return list(dict.fromkeys([usual, Execution(share)]))


def choose(
    usual: Execution,
    options: Sequence[Execution],
    seconds_left: Callable[[Sequence[Execution]], Mapping[Execution, float]],
    device: torch.device,
) -> Execution:
    """The fastest of the eager ``options``, or ``usual`` compiled where that pays and is faster still.

    Compiling is offered on the CPU alone: a GPU's recordings keep their results in one place, and no figure says yet
    that outer gradients gain by them.

    Args:
        usual: the execution that trainings begin with.
        options: eager executions.
        seconds_left: measures side by side how long the rest of the training would take in each execution; may raise
            ``CompilationFailed``.
        device: where the training runs.
    """
    measured = seconds_left(options)
    fastest = min(measured, key=measured.__getitem__)
    if device.type == "cpu" and measured[fastest] >= WORTH_COMPILING_S:
        if compiler(device) is None:
            log.info("meta-training is not compiled: %s", NO_COMPILER)
        else:
            try:
                measured = seconds_left([fastest, Execution(usual.tasks_at_once, "compiled")])
            except CompilationFailed as error:
                log.warning("meta-training is not compiled: %s", error.reason)
            fastest = min(measured, key=measured.__getitem__)
    log.info(
        "meta-training goes on as %s; seconds left by execution: %s",
        fastest.text,
        {option.text: round(seconds) for option, seconds in measured.items()},
    )
    return fastest
