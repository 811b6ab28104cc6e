"""Networks of many kinds, adapted as programs: equal to plain MAML, bit-equal to the untraced form, with less work."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from search_service.domain.candidate import Candidate
from search_service.domain.errors import UnsupportedNetwork
from search_service.domain.lambda_pattern import LambdaPattern
from tests.workers.adaptation.any_networks import NAMES, Attention, build, episode
from workers.adaptation.inner_loop import (
    Adaptation,
    AdaptedState,
    NormStatistics,
    Parameters,
    adapt,
    classification_loss,
    predict,
)
from workers.adaptation.judging import Judge
from workers.adaptation.normalisation import EpisodeNorm, Statistics
from workers.adaptation.plain import adapt_plain, adapt_skipping, plain_network
from workers.adaptation.program import count_calls, trace

RATE = 0.2
STATISTICS: tuple[NormStatistics, ...] = ("support", "query", "running")
FORWARD = "aten.convolution.default"
BACKWARD = "aten.convolution_backward.default"
Answer = tuple[Parameters, Statistics, Tensor]
ByHand = dict[str, tuple[Tensor, Tensor]]
Structure = dict[tuple[int, int], list[tuple[int, int]]]
"""Convolution -> those that it reads from; each is (block, place in it), and a block is a unit."""


def adaptation_of(name: str, norm_statistics: NormStatistics, dtype: torch.dtype = torch.float64) -> Adaptation:
    return Adaptation.of(build(name, dtype), classification_loss, RATE, norm_statistics)


def fits(name: str, norm_statistics: NormStatistics) -> bool:
    """Whether a network can choose: our conv4 has no running statistics, and networks without any are tried once."""
    if name in ("conv4", "resnet12", "normalised mlp"):
        return name != "conv4" or norm_statistics != "running"
    return norm_statistics == "support"


CASES = [(name, norm_statistics) for name in NAMES for norm_statistics in STATISTICS if fits(name, norm_statistics)]


def answer_of(adaptation: Adaptation, pattern: LambdaPattern) -> Callable[[Parameters, Tensor, Tensor, Tensor], Answer]:
    def function(parameters: Parameters, x: Tensor, y: Tensor, queries: Tensor) -> Answer:
        state = adapt(adaptation, parameters, pattern, x, y)
        return state.parameters, state.statistics, predict(adaptation, state, queries)

    return function


@cache
def units(name: str) -> int:
    return len(adaptation_of(name, "query").units)


def examples(name: str) -> settings:
    """How many patterns to try; tracing a large network takes its time, and so would shrinking a failure."""
    return settings(
        max_examples=1 if name in ("conv4", "resnet12", "attention", "recurrent") else 2,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
    )


def patterns(units: int) -> st.SearchStrategy[LambdaPattern]:
    row = st.tuples(*[st.booleans()] * units).filter(any)
    return st.lists(row, min_size=1, max_size=3).map(lambda rows: LambdaPattern(units=units, rows=tuple(rows)))


def assert_close(got: Any, wanted: Any) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


# --- Plain MAML, a second implementation ---------------------------------------------------------------------------


@contextmanager
def normalising_by_hand(network: nn.Module, given: ByHand | None) -> Iterator[ByHand]:
    """Within it, every batch normalisation is elementary operations, with (mean, variance) of its batch or as given."""
    used: ByHand = {}

    def by_hand(name: str, norm: Any, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        mean = x.transpose(0, 1).flatten(1).mean(1)
        variance = (x - mean.view(shape)).square().transpose(0, 1).flatten(1).mean(1)
        if given is not None:
            mean, variance = given[name]
        used[name] = (mean, variance)
        y = (x - mean.view(shape)) / (variance + norm.eps).sqrt().view(shape)
        return y if norm.weight is None else y * norm.weight.view(shape) + norm.bias.view(shape)

    hooks = [
        module.register_forward_hook(lambda norm, inputs, _, name=name: by_hand(name, norm, inputs[0]))
        for name, module in network.named_modules()
        if isinstance(module, (_BatchNorm, EpisodeNorm))
    ]
    try:
        yield used
    finally:
        for hook in hooks:
            hook.remove()


def plain_maml(
    network: nn.Module, adaptation: Adaptation, pattern: LambdaPattern, x: Tensor, y: Tensor, queries: Tensor
) -> tuple[Parameters, ByHand, Tensor]:
    """A copy of the user's network, stepped in place: its parameters, the support set's statistics, its predictions."""
    network = copy.deepcopy(network)
    parameters = dict(network.named_parameters())

    def outputs(x: Tensor, given: ByHand | None = None) -> tuple[Tensor, ByHand]:
        if adaptation.norm_statistics == "running":
            return network(x), {}  # in evaluation mode, PyTorch's own
        with normalising_by_hand(network, given) as used:
            return network(x), used

    for row in pattern.rows:
        active = [parameters[name] for name in adaptation.names_of(row)]
        gradients = torch.autograd.grad(nn.functional.cross_entropy(outputs(x)[0], y), active)
        with torch.no_grad():
            for parameter, gradient in zip(active, gradients, strict=True):
                parameter -= RATE * gradient
    with torch.no_grad():
        used = outputs(x)[1] if adaptation.norm_statistics == "support" else None
        predictions, _ = outputs(queries, used)
    return {name: value.detach() for name, value in parameters.items()}, used or {}, predictions


# --- Convolutions, counted in the network's structure ----------------------------------------------------------------


RESNET12: Structure = {
    (block, conv): [(block, conv - 1)] if conv in (2, 3) else [(block - 1, 3), (block - 1, 4)] if block else []
    for block in range(4)
    for conv in (1, 2, 3, 4)
}
"""The fourth place is the shortcut's."""
CONV4: Structure = {(block, 1): [(block - 1, 1)] if block else [] for block in range(4)}
STRUCTURES = {"conv4": CONV4, "resnet12": RESNET12}


