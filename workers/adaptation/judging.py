"""Judging candidates: qualities of many patterns on blocks of episodes, by masked programs.

A program is traced once per lowest active unit and serves every pattern with that unit, because the mask is data. One
run of S steps yields the quality after each of its 1..S steps, so all step counts of a constant row cost one run.

Notation: B episodes in a block, S inner steps, U units, N support and M query examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from search_service.domain.evaluation import DIVERGED_QUALITY
from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import (
    Adaptation,
    AdaptedState,
    Parameters,
    masked_inner_step,
    predict,
    support_statistics,
)
from workers.adaptation.lanes import WAVE, Lanes, batched
from workers.adaptation.program import Program, trace

Metric = Callable[[Tensor, Tensor], Tensor]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of ``M x ways`` logits whose largest is at the ``M`` labels; a scalar in 0..1."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean()


def negative_mse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean squared error of ``M x outputs`` predictions; a scalar."""
    return -(predictions - targets).square().mean()


def qualities_by_step(
    adaptation: Adaptation,
    metric: Metric,
    lowest_unit: int,
    parameters: Parameters,
    mask: Tensor,
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    query_y: Tensor,
) -> Tensor:
    """Quality on the query set after each of S masked inner steps, one episode; with S = 0, without adaptation.

    Args:
        adaptation: how the network adapts.
        metric: quality of outputs against targets.
        lowest_unit: index of the lowest unit that ``mask`` may move.
        parameters: all parameters before adaptation.
        mask: ``S x U``-dim boolean tensor.
        support_x: ``N x ...``-dim tensor.
        support_y: ``N``-dim labels or ``N x outputs``-dim targets.
        query_x: ``M x ...``-dim tensor.
        query_y: ``M``-dim labels or ``M x outputs``-dim targets.

    Returns:
        ``max(S, 1)``-dim tensor; entry s is the quality after ``s + 1`` steps.
    """

    def quality(parameters: Parameters) -> Tensor:
        state = AdaptedState(parameters, support_statistics(adaptation, parameters, support_x))
        return metric(predict(adaptation, state, query_x), query_y)

    if not mask.shape[0]:
        return quality(parameters).unsqueeze(0)
    qualities = []
    for row in mask.unbind():
        parameters = masked_inner_step(adaptation, parameters, row, lowest_unit, support_x, support_y)
        qualities.append(quality(parameters))
    return torch.stack(qualities)


def channels_last(tensor: Tensor) -> Tensor:
    """``tensor`` with channels innermost in memory if it is a batch of images or filters, else as it is."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@dataclass
class Judge:
    """Judges patterns of one network on blocks of episodes, keeping its traced programs.

    Args:
        adaptation: how the network adapts.
        metric: quality of outputs against targets.
        parameters: the checkpoint's parameters, on the device that judges.
        episodes_at_once: episodes that one program call adapts together (``torch.vmap``). One is fastest on a CPU core,
            where per-episode weights become grouped convolutions; a GPU wants many.
        lanes: where program calls run side by side.
    """

    adaptation: Adaptation
    metric: Metric
    parameters: Parameters
    episodes_at_once: int = 1
    lanes: Lanes = field(default_factory=Lanes)
    _programs: dict[Any, Program] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.parameters = {name: channels_last(parameter) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def qualities(
        self,
        pattern: LambdaPattern,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        pause: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Quality of a pattern after each of its steps on a block; of the empty pattern, without adaptation.

        Args:
            pattern: S rows of U units.
            support_x: ``B x N x ...``-dim tensor.
            support_y: ``B x N`` labels or ``B x N x outputs`` targets.
            query_x: ``B x M x ...``-dim tensor.
            query_y: ``B x M`` labels or ``B x M x outputs`` targets.
            pause: called between waves of program calls; may block or raise.

        Returns:
            ``B x max(S, 1)``-dim tensor on the CPU; column s is the quality after the first ``s + 1`` rows, or
            ``DIVERGED_QUALITY``.
        """
        lowest = pattern.lowest_active_unit
        mask = torch.tensor(pattern.rows, dtype=torch.bool, device=support_x.device).reshape(-1, pattern.units)
        size = self.episodes_at_once
        calls = []
        for start in range(0, support_x.shape[0], size):
            chunk = [tensor[start : start + size] for tensor in (support_x, support_y, query_x, query_y)]
            calls.append((self._program(0 if lowest is None else lowest, mask, chunk), chunk))
        blocks: list[Tensor] = []
        for wave in batched(calls, WAVE * self.lanes.count):
            pause()
            blocks += self.lanes.map(lambda call: call[0](self.parameters, mask, *call[1]).cpu(), wave)
        return torch.nan_to_num(torch.cat(blocks), nan=DIVERGED_QUALITY).clamp(min=DIVERGED_QUALITY)

    def _program(self, lowest_unit: int, mask: Tensor, chunk: Sequence[Tensor]) -> Program:
        key = (lowest_unit, mask.shape, tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in chunk))
        if key not in self._programs:

            def one(parameters: Parameters, mask: Tensor, *episode: Tensor) -> Tensor:
                return qualities_by_step(self.adaptation, self.metric, lowest_unit, parameters, mask, *episode)

            def block(parameters: Parameters, mask: Tensor, *episodes: Tensor) -> Tensor:
                if episodes[0].shape[0] == 1:
                    # Inside vmap no layout can be asked for, and grouped convolutions would gain nothing by it.
                    return one(parameters, mask, *(channels_last(tensor[0]) for tensor in episodes)).unsqueeze(0)
                return vmap(one, in_dims=(None, None, 0, 0, 0, 0))(parameters, mask, *episodes)

            self._programs[key] = trace(block, self.parameters, mask, *chunk)
        return self._programs[key]
