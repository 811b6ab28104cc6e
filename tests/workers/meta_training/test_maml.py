"""The outer gradient against MAML written out here by hand, against finite differences, and in its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.device import compiler
from workers.adaptation.inner_loop import Adaptation, NormStatistics, classification_loss, regression_loss
from workers.adaptation.lanes import Lanes
from workers.adaptation.networks import MLP, Conv4
from workers.meta_training.execution import Execution
from workers.meta_training.maml import OuterGradient

TASKS = 3
RATE = 0.3
EPS = 1e-5
Parameters = dict[str, Tensor]
Network = Callable[[Parameters, Tensor, list[tuple[Tensor, Tensor]] | None], tuple[Tensor, list[tuple[Tensor, Tensor]]]]


def mlp_by_hand(
    parameters: Parameters, x: Tensor, given: list[tuple[Tensor, Tensor]] | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    for layer in ("layer1.linear", "layer2.linear"):
        x = (x @ parameters[f"{layer}.weight"].T + parameters[f"{layer}.bias"]).clamp(min=0)
    return x @ parameters["head.weight"].T + parameters["head.bias"], []


def conv4_by_hand(
    parameters: Parameters, x: Tensor, given: list[tuple[Tensor, Tensor]] | None
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    used = []
    for block in range(4):
        name = f"conv{block + 1}"
        x = torch.conv2d(
            x, parameters[f"{name}.convolution.weight"], parameters[f"{name}.convolution.bias"], stride=2, padding=1
        )
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
        used.append((mean, variance))
        if given is not None:
            mean, variance = given[block]
        x = (x - mean) / (variance + EPS).sqrt()
        x = x * parameters[f"{name}.norm.weight"][:, None, None] + parameters[f"{name}.norm.bias"][:, None, None]
        x = x.clamp(min=0)
    return x.mean((2, 3)) @ parameters["head.weight"].T + parameters["head.bias"], used


def by_hand(
    network: Network,
    loss: Callable[[Tensor, Tensor], Tensor],
    parameters: Parameters,
    pattern: LambdaPattern,
    units: list[tuple[str, ...]],
    task: tuple[Tensor, ...],
    norm_statistics: NormStatistics,
    second_order: bool,
) -> tuple[Parameters, float]:
    """Finn et al., algorithm 1, by torch.autograd: gradient of the query loss by the initial parameters."""
    x, y, qx, qy = task
    initial = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    moving = initial
    for row in pattern.rows:
        names = [name for active, names in zip(row, units, strict=True) if active for name in names]
        inner = loss(network(moving, x, None)[0], y)
        gradients = torch.autograd.grad(inner, [moving[name] for name in names], create_graph=second_order)
        moving = moving | {
            name: moving[name] - RATE * (gradient if second_order else gradient.detach())
            for name, gradient in zip(names, gradients, strict=True)
        }
    support = network(moving, x, None)[1] if norm_statistics == "support" else None
    outer = loss(network(moving, qx, support)[0], qy)
    gradients = torch.autograd.grad(outer, list(initial.values()))
    return dict(zip(initial, gradients, strict=True)), float(outer.detach())


def problem(kind: str, norm_statistics: NormStatistics, order: str) -> tuple[Adaptation, Network, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network: nn.Module = MLP((1,), 1, (5, 4)) if kind == "mlp" else Conv4((1, 16, 16), 3, 4, "stride")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    loss = regression_loss if kind == "mlp" else classification_loss
    adaptation = Adaptation.of(network.double(), loss, RATE, norm_statistics, create_graph=order == "second")
    shape = (1,) if kind == "mlp" else (1, 16, 16)
    x, qx = (torch.randn(TASKS, n, *shape, generator=generator, dtype=torch.float64) for n in (3, 6))
    if kind == "mlp":
        return adaptation, mlp_by_hand, (x, torch.sin(2 * x), qx, torch.sin(2 * qx))
    labels = torch.arange(3).repeat(TASKS, 1)
    return adaptation, conv4_by_hand, (x, labels, qx, labels.repeat(1, 2))


@pytest.mark.parametrize("pattern", ["full@2", "late", "empty"])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize(("kind", "norm_statistics"), [("mlp", "support"), ("conv4", "support"), ("conv4", "query")])
def test_outer_gradient_is_maml_averaged_over_tasks(
    kind: str, norm_statistics: NormStatistics, order: str, pattern: str
) -> None:
    adaptation, network, tasks = problem(kind, norm_statistics, order)
    units = len(adaptation.units)
    adapted = {
        "full@2": LambdaPattern.full(units, 2),
        "late": LambdaPattern.constant([index >= units - 2 for index in range(units)], 2),
        "empty": LambdaPattern.empty(units),
    }[pattern]
    parameters = adaptation.parameters()
    before = {name: value.clone() for name, value in parameters.items()}
    gradient, loss = OuterGradient(adaptation, adapted)(parameters, *tasks)

    hand = [
        by_hand(
            network,
            adaptation.loss,
            parameters,
            adapted,
            list(adaptation.units.values()),
            task,
            norm_statistics,
            order == "second",
        )
        for task in zip(*tasks, strict=True)
    ]
    assert loss == pytest.approx(sum(value for _, value in hand) / TASKS, rel=1e-10)
    assert gradient.keys() == parameters.keys()
    for name in parameters:
        expected = sum((each[name] for each, _ in hand), torch.zeros_like(parameters[name])) / TASKS
        torch.testing.assert_close(gradient[name], expected, rtol=1e-9, atol=1e-10)
        assert torch.equal(parameters[name], before[name])


@pytest.mark.parametrize("weighted", [False, True])
def test_a_factor_scales_the_rate_of_its_step(weighted: bool) -> None:
    adaptation, _, tasks = problem("mlp", "support", "second")
    faster = replace(adaptation, rate=3 * adaptation.rate)
    late = LambdaPattern.parse("001/110")  # rows whose order matters
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64) if weighted else None

    def gradient(adaptation: Adaptation, factors: tuple[float, ...]) -> Tensor:
        outer = OuterGradient(adaptation, late, factors=factors)
        return outer(adaptation.parameters(), *tasks, weights)[0]["head.weight"]

    torch.testing.assert_close(gradient(adaptation, (3.0, 3.0)), gradient(faster, ()))
    assert not torch.allclose(gradient(adaptation, (1.0, 3.0)), gradient(adaptation, (3.0, 1.0)))


def test_orders_differ_where_there_is_a_step_to_differentiate_through() -> None:
    gradients = {}
    for order in ("first", "second"):
        adaptation, _, tasks = problem("mlp", "support", order)
        gradients[order], _ = OuterGradient(adaptation, LambdaPattern.full(3, 2))(adaptation.parameters(), *tasks)
    assert float((gradients["first"]["head.weight"] - gradients["second"]["head.weight"]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["mlp", "conv4"])
def test_second_order_is_the_slope_of_the_outer_loss(kind: str) -> None:
    adaptation, _, tasks = problem(kind, "support", "second")
    outer = OuterGradient(adaptation, LambdaPattern.full(len(adaptation.units), 2))
    parameters = adaptation.parameters()
    gradient, _ = outer(parameters, *tasks)
    generator = torch.Generator().manual_seed(9)
    step = 1e-7
    for _ in range(5):
        direction = {
            name: torch.randn(value.shape, generator=generator, dtype=value.dtype) for name, value in parameters.items()
        }
        above, below = (
            outer({name: value + sign * step * direction[name] for name, value in parameters.items()}, *tasks)[1]
            for sign in (1, -1)
        )
        slope = float(sum((gradient[name] * direction[name]).sum() for name in parameters))
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-4, abs=1e-6)


class Branches(nn.Module):
    """Two parallel layers: their gradients are one and the same expression, and so one tensor in a traced program."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 3)
        self.right = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(self.left(x), self.right(x))