def convolutions(structure: Structure, norm_statistics: NormStatistics, pattern: LambdaPattern) -> tuple[int, int]:
    """Convolutions that cannot be done without, forward and backward, by reachability in the network's structure.

    One runs forward in the first pass, and again where a step changed its unit or that of one it reads from, however
    far back; the same ones run backward in that step. Under ``support`` statistics a last pass follows the last step.
    """

    def depends_on(conv: tuple[int, int], row: tuple[bool, ...]) -> bool:
        return row[conv[0]] or any(depends_on(before, row) for before in structure[conv])

    touched = [sum(depends_on(conv, row) for conv in structure) for row in pattern.rows]
    again = touched if norm_statistics == "support" else touched[:-1]
    return len(structure) + sum(again), sum(touched)


# --- Identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "norm_statistics"), CASES)
def test_a_program_is_plain_maml(name: str, norm_statistics: NormStatistics) -> None:
    adaptation = adaptation_of(name, norm_statistics)
    x, y, queries = episode(name)
    initial = adaptation.parameters()

    @examples(name)
    @given(pattern=patterns(units(name)))
    def check(pattern: LambdaPattern) -> None:
        program = trace(answer_of(adaptation, pattern), initial, x, y, queries)
        with torch.no_grad():
            parameters, statistics, predictions = program(initial, x, y, queries)
        expected, used, expected_predictions = plain_maml(build(name), adaptation, pattern, x, y, queries)
        assert_close(parameters, expected)
        assert_close(predictions, expected_predictions)
        assert statistics.keys() == used.keys()
        for norm, (mean, inverse_std) in statistics.items():
            assert_close(mean, used[norm][0])
            eps = adaptation.network.get_submodule(norm).eps
            assert_close(inverse_std, (used[norm][1] + eps).rsqrt())
        for unit, names in enumerate(adaptation.units.values()):
            moved = any(not torch.equal(parameters[own], initial[own]) for own in names)
            assert moved == (unit in pattern.active_units)

    check()


