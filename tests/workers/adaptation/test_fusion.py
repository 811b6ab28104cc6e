"""Batch normalisation in one pass: PyTorch's own results, also far from zero and for constant channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workers.adaptation.fusion import fusible
from workers.adaptation.program import count_calls, trace

BATCH_NORM = "aten.native_batch_norm.default"


def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> list[Tensor]:
    return list(torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, 1e-5))


@pytest.mark.parametrize("shape", [(5, 3, 8, 7), (6, 4), (2, 3, 9)])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_results_are_those_of_batch_normalisation(shape: tuple[int, ...], mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = mean + torch.randn(shape, generator=generator)
    x[:, 0] = 3.0  # a channel without variance
    weight, bias = (torch.randn(shape[1], generator=generator) for _ in range(2))
    program = trace(normalise, x, weight, bias)
    rewritten = fusible(program, [x, weight, bias])
    assert count_calls(program, BATCH_NORM) == 1
    assert count_calls(rewritten, BATCH_NORM) == 0
    exact = normalise(x.double(), weight.double(), bias.double())
    # At 1e4 a float32 holds three digits behind the point: its own rounding of x is what remains.
    tolerance = 1e-5 if mean == 0 else 1e-2
    for got, wanted in zip(rewritten(x, weight, bias), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)


def test_without_scale_and_shift() -> None:
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    rewritten = fusible(trace(lambda x: normalise(x, None, None), x), [x])
    for got, wanted in zip(rewritten(x), normalise(x, None, None), strict=True):
        torch.testing.assert_close(got, wanted)


def test_running_statistics_and_other_programs_stay_as_they_are() -> None:
    x, mean, var = torch.randn(5, 3), torch.zeros(3), torch.ones(3)
    fixed = trace(
        lambda x, mean, var: torch.native_batch_norm(x, None, None, mean, var, False, 0.0, 1e-5)[0], x, mean, var
    )
    assert fusible(fixed, [x, mean, var]) is fixed
    other = trace(lambda x: [torch.tanh(x)], x)
    assert fusible(other, [x]) is other
