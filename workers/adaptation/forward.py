"""One forward pass of any ``nn.Module`` as a pure function of its parameters and input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Thread

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from search_service.domain.errors import UnsupportedNetwork
from workers.adaptation.normalisation import collecting

Versions = dict[str, tuple[Tensor, int]]


def forward(network: nn.Module, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Outputs of ``network`` with ``parameters`` in place of its own; may run inside any transform of ``torch.func``.

    Args:
        network: left as it is.
        parameters: by the network's names.
        x: ``N x ...``-dim tensor.

    Raises:
        UnsupportedNetwork: the pass changes buffers or parameters, so that the next pass would compute something else.
    """
    before = _versions(network, parameters)
    try:
        with _elementary_attention():
            outputs: Tensor = functional_call(network, dict(parameters), (x,))
    except RuntimeError as error:
        # Transforms stop some changes themselves, with messages about their own inner life.
        _run_plainly(network, x)
        _refuse_changes(network, before, parameters, error)
        raise
    _refuse_changes(network, before, parameters, None)
    return outputs


@contextmanager
def _elementary_attention() -> Iterator[None]:
    """Within it, attention runs as matrix products and a softmax.

    Fused attention has no second derivative, counts as a random operation (it can drop out) and hides its work from
    whoever counts it; the fused inference path of ``nn.MultiheadAttention`` has no derivative at all. PyTorch keeps the
    choice for the whole process.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _versions(network: nn.Module, parameters: Mapping[str, Tensor]) -> Versions:
    """Every buffer and parameter in use, and how often it was written to in place."""
    return {name: (tensor, tensor._version) for name, tensor in [*network.named_buffers(), *parameters.items()]}


def _refuse_changes(
    network: nn.Module, before: Versions, parameters: Mapping[str, Tensor], cause: Exception | None
) -> None:
    after = _versions(network, parameters)
    changed = [name for name, old in before.items() if name not in after or not _same(old, after[name])]
    if changed := changed + [name for name in after if name not in before]:
        raise UnsupportedNetwork(
            f"{type(network).__name__}: a forward pass changes {', '.join(changed)}; an adaptation must be a function "
            "of its inputs: switch off what keeps a state between passes (for many modules eval() does)"
        ) from cause


def _same(old: tuple[Tensor, int], new: tuple[Tensor, int]) -> bool:
    return old[0] is new[0] and old[1] == new[1]


def _run_plainly(network: nn.Module, x: Tensor) -> None:
    """Run the network on zeros of the shape of ``x``, outside all transforms, so that its changes can be seen.

    In a thread of its own, since transforms belong to the thread that began them.
    """

    def run() -> None:
        with suppress(Exception), torch.no_grad(), collecting(network):
            network(torch.zeros(x.shape, dtype=x.dtype, device=x.device))

    thread = Thread(target=run)
    thread.start()
    thread.join()