@pytest.mark.parametrize(("name", "norm_statistics"), CASES)
def test_a_program_has_the_bits_of_the_untraced_form_and_no_needless_convolution(
    name: str, norm_statistics: NormStatistics
) -> None:
    adaptation = adaptation_of(name, norm_statistics, torch.float32)
    episodes, others = episode(name, torch.float32), episode(name, torch.float32, seed=1)
    initial = adaptation.parameters()

    @examples(name)
    @given(pattern=patterns(units(name)))
    def check(pattern: LambdaPattern) -> None:
        untraced = answer_of(adaptation, pattern)
        program = trace(untraced, initial, *episodes)
        if name in STRUCTURES:
            forward, backward = convolutions(STRUCTURES[name], norm_statistics, pattern)
            predicting = len(STRUCTURES[name])
            counted = count_calls(program, FORWARD), count_calls(program, BACKWARD)
            assert counted == (forward + predicting, backward)
        with torch.no_grad():
            torch.testing.assert_close(program(initial, *others), untraced(initial, *others), rtol=0, atol=0)

    check()


@pytest.mark.parametrize(("name", "norm_statistics"), CASES)
def test_judged_is_pruned(name: str, norm_statistics: NormStatistics) -> None:
    adaptation = adaptation_of(name, norm_statistics)
    x, y, queries = episode(name)
    targets = torch.zeros(len(queries), dtype=torch.long)

    def minus_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return -adaptation.loss(outputs, targets)

    judge = Judge(adaptation, minus_loss, adaptation.parameters(), layout="contiguous", episodes_at_once=1)

    @settings(max_examples=1, deadline=None)
    @given(chosen=st.lists(patterns(units(name)), min_size=2, max_size=2))
    def check(chosen: list[LambdaPattern]) -> None:
        batch = [tensor.unsqueeze(0) for tensor in (x, y, queries, targets)]
        judged = judge.qualities([Candidate(pattern) for pattern in chosen], *batch)
        for pattern in chosen:
            state = adapt(adaptation, adaptation.parameters(), pattern, x, y)
            wanted = minus_loss(predict(adaptation, state, queries), targets)
            torch.testing.assert_close(judged[pattern.text][0, -1], wanted.detach(), rtol=1e-10, atol=1e-10)

    check()


@pytest.mark.parametrize(
    ("name", "norm_statistics"),
    [
        case for case in CASES if case[0] != "recurrent"
    ],  # PyTorch's LSTM writes into a shared tensor, which vmap refuses
)
def test_episodes_side_by_side_are_each_alone(name: str, norm_statistics: NormStatistics) -> None:
    adaptation = adaptation_of(name, norm_statistics)
    episodes = [episode(name, seed=seed) for seed in range(2)]
    answer = answer_of(adaptation, LambdaPattern.full(units(name), 2))
    initial = adaptation.parameters()
    together = vmap(answer, (None, 0, 0, 0))(initial, *map(torch.stack, zip(*episodes, strict=True)))
    for number, alone in enumerate(episodes):
        _, _, expected = answer(initial, *alone)
        assert_close(together[2][number], expected)


@pytest.mark.parametrize(("name", "norm_statistics"), CASES)
def test_plain_pytorch_adapts_alike(name: str, norm_statistics: NormStatistics) -> None:
    adaptation = adaptation_of(name, norm_statistics)
    x, y, _ = episode(name)
    plain = plain_network(adaptation.network)

    @examples(name)
    @given(pattern=patterns(units(name)))
    def check(pattern: LambdaPattern) -> None:
        state = adapt(adaptation, adaptation.parameters(), pattern, x, y)
        adapted = adapt_skipping(adaptation, plain, pattern, x, y)
        assert_close({own: value.detach() for own, value in adapted.named_parameters()}, state.parameters)
        for norm, (mean, _) in state.statistics.items():
            assert_close(adapted.get_buffer(f"{norm}.running_mean"), mean)

    check()
    state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(units(name), 2), x, y)
    adapted = adapt_plain(adaptation, plain, 2, x, y)
    assert_close({own: value.detach() for own, value in adapted.named_parameters()}, state.parameters)


