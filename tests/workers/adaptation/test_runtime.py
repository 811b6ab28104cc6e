"""The compiled runtime: what a compiler made, where it is kept, and what happens when it fails.

A CUDA graph is tested on a stand-in for CUDA that records a function and runs it again on replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, fx

from search_service.domain.errors import CompilationFailed
from workers.adaptation import runtime
from workers.adaptation.device import compiler
from workers.adaptation.program import trace
from workers.adaptation.runtime import CudaGraph, compile_program, use_compile_cache

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(compiler(CPU) is None, reason="no C++ compiler, or no Python headers")


def function(matrix: Tensor, x: Tensor) -> list[Tensor]:
    return [torch.tanh(x @ matrix), x.sum()]


def examples() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 4, generator=generator), torch.randn(3, 4, generator=generator)]


@pytest.fixture
def compile_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    use_compile_cache(tmp_path)
    return tmp_path


def test_a_compiled_program_agrees_with_the_eager_one_on_other_inputs(compile_cache: Path) -> None:
    module = trace(function, *examples())
    compiled, compilation = compile_program(module, examples(), CPU, per_call=1)
    assert compilation.backend == "inductor"
    assert compilation.seconds > 0
    matrix, x = examples()
    for given in (x, 2 * x):
        for got, wanted in zip(compiled(matrix, given), module(matrix, given), strict=True):
            torch.testing.assert_close(got, wanted)
    assert any(compile_cache.rglob("*.so"))

    _, again = compile_program(trace(function, *examples()), examples(), CPU, per_call=1)
    assert again.from_cache


def test_a_compiler_that_fails_is_a_clear_error(compile_cache: Path) -> None:
    module = trace(lambda x: [torch.sin(x) * 3.25 + x.exp()], examples()[1])
    with (
        torch._inductor.config.patch({"cpp.cxx": ("/bin/false",)}),
        pytest.raises(CompilationFailed, match="search with runtime 'eager' instead"),
    ):
        compile_program(module, examples()[1:], CPU, per_call=1)


class Recorder:
    """Stands in for ``torch.cuda``: a recording runs its function again on the same tensors, in place."""

    def __init__(self) -> None:
        self.recorded: list[Callable[[], Sequence[Tensor]]] = []
        self.is_recording = False
        self.calls = 0

    def watched(self, function: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
        def run(*arguments: Tensor) -> Sequence[Tensor]:
            self.calls += 1
            if self.is_recording:
                outputs = function(*arguments)

                def replay() -> Sequence[Tensor]:
                    for held, new in zip(outputs, function(*arguments), strict=True):
                        held.copy_(new)
                    return outputs

                self.recorded.append(replay)
                return outputs
            return function(*arguments)

        return run

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = self

        class Stream:
            def wait_stream(self, _: Any) -> None:
                """Nothing runs beside anything here."""

        class Graph:
            def replay(self) -> None:
                recorder.recorded[self.number]()

        @contextmanager
        def graph(made: Any) -> Iterator[None]:
            made.number = len(recorder.recorded)
            recorder.is_recording = True
            yield
            recorder.is_recording = False

        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: Stream())
        monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", graph)
        monkeypatch.setattr(runtime, "synchronize", lambda _: None)


def test_a_recording_sees_new_inputs_and_keeps_the_fixed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    recorder.install(monkeypatch)
    matrix, x = examples()
    graph = CudaGraph(recorder.watched(function), [matrix, x], per_call=1)
    assert recorder.calls == runtime.WARM_UP_CALLS + 1
    for given in (x, x + 1, x):
        for got, wanted in zip(graph(matrix, given), function(matrix, given), strict=True):
            assert torch.equal(got, wanted)
    assert torch.equal(x, examples()[1])  # the caller's tensor is not the recording's


@pytest.mark.parametrize("faster", ["cuda graph", "inductor, cuda graph"])
def test_the_faster_recording_is_kept(faster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    recorder.install(monkeypatch)
    module: Any = recorder.watched(trace(function, *examples()))
    names = iter(["cuda graph", "inductor, cuda graph"])
    monkeypatch.setattr(runtime, "_seconds_of", lambda *_: 1.0 if next(names) == faster else 2.0)
    monkeypatch.setattr(runtime, "_inductor", lambda module, _: (module, False))
    _, compilation = compile_program(module, examples(), torch.device("cuda:0"), per_call=1)
    assert compilation.backend == faster


def test_without_inductor_a_gpu_still_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_module: fx.GraphModule, _examples: Sequence[Tensor]) -> Any:
        raise CompilationFailed("no Triton")

    recorder = Recorder()
    recorder.install(monkeypatch)
    monkeypatch.setattr(runtime, "_inductor", fails)
    module: Any = recorder.watched(trace(function, *examples()))
    run, compilation = compile_program(module, examples(), torch.device("cuda:0"), per_call=1)
    assert compilation.backend == "cuda graph"
    for got, wanted in zip(run(*examples()), function(*examples()), strict=True):
        assert torch.equal(got, wanted)
