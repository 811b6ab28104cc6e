"""Identities of adaptation, against plain MAML written out here by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import (
    Adaptation,
    NormStatistics,
    Parameters,
    adapt,
    inner_step,
    predict,
)
from workers.adaptation.plain import AnyBatchNorm, adapt_plain, adapt_skipping, plain_network

Make = Callable[..., Adaptation]
MakeEpisodes = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
HandStatistics = list[tuple[Tensor, Tensor]]

KINDS = ("max", "stride", "mlp", "regression")
STATISTICS = ("support", "query")
UNITS = {"max": 5, "stride": 5, "mlp": 3, "regression": 3}
EPS = 1e-5


def by_hand(
    kind: str, parameters: Parameters, x: Tensor, given: HandStatistics | None = None
) -> tuple[Tensor, HandStatistics]:
    """Outputs of the network and the (mean, variance) of every normalisation, in elementary operations."""
    if kind in ("mlp", "regression"):
        for layer in ("layer1.linear", "layer2.linear"):
            x = (x @ parameters[f"{layer}.weight"].T + parameters[f"{layer}.bias"]).clamp(min=0)
        return x @ parameters["head.weight"].T + parameters["head.bias"], []
    used: HandStatistics = []
    for block in range(4):
        name = f"conv{block + 1}"
        x = torch.conv2d(
            x,
            parameters[f"{name}.convolution.weight"],
            parameters[f"{name}.convolution.bias"],
            stride=1 if kind == "max" else 2,
            padding=1,
        )
        mean = x.mean((0, 2, 3))
        variance = (x - mean[:, None, None]).square().mean((0, 2, 3))
        if given is not None:
            mean, variance = given[block]
        used.append((mean, variance))
        x = (x - mean[:, None, None]) / (variance + EPS).sqrt()[:, None, None]
        x = x * parameters[f"{name}.norm.weight"][:, None, None] + parameters[f"{name}.norm.bias"][:, None, None]
        x = torch.where(x > 0, x, 0)
        if kind == "max":
            x = torch.nn.functional.max_pool2d(x, 2)
    x = x.flatten(1) if kind == "max" else x.mean((2, 3))
    return x @ parameters["head.weight"].T + parameters["head.bias"], used


def loss_by_hand(kind: str, outputs: Tensor, y: Tensor) -> Tensor:
    if kind == "regression":
        return (outputs - y).square().mean()
    return (outputs.logsumexp(1) - outputs[torch.arange(len(y)), y]).mean()


def maml_by_hand(kind: str, parameters: Parameters, rate: float, steps: int, x: Tensor, y: Tensor) -> Parameters:
    moving = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    for _ in range(steps):
        loss = loss_by_hand(kind, by_hand(kind, moving, x)[0], y)
        gradients = torch.autograd.grad(loss, list(moving.values()))
        moving = {
            name: (value - rate * gradient).detach().requires_grad_()
            for (name, value), gradient in zip(moving.items(), gradients, strict=True)
        }
    return {name: value.detach() for name, value in moving.items()}


def first(episodes: Sequence[Tensor]) -> list[Tensor]:
    return [tensor[0] for tensor in episodes]


def assert_close(left: Tensor, right: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def assert_same_parameters(left: Parameters, right: Parameters, tolerance: float = 1e-10) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=tolerance, atol=tolerance)


def patterns(units: int, max_steps: int = 3) -> st.SearchStrategy[LambdaPattern]:
    row = st.tuples(*[st.booleans()] * units).filter(any)
    return st.lists(row, min_size=1, max_size=max_steps).map(lambda rows: LambdaPattern(units=units, rows=tuple(rows)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm_statistics", STATISTICS)
@pytest.mark.parametrize("steps", [1, 3])
def test_full_pattern_is_plain_maml(
    kind: str, norm_statistics: str, steps: int, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, norm_statistics=norm_statistics)
    x, y, qx, _ = first(make_episodes(kind, 1))
    initial = adaptation.parameters()
    state = adapt(adaptation, initial, LambdaPattern.full(UNITS[kind], steps), x, y)

    expected = maml_by_hand(kind, initial, adaptation.rate, steps, x, y)
    assert_same_parameters(state.parameters, expected)
    assert max(float((expected[name] - initial[name]).abs().max()) for name in initial) > 1e-3  # it does adapt

    _, support = by_hand(kind, expected, x)
    if norm_statistics == "support":
        assert [*state.statistics] == [f"conv{block + 1}.norm" for block in range(len(support))]
        for (mean, inverse_std), (hand_mean, hand_variance) in zip(state.statistics.values(), support, strict=True):
            assert_close(mean, hand_mean)
            assert_close(inverse_std, (hand_variance + EPS).rsqrt())
        outputs, _ = by_hand(kind, expected, qx, support)
    else:
        assert state.statistics == {}
        outputs, _ = by_hand(kind, expected, qx)
    assert_close(predict(adaptation, state, qx), outputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm_statistics", STATISTICS)
def test_plain_pytorch_adapts_alike(
    kind: str, norm_statistics: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, norm_statistics=norm_statistics)
    x, y, qx, _ = first(make_episodes(kind, 1, shots=2))
    initial = {name: value.clone() for name, value in adaptation.parameters().items()}
    plain = plain_network(adaptation.network)
    adapted = adapt_plain(adaptation, plain, 3, x, y)
    state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(UNITS[kind], 3), x, y)
    assert_same_parameters({name: value.detach() for name, value in adapted.named_parameters()}, state.parameters)
    assert_same_parameters(adaptation.parameters(), initial, 0)  # the copies are copies
    assert_same_parameters({name: value.detach() for name, value in plain.named_parameters()}, initial, 0)

    if norm_statistics == "query":
        with torch.no_grad():
            assert_close(adapted(qx), predict(adaptation, state, qx))
        return
    sizes = _examples_per_statistic(adaptation, x)
    norms = {name: module for name, module in adapted.named_modules() if isinstance(module, AnyBatchNorm)}
    assert norms.keys() == state.statistics.keys()
    for name, norm in norms.items():
        mean, inverse_std = state.statistics[name]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        biased = norm.running_var * (sizes[name] - 1) / sizes[name]  # PyTorch keeps the unbiased variance
        assert_close(norm.running_mean, mean)
        assert_close((biased + norm.eps).rsqrt(), inverse_std)
        norm.running_var.copy_(biased)
    with torch.no_grad():
        assert_close(adapted.eval()(qx), predict(adaptation, state, qx))


@pytest.mark.parametrize("text", ["11111@2", "00010@3", "00110/11000/00011", "00000"])
def test_gradient_skipping_adapts_alike(text: str, make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("max")
    x, y, _, _ = first(make_episodes("max", 1))
    pattern = LambdaPattern.parse(text)
    plain = plain_network(adaptation.network)
    for _ in range(2):  # the second time from the same network, which the first must not have changed
        adapted = adapt_skipping(adaptation, plain, pattern, x, y)
        state = adapt(adaptation, adaptation.parameters(), pattern, x, y)
        assert_same_parameters({name: value.detach() for name, value in adapted.named_parameters()}, state.parameters)
        for name, (mean, _) in state.statistics.items():
            torch.testing.assert_close(adapted.get_buffer(f"{name}.running_mean"), mean, rtol=1e-10, atol=1e-10)
        assert all(parameter.requires_grad for parameter in plain.parameters())


def _examples_per_statistic(adaptation: Adaptation, x: Tensor) -> dict[str, int]:
    """How many numbers each normalisation averages over: examples times pixels of its feature map."""
    sizes = {}
    for block in range(4):
        name = f"conv{block + 1}"
        if hasattr(adaptation.network, name):
            convolution = adaptation.network.get_submodule(f"{name}.convolution")
            sizes[f"{name}.norm"] = convolution(x).numel() // 4
            x = adaptation.network.get_submodule(name)(x)
    return sizes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm_statistics", STATISTICS)
def test_empty_pattern_leaves_the_parameters_untouched(
    kind: str, norm_statistics: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, norm_statistics=norm_statistics)
    x, y, qx, _ = first(make_episodes(kind, 1))
    initial = adaptation.parameters()
    before = {name: value.clone() for name, value in initial.items()}
    state = adapt(adaptation, initial, LambdaPattern.empty(UNITS[kind]), x, y)
    assert all(state.parameters[name] is initial[name] for name in initial)
    assert_same_parameters(initial, before, 0)
    support = by_hand(kind, initial, x)[1] if norm_statistics == "support" else None
    assert_close(predict(adaptation, state, qx), by_hand(kind, initial, qx, support)[0])


@pytest.mark.parametrize("kind", ["stride", "mlp"])
def test_frozen_units_are_the_same_tensors_and_active_ones_move(
    kind: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind)
    x, y, _, _ = first(make_episodes(kind, 1))
    initial = adaptation.parameters()
    for unit, (name, names) in enumerate(adaptation.units.items()):
        row = tuple(index == unit for index in range(len(adaptation.units)))
        after = inner_step(adaptation, initial, row, x, y)
        assert {key for key in initial if after[key] is not initial[key]} == set(names), name
        assert all(not torch.equal(after[key], initial[key]) for key in names if "weight" in key)


@pytest.mark.parametrize("kind", ["max", "stride"])
@pytest.mark.parametrize("pattern", ["11111@2", "00010", "00000"])
def test_support_predictions_stand_alone_and_query_predictions_do_not(
    kind: str, pattern: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    x, y, qx, _ = first(make_episodes(kind, 1, queries=3))
    order = torch.randperm(len(qx), generator=torch.Generator().manual_seed(0))
    alone = {}
    for norm_statistics in STATISTICS:
        adaptation = make_adaptation(kind, norm_statistics=norm_statistics)
        state = adapt(adaptation, adaptation.parameters(), LambdaPattern.parse(pattern), x, y)
        together = predict(adaptation, state, qx)
        assert_close(predict(adaptation, state, qx[order]), together[order], 1e-12)
        half = predict(adaptation, state, qx[:4]) - together[:4]
        one_by_one = torch.cat([predict(adaptation, state, qx[i : i + 1]) for i in range(len(qx))]) - together
        alone[norm_statistics] = float(torch.cat([half, one_by_one]).abs().max())
    assert alone["support"] <= 1e-12
    assert alone["query"] > 1e-3


def test_an_adaptation_leaves_the_network_and_its_arguments_as_they_were(
    make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("max")
    episode = first(make_episodes("max", 1))
    copies = [tensor.clone() for tensor in episode]
    before = {name: value.clone() for name, value in adaptation.network.state_dict().items()}
    outputs = adaptation.network(episode[2])
    state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(5, 2), *episode[:2])
    predict(adaptation, state, episode[2])
    assert all(torch.equal(left, right) for left, right in zip(episode, copies, strict=True))
    assert_same_parameters(dict(adaptation.network.state_dict()), before, 0)
    assert all(value.grad is None for value in adaptation.network.parameters())
    assert torch.equal(adaptation.network(episode[2]), outputs)


def test_a_rate_factor_is_that_of_its_row_alone(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    x, y, *_ = (tensor[0] for tensor in make_episodes("stride", 1))
    base, doubled = (make_adaptation("stride", rate=rate) for rate in (0.2, 0.4))
    rows = LambdaPattern.parse("00111/01010/00111").rows
    parameters = base.parameters()
    state = adapt(base, parameters, LambdaPattern(5, rows), x, y, (1.0, 2.0, 1.0))
    for adaptation, row in zip((base, doubled, base), rows, strict=True):
        parameters = inner_step(adaptation, parameters, row, x, y)
    for name, value in parameters.items():
        torch.testing.assert_close(state.parameters[name], value, rtol=1e-12, atol=1e-12)
    assert not torch.equal(
        parameters["head.bias"], adapt(base, base.parameters(), LambdaPattern(5, rows), x, y).parameters["head.bias"]
    )


def test_units_can_be_chosen(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    x, y, *_ = (tensor[0] for tensor in make_episodes("stride", 1))
    own = make_adaptation("stride")
    norms = tuple(name for name in own.parameters() if ".norm." in name)
    others = tuple(name for name in own.parameters() if ".norm." not in name)
    split = make_adaptation("stride", units={"others": others, "norms": norms})
    state = adapt(split, split.parameters(), LambdaPattern.parse("01"), x, y)
    moved = {name for name, value in state.parameters.items() if not torch.equal(value, own.parameters()[name])}
    assert moved == set(norms)
    full = adapt(split, split.parameters(), LambdaPattern.full(2, 2), x, y).parameters
    for name, value in adapt(own, own.parameters(), LambdaPattern.full(5, 2), x, y).parameters.items():
        assert torch.equal(full[name], value)


def test_a_row_of_another_length_is_refused(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp")
    x, y, _, _ = first(make_episodes("mlp", 1))
    with pytest.raises(ValueError, match="a row of 5 units for a network of 3"):
        adapt(adaptation, adaptation.parameters(), LambdaPattern.full(5, 1), x, y)


class Normalised(nn.Sequential):
    """A linear layer and a normalisation of PyTorch's."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__(nn.Linear(4, 4), norm, nn.Linear(4, 3))