# --- Work that is left -----------------------------------------------------------------------------------------------


def program_of(name: str, norm_statistics: NormStatistics, pattern: LambdaPattern) -> fx.GraphModule:
    adaptation = adaptation_of(name, norm_statistics, torch.float32)
    x, y, _ = episode(name, torch.float32)

    def adapted(parameters: Parameters, x: Tensor, y: Tensor) -> tuple[Parameters, Statistics]:
        state = adapt(adaptation, parameters, pattern, x, y)
        return state.parameters, state.statistics

    return trace(adapted, adaptation.parameters(), x, y)


@pytest.mark.parametrize(
    ("name", "text", "forward", "backward"),
    [
        ("conv4", "00001/00110", 4 + 0 + 2, 2),
        ("conv4", "00010/00001/00100", 4 + 1 + 0 + 2, 1 + 2),
        ("resnet12", "00001/00110", 16 + 0 + 8, 8),
        ("resnet12", "00001@2", 16, 0),
        ("resnet12", "00010/00001/00100", 16 + 4 + 0 + 8, 4 + 8),
    ],
)
def test_rows_that_differ_share_whatever_is_equal(name: str, text: str, forward: int, backward: int) -> None:
    """What the first row leaves as it was is computed once for both, though no prefix is frozen throughout."""
    pattern = LambdaPattern.parse(text)
    program = program_of(name, "support", pattern)
    assert (count_calls(program, FORWARD), count_calls(program, BACKWARD)) == (forward, backward)
    assert convolutions(STRUCTURES[name], "support", pattern) == (forward, backward)


@pytest.mark.parametrize(
    ("text", "forward", "backward"),
    [
        ("0001@3", 2, 0),
        ("0010@2", 2 + 1, 2),
        ("1000@2", 2 * 2, 2 * 2),
        ("0001/0010/0001", 2 + 0 + 1, 1),
        # PyTorch's module hands `linear` a transposed view, which `matmul` folds into one product where it is asked for
        # a gradient and not elsewhere. Other operations are other expressions: the frozen pass runs once for each.
        ("0001/0100", 2 + 2, 2),
    ],
)
def test_attention_is_shared_where_the_operations_are_the_same(text: str, forward: int, backward: int) -> None:
    program = program_of("attention", "support", LambdaPattern.parse(text))
    assert count_calls(program, "aten._safe_softmax.default") == forward
    assert count_calls(program, "aten._softmax_backward_data.default") == backward


@pytest.mark.parametrize(("text", "products"), [("0001@3", 5 + 1 + 1), ("0010/0001", 5 + 3), ("0100/0001", 5 + 4)])
def test_a_layer_at_two_depths_is_shared_at_each(text: str, products: int) -> None:
    """Entry, body, between, body, head: a later change leaves the first use of the body as it was."""
    program = program_of("shared parameters", "support", LambdaPattern.parse(text))
    assert count_calls(program, "aten.addmm.default") == products


# --- Refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_training", [True, False])
def test_attention_that_drops_out_is_refused_and_switched_off_it_is_not(is_training: bool) -> None:
    adaptation = Adaptation.of(Attention().train(is_training), classification_loss, RATE)
    x, _, _ = episode("attention", torch.float32)
    refusal = pytest.raises(UnsupportedNetwork, match=r"aten\.bernoulli.*switch dropout and noise off")
    with refusal if is_training else nullcontext():
        trace(lambda parameters, x: predict(adaptation, AdaptedState(parameters, {}), x), adaptation.parameters(), x)
