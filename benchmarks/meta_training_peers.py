"""The outer step of MAML as users of ``higher`` and of ``torchopt`` write it: the peers of our meta-training.

Each follows its library's own Omniglot example: the plain network with PyTorch's batch normalisation in training mode
(which is ``query`` statistics), inner steps of gradient descent that are differentiated through, Adam outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import higher
import numpy as np
import torch
import torchopt
from torch import Tensor, nn

from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.search import NetworkSpec, Runtime, TaskFamily
from workers.adaptation.device import compiler
from workers.adaptation.episodes import Episodes, open_task_family
from workers.adaptation.inner_loop import Adaptation
from workers.adaptation.model import adaptation_for, batch_tensors
from workers.adaptation.networks import build_network
from workers.adaptation.plain import plain_network
from workers.adaptation.timing import Subject, interleave, median_ratio
from workers.meta_training.execution import Execution
from workers.meta_training.maml import OuterGradient

Tasks = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support x and y, query x and y of T tasks: ``T x N x ...``-dim tensors and so on."""
Gradient = Callable[[Tasks], Mapping[str, Tensor]]
"""The outer gradient, second order, averaged over tasks, by the names of the network's parameters."""

CPU = torch.device("cpu")
FILTERS = 64
SMALL_FILTERS = 8
"""Of the network on which gradients are compared."""
TASKS_PER_STEP = 8
BATCHES = 4
"""Batches of tasks that the rounds go through in turn."""


