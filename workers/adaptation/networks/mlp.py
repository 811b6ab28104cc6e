"""Fully connected network, as in the sinusoid regression of Finn et al. (arXiv 1703.03400, section 5.1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from workers.adaptation.units import Units


class MLP(nn.Module):
    """Hidden layers with ReLU and a linear head. Units: ``layer1..layerN, head``.

    Args:
        input_shape: shape of one example; it is flattened.
        outputs: numbers predicted.
        hidden: widths of the hidden layers.
    """

    def __init__(self, input_shape: tuple[int, ...], outputs: int, hidden: Sequence[int] = (40, 40)) -> None:
        super().__init__()
        width = prod(input_shape)
        for number, next_width in enumerate(hidden, start=1):
            layer = OrderedDict[str, nn.Module](linear=nn.Linear(width, next_width), activation=nn.ReLU())
            self.add_module(f"layer{number}", nn.Sequential(layer))
            width = next_width
        self.depth = len(hidden)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions: a ``N x outputs``-dim tensor of ``x``, a ``N x ...``-dim tensor."""
        x = x.flatten(1)
        for number in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return self.head(x)  # type: ignore[no-any-return]

    def units(self) -> Units:
        """``layer1..layerN, head``."""
        return {
            name: tuple(f"{name}.{parameter}" for parameter, _ in child.named_parameters())
            for name, child in self.named_children()
        }