def test_parameters_with_equal_gradients_are_averaged_each_on_their_own() -> None:
    adaptation = Adaptation.of(Branches().double(), classification_loss, RATE)
    outer = OuterGradient(adaptation, LambdaPattern.full(2, 1))
    x = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(3).repeat(4, 1)
    parameters = adaptation.parameters()
    gradient, _ = outer(parameters, x, y, x, y)
    single = [outer.one_task(parameters, *task)[0] for task in zip(x, y, x, y, strict=True)]
    for name in parameters:
        expected = torch.stack([each[name] for each in single]).mean(0)
        torch.testing.assert_close(gradient[name], expected, rtol=1e-10, atol=1e-10)


def test_one_program_serves_all_tasks_of_a_shape() -> None:
    adaptation, _, tasks = problem("mlp", "support", "second")
    outer = OuterGradient(adaptation, LambdaPattern.full(3, 1))
    outer(adaptation.parameters(), *tasks)
    outer(adaptation.parameters(), *tasks)
    assert len(outer._programs) == 1
    outer(adaptation.parameters(), *(tensor[:, :2] for tensor in tasks))
    assert len(outer._programs) == 2


def test_no_tasks_are_refused() -> None:
    adaptation, _, tasks = problem("mlp", "support", "first")
    with pytest.raises(ValueError, match="at least one task"):
        OuterGradient(adaptation, LambdaPattern.full(3, 1))(adaptation.parameters(), *(t[:0] for t in tasks))