@contextmanager
def _gradient_of(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within it, backward passes accumulate; afterwards the yielded dictionary holds what they came to."""
    parameters = dict(network.named_parameters())
    network.zero_grad()
    gradient: dict[str, Tensor] = {}
    yield gradient
    gradient.update((name, parameter.grad) for name, parameter in parameters.items() if parameter.grad is not None)


def ours(adaptation: Adaptation, steps: int, execution: Execution) -> tuple[Gradient, list[Tensor]]:
    """Our outer gradient on one lane, and the parameters that it is of."""
    full = LambdaPattern.full(len(adaptation.units), steps)
    outer_gradient = OuterGradient(adaptation, full, execution=execution)
    parameters = {name: parameter.clone() for name, parameter in adaptation.parameters().items()}
    return lambda tasks: outer_gradient(parameters, *tasks)[0], list(parameters.values())


def with_higher(adaptation: Adaptation, steps: int) -> tuple[Gradient, list[Tensor]]:
    """The outer gradient by ``higher.innerloop_ctx``, and the parameters that it is of."""
    network = plain_network(adaptation.network).train()
    inner = torch.optim.SGD(network.parameters(), lr=adaptation.rate)

    def gradient(tasks: Tasks) -> Mapping[str, Tensor]:
        with _gradient_of(network) as mean:
            for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
                with higher.innerloop_ctx(network, inner, copy_initial_weights=False, track_higher_grads=True) as (
                    adapted,
                    optimizer,
                ):
                    for _ in range(steps):
                        optimizer.step(adaptation.loss(adapted(support_x), support_y))
                    (adaptation.loss(adapted(query_x), query_y) / len(tasks[0])).backward()  # type: ignore[no-untyped-call]
        return mean

    return gradient, list(network.parameters())


def with_torchopt(adaptation: Adaptation, steps: int) -> tuple[Gradient, list[Tensor]]:
    """The outer gradient by ``torchopt.MetaSGD``, and the parameters that it is of."""
    network = plain_network(adaptation.network).train()
    inner = torchopt.MetaSGD(network, lr=adaptation.rate)

    def gradient(tasks: Tasks) -> Mapping[str, Tensor]:
        with _gradient_of(network) as mean:
            initial = torchopt.extract_state_dict(network, by="reference", detach_buffers=True)
            initial_inner = torchopt.extract_state_dict(inner, by="reference")
            losses = []
            for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
                for _ in range(steps):
                    inner.step(adaptation.loss(network(support_x), support_y))
                losses.append(adaptation.loss(network(query_x), query_y))
                torchopt.recover_state_dict(network, initial)
                torchopt.recover_state_dict(inner, initial_inner)
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        return mean

    return gradient, list(network.parameters())


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What both sides are asked to do."""

    name: str
    pooling: Literal["max", "stride"]
    steps: int
    rate: float


def compare(setting: Setting, limit_s: float) -> dict[str, Any]:
    """One outer step of each side, interleaved: steps per second, ratios, and how far the gradients are apart.

    Args:
        setting: network and inner loop.
        limit_s: seconds after which no new round starts.
    """
    tasks = TaskFamily(family="glyphs", ways=5, shots=1, queries=1)
    episodes = open_task_family(tasks, None)
    batches = [
        batch_tensors(episodes.draw(Split.TRAIN, 0, number * TASKS_PER_STEP, TASKS_PER_STEP), CPU)
        for number in range(BATCHES)
    ]
    adaptation = _adaptation(setting, tasks, episodes.input_shape, FILTERS)
    runtimes: tuple[Runtime, ...] = ("eager",) if compiler(CPU) is None else ("compiled", "eager")
    sides = {f"ours, {runtime}": ours(adaptation, setting.steps, Execution(1, runtime)) for runtime in runtimes}
    sides["higher"] = with_higher(adaptation, setting.steps)
    sides["torchopt"] = with_torchopt(adaptation, setting.steps)
    subjects = {name: _outer_step(gradient, parameters, batches) for name, (gradient, parameters) in sides.items()}
    reference = next(iter(sides))
    timing = interleave(subjects, reference, limit_s)
    medians = {name: float(np.median(samples)) for name, samples in timing.samples_s.items()}
    fastest_peer = min(("higher", "torchopt"), key=medians.__getitem__)
    ratios = {name: median_ratio(timing.samples_s[fastest_peer], timing.samples_s[name]) for name in sides}
    return {
        "setting": setting.name,
        "steps_per_second": {name: 1 / median for name, median in medians.items()},
        "faster_than_fastest_peer": {name: asdict(ratio) for name, ratio in ratios.items() if name.startswith("ours")},
        "fastest_peer": fastest_peer,
        "gradient_difference": _gradient_difference(setting, tasks, episodes),
        "rounds": timing.rounds,
        "ended": timing.ended,
        "disturbed": timing.disturbed,
    }


def _outer_step(gradient: Gradient, parameters: list[Tensor], batches: list[Tasks]) -> Subject:
    """Gradient and Adam's step, on batches in turn."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step(number: int) -> None:
        for parameter, value in zip(parameters, gradient(batches[number % len(batches)]).values(), strict=True):
            parameter.grad = value
        optimizer.step()

    return step


def _gradient_difference(setting: Setting, tasks: TaskFamily, episodes: Episodes) -> float:
    """Largest difference between our gradient and a peer's in float64, as a fraction of the largest entry of ours."""
    adaptation = _adaptation(setting, tasks, episodes.input_shape, SMALL_FILTERS)
    adaptation = replace(adaptation, network=adaptation.network.double())
    support_x, support_y, query_x, query_y = batch_tensors(episodes.draw(Split.TRAIN, 0, 0, 2), CPU)
    batch = (support_x.double(), support_y, query_x.double(), query_y)
    own = ours(adaptation, setting.steps, Execution())[0](batch)
    largest = max(float(value.abs().max()) for value in own.values())
    peers = [side(adaptation, setting.steps)[0](batch) for side in (with_higher, with_torchopt)]
    return max(float((peer[name] - own[name]).abs().max()) for peer in peers for name in own) / largest


def _adaptation(setting: Setting, tasks: TaskFamily, input_shape: tuple[int, ...], filters: int) -> Adaptation:
    spec = NetworkSpec(network="conv4", filters=filters, pooling=setting.pooling)
    network = build_network(spec, input_shape, tasks.outputs, seed=0)
    return adaptation_for(network, tasks, setting.rate, norm_statistics="query")
