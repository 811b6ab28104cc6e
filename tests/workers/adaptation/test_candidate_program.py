"""A candidate's program computes its adaptation, whatever the layout, precision and runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.candidate_program import CandidateProgram, candidate_program
from workers.adaptation.device import compiler
from workers.adaptation.inner_loop import Adaptation, AdaptedState, adapt, predict
from workers.adaptation.layout import Layout
from workers.adaptation.runtime import use_compile_cache

Make = Callable[..., Adaptation]
MakeEpisodes = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(compiler(CPU) is None, reason="no C++ compiler, or no Python headers")
PATTERNS = ["11111@2", "00110/00001", "00010@2", "00001@3"]


def program_of(adaptation: Adaptation, text: str, x: Tensor, y: Tensor, layout: Layout) -> CandidateProgram:
    return candidate_program(adaptation, adaptation.parameters(), Candidate.parse(text), x, y, layout)


def assert_close(got: AdaptedState, wanted: AdaptedState, tolerance: float) -> None:
    assert got.parameters.keys() == wanted.parameters.keys()
    for name, value in wanted.parameters.items():
        torch.testing.assert_close(got.parameters[name], value, rtol=tolerance, atol=tolerance)
    assert got.statistics.keys() == wanted.statistics.keys()
    for name, pair in wanted.statistics.items():
        for mine, other in zip(got.statistics[name], pair, strict=True):
            torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_program_adapts_as_the_inner_loop_does(
    text: str, layout: Layout, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("max")
    xs, ys, _, _ = make_episodes("max", 2)
    program = program_of(adaptation, text, xs[0], ys[0], layout)
    for x, y in zip(xs, ys, strict=True):
        wanted = adapt(adaptation, adaptation.parameters(), LambdaPattern.parse(text), x, y)
        assert_close(program.adapted_state(x, y), wanted, 1e-10)


@pytest.mark.parametrize("kind", ["max", "mlp"])
def test_bfloat16_prefix_comes_close_and_reaches_nothing_else(
    kind: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, torch.float32)
    xs, ys, query_x, _ = make_episodes(kind, 1, torch.float32)
    units = len(adaptation.units)
    row = "0" * (units - 1) + "1"
    lowered = program_of(adaptation, f"{row}@2:bfloat16", xs[0], ys[0], "contiguous")
    ordinary = program_of(adaptation, f"{row}@2", xs[0], ys[0], "contiguous")

    dtypes = {node.meta["val"].dtype for node in lowered.module.graph.nodes if node.name.startswith(("mm", "addmm"))}
    assert torch.float32 in dtypes  # the head's own products
    got, wanted = lowered.adapted_state(xs[0], ys[0]), ordinary.adapted_state(xs[0], ys[0])
    assert all(value.dtype == torch.float32 for value in got.parameters.values())
    assert all(tensor.dtype == torch.float32 for pair in got.statistics.values() for tensor in pair)
    assert_close(got, wanted, 0.1)
    moved = list(adaptation.units.values())[-1]
    assert any(not torch.equal(got.parameters[name], wanted.parameters[name]) for name in moved)
    torch.testing.assert_close(
        predict(adaptation, got, query_x[0]), predict(adaptation, wanted, query_x[0]), rtol=0.2, atol=0.2
    )


def test_lowered_contractions_are_those_of_the_frozen_units(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("max", torch.float32)
    xs, ys, _, _ = make_episodes("max", 1, torch.float32)
    for lowest in range(1, 5):
        text = "0" * lowest + "1" * (5 - lowest) + "@2:bfloat16"
        program = program_of(adaptation, text, xs[0], ys[0], "contiguous")
        convolutions = [
            node.meta["val"].dtype
            for node in program.module.graph.nodes
            if str(node.target) == "aten.convolution.default"
        ]
        assert convolutions.count(torch.bfloat16) == lowest
        assert convolutions.count(torch.float32) == 3 * (4 - lowest)


def test_only_a_frozen_prefix_can_be_lowered(make_adaptation: Make) -> None:
    assert Candidate.parse("00010@2:bfloat16").precision == Precision.BFLOAT16
    with pytest.raises(ValueError, match="no frozen unit before"):
        Candidate.parse("10000:bfloat16")


@needs_compiler
def test_compiled_program_agrees_and_is_cached(
    make_adaptation: Make,
    make_episodes: MakeEpisodes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    use_compile_cache(tmp_path)
    text = "00010:bfloat16"
    adaptation = make_adaptation("max", torch.float32)
    xs, ys, _, _ = make_episodes("max", 2, torch.float32)
    eager = program_of(adaptation, text, xs[0], ys[0], "channels_last")
    compiled = eager.compiled()
    assert compiled.compilation is not None
    assert compiled.compilation.backend == "inductor"
    assert compiled.compilation.seconds > 0
    assert not compiled.compilation.from_cache
    for x, y in zip(xs, ys, strict=True):
        assert_close(compiled.adapted_state(x, y), eager.adapted_state(x, y), 0.02)
    again = program_of(adaptation, text, xs[0], ys[0], "channels_last").compiled()
    assert again.compilation is not None
    assert again.compilation.from_cache