@pytest.mark.parametrize(("lanes", "tasks_at_once"), [(2, 1), (1, 3), (2, 2)])
def test_neither_lanes_nor_batching_change_the_gradient(lanes: int, tasks_at_once: int) -> None:
    torch.manual_seed(0)
    network = MLP((1,), 1, (6,)).double()
    adaptation = Adaptation.of(network, regression_loss, 0.05)
    tasks = [torch.randn(5, examples, 1, dtype=torch.float64) for examples in (4, 4, 7, 7)]
    full = LambdaPattern.full(2, 2)
    one_by_one, loss = OuterGradient(adaptation, full)(adaptation.parameters(), *tasks)
    together = OuterGradient(adaptation, full, Lanes(lanes), Execution(tasks_at_once))
    gradient, same_loss = together(adaptation.parameters(), *tasks)
    assert same_loss == pytest.approx(loss, rel=1e-12)
    for name, value in one_by_one.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "order"), [("mlp", "second"), ("conv4", "first")])
def test_the_loss_of_every_step_is_the_weighted_sum_of_the_losses_of_shorter_adaptations(kind: str, order: str) -> None:
    adaptation, _, tasks = problem(kind, "support", order)
    weights = torch.tensor([0.1, 0.7, 0.2], dtype=torch.float64)
    units, parameters = len(adaptation.units), adaptation.parameters()
    every, every_loss = OuterGradient(adaptation, LambdaPattern.full(units, 3))(parameters, *tasks, weights)
    by_steps = [OuterGradient(adaptation, LambdaPattern.full(units, steps))(parameters, *tasks) for steps in (1, 2, 3)]
    assert every_loss == pytest.approx(
        sum(float(weight) * loss for weight, (_, loss) in zip(weights, by_steps, strict=True)), rel=1e-10
    )
    for name in parameters:
        expected = sum(
            (weight * gradient[name] for weight, (gradient, _) in zip(weights, by_steps, strict=True)),
            torch.zeros_like(parameters[name]),
        )
        torch.testing.assert_close(every[name], expected, rtol=1e-9, atol=1e-10)


def test_weights_are_data() -> None:
    adaptation, _, tasks = problem("mlp", "support", "second")
    outer = OuterGradient(adaptation, LambdaPattern.full(3, 2), execution=Execution(2))
    parameters = adaptation.parameters()
    losses = [
        outer(parameters, *(tensor[:2] for tensor in tasks), torch.tensor(weights, dtype=torch.float64))[1]
        for weights in ([1.0, 0.0], [0.0, 1.0], [0.5, 0.5])
    ]
    assert len(outer._programs) == 1
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2)
    assert losses[0] != pytest.approx(losses[1])


def test_a_weight_for_every_step_is_asked_for() -> None:
    adaptation, _, tasks = problem("mlp", "support", "second")
    outer = OuterGradient(adaptation, LambdaPattern.full(3, 2))
    with pytest.raises(ValueError, match=r"weights of shape \(3,\) for 2 inner steps"):
        outer(adaptation.parameters(), *tasks, torch.ones(3))


@pytest.mark.skipif(compiler(torch.device("cpu")) is None, reason="no C++ compiler")
def test_compiling_does_not_change_the_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    adaptation = Adaptation.of(MLP((2,), 1, ()).double(), regression_loss, 0.05)
    tasks = [
        torch.randn(7, examples, width, dtype=torch.float64) for examples, width in ((4, 2), (4, 1), (7, 2), (7, 1))
    ]
    eager, loss = OuterGradient(adaptation, LambdaPattern.full(1, 1))(adaptation.parameters(), *tasks)
    compiled = OuterGradient(adaptation, LambdaPattern.full(1, 1), Lanes(2), Execution(1, "compiled"))
    for _ in range(3):  # one program in both lanes at once
        gradient, same_loss = compiled(adaptation.parameters(), *tasks)
        assert same_loss == pytest.approx(loss, rel=1e-12)
        for name, value in eager.items():
            torch.testing.assert_close(gradient[name], value, rtol=1e-10, atol=1e-12)
