"""Runtimes: a traced program run operation by operation, or compiled.

``eager`` calls the program's operations one by one. ``compiled`` fuses them into machine code (inductor, on a CPU) or
records them once and replays them without the interpreter (CUDA graphs, on a GPU, over inductor's kernels where these
are faster). Compiling takes seconds to minutes, once: inductor keeps what it made in a folder, under a key of the
program's text, the shapes, the library's version and the processor.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, fx

from search_service.domain.errors import CompilationFailed
from workers.adaptation.device import synchronize
from workers.adaptation.fusion import fusible

log = logging.getLogger(__name__)

Flat = Callable[..., Sequence[Tensor]]
"""A program whose arguments and results are tensors, not nested."""

WARM_UP_CALLS = 3
"""Calls before a CUDA graph is recorded, in which libraries choose their algorithms."""
COMPARED_CALLS = 20
"""Calls by which a recording over inductor's kernels is compared with one over PyTorch's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """What compiling a program took; none of it is ever part of a latency."""

    seconds: float
    from_cache: bool
    backend: str
    """``inductor``, ``cuda graph`` or ``inductor, cuda graph``."""


def use_compile_cache(folder: Path) -> None:
    """Keep compiled programs of this process, and of those it starts, in ``folder``."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


def compile_program(
    module: fx.GraphModule, examples: Sequence[Tensor], device: torch.device, per_call: int
) -> tuple[Flat, Compilation]:
    """Compile a program for inputs of exactly these shapes and strides.

    On a GPU the results are the recording's own memory: they hold until the next call.

    Args:
        module: a traced program whose arguments are ``examples``, flat, and whose result is a flat list.
        examples: tensors on ``device``.
        device: where it will run.
        per_call: how many of the last arguments change from call to call; the others are the same tensors each time.

    Raises:
        CompilationFailed: the compiler refused.
    """
    started = time.perf_counter()
    if device.type == "cuda":
        function, backend, from_cache = _compile_for_gpu(module, examples, per_call)
    else:
        function, from_cache = _inductor(module, examples)
        backend = "inductor"
    with torch.no_grad():
        function(*examples)
    synchronize(device)
    return function, Compilation(seconds=time.perf_counter() - started, from_cache=from_cache, backend=backend)


def _inductor(module: fx.GraphModule, examples: Sequence[Tensor]) -> tuple[Flat, bool]:
    """The compiled function, and whether it came from the cache."""
    import torch._inductor.config
    from torch._dynamo.utils import counters

    hits = _cache_hits(counters)
    try:
        # The number of threads is compiled in; naming it makes it part of the cache's key.
        with torch.no_grad(), torch._inductor.config.patch({"cpp.threads": torch.get_num_threads()}):
            function = torch._inductor.standalone_compile(
                fusible(module, examples), list(examples), dynamic_shapes="from_example_inputs"
            )
    except Exception as error:  # inductor and the compiler raise anything
        raise CompilationFailed(f"{type(error).__name__}: {error}") from error
    return function, _cache_hits(counters) > hits


def _cache_hits(counters: Mapping[str, Mapping[str, int]]) -> int:
    return counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"]


def _compile_for_gpu(module: fx.GraphModule, examples: Sequence[Tensor], per_call: int) -> tuple[Flat, str, bool]:
    """A recording of PyTorch's own kernels or of inductor's, whichever replays faster."""
    recordings: dict[str, Flat] = {"cuda graph": CudaGraph(module, examples, per_call)}
    from_cache = False
    try:
        fused, from_cache = _inductor(module, examples)
        recordings["inductor, cuda graph"] = CudaGraph(fused, examples, per_call)
    except CompilationFailed as error:
        log.warning("inductor could not compile for the GPU, its own kernels are recorded: %s", error)
    seconds = {name: _seconds_of(recording, examples) for name, recording in recordings.items()}
    backend = min(seconds, key=lambda name: seconds[name])
    log.info("recorded as '%s'; seconds of one replay: %s", backend, seconds)
    return recordings[backend], backend, from_cache


def _seconds_of(function: Flat, examples: Sequence[Tensor]) -> float:
    """Seconds of one call, over ``COMPARED_CALLS`` calls in a row."""
    device = examples[-1].device
    function(*examples)
    synchronize(device)
    started = time.perf_counter()
    for _ in range(COMPARED_CALLS):
        function(*examples)
    synchronize(device)
    return (time.perf_counter() - started) / COMPARED_CALLS


class CudaGraph:
    """A recorded program: one launch instead of hundreds.

    The recording reads and writes memory of its own, so arguments that change are copied in, and results hold until the
    next call.

    Args:
        function: what is recorded.
        examples: arguments; the recording keeps those that do not change.
        per_call: how many of the last arguments change from call to call.
    """

    def __init__(self, function: Flat, examples: Sequence[Tensor], per_call: int) -> None:
        fixed = list(examples[: len(examples) - per_call])
        self._inputs = [tensor.clone() for tensor in examples[len(examples) - per_call :]]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):
            for _ in range(WARM_UP_CALLS):
                function(*fixed, *self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self._outputs = function(*fixed, *self._inputs)

    def __call__(self, *arguments: Tensor) -> Sequence[Tensor]:
        """Replay with the last arguments; the fixed ones are those it was recorded with."""
        for held, given in zip(self._inputs, arguments[len(arguments) - len(self._inputs) :], strict=True):
            held.copy_(given)
        self._graph.replay()
        return self._outputs