def batches() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat(2)


@pytest.mark.parametrize("norm_statistics", ["support", "query", "running"])
def test_the_mode_of_batch_normalisation_decides_nothing_and_what_replaced_it_is_told(
    norm_statistics: NormStatistics, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = batches()
    network = Normalised(nn.BatchNorm1d(4, momentum=None))
    network(3 * x + 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    predictions = []
    for mode in (True, False):
        with caplog.at_level("INFO", logger="workers.adaptation.inner_loop"):
            adaptation = Adaptation.of(network.train(mode), nn.functional.cross_entropy, 0.1, norm_statistics)
        assert adaptation.replaced_norms == ("1",)
        assert f"Normalised: 1 now normalise by {norm_statistics} statistics" in caplog.text
        assert adaptation.parameters().keys() == dict(network.named_parameters()).keys()
        state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(3, 2), x, y)
        predictions.append(predict(adaptation, state, x[:2]))
        assert bool(state.statistics) == (norm_statistics == "support")
    assert torch.equal(*predictions)
    assert isinstance(network[1], nn.BatchNorm1d)
    assert_same_parameters(dict(network.state_dict()), before, 0)


def test_statistics_of_the_support_set_the_batch_and_the_past_differ() -> None:
    x, y = batches()
    network = Normalised(nn.BatchNorm1d(4))
    network(3 * x + 1)
    answers = []
    for norm_statistics in ("support", "query", "running"):
        adaptation = Adaptation.of(network, nn.functional.cross_entropy, 0.1, norm_statistics)
        state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(3, 1), x, y)
        answers.append(predict(adaptation, state, x[:2] + 1))
    assert all(float((left - right).abs().max()) > 1e-2 for left, right in combinations(answers, 2))


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_a_network_without_state_is_adapted_as_it_is(norm: nn.Module) -> None:
    network = Normalised(norm)
    adaptation = Adaptation.of(network, nn.functional.cross_entropy, 0.1)
    assert adaptation.network is network
    assert adaptation.replaced_norms == ()
    x, y = batches()
    state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(3, 2), x, y)
    assert_close(predict(adaptation, state, x)[:2], predict(adaptation, state, x[:2]), 1e-6)
