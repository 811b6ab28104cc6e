"""The four-block convolutional network of few-shot learning (Vinyals et al., arXiv 1606.04080, section 4.1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from workers.adaptation.normalisation import EpisodeNorm
from workers.adaptation.units import Units

BLOCKS = 4


class Conv4(nn.Module):
    """Four blocks of 3x3 convolution, normalisation and ReLU, each halving the feature map, and a linear head.

    With ``pooling="max"`` a block ends in 2x2 max-pooling and the head sees the flattened map; with ``"stride"`` the
    convolutions have stride 2 and the head sees the map's mean (as in the code of Finn et al., arXiv 1703.03400).
    Units: ``conv1..conv4`` (convolution and normalisation together) and ``head``.

    Args:
        input_shape: channels, height, width; with max-pooling height and width must be at least 16.
        outputs: classes.
        filters: channels of every block.
        pooling: how a block halves its map.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        outputs: int,
        filters: int = 64,
        pooling: Literal["max", "stride"] = "max",
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        for number in range(1, BLOCKS + 1):
            block = OrderedDict[str, nn.Module](
                convolution=nn.Conv2d(channels, filters, 3, stride=1 if pooling == "max" else 2, padding=1),
                norm=EpisodeNorm(filters),
                activation=nn.ReLU(),
            )
            if pooling == "max":
                block["pool"] = nn.MaxPool2d(2)
                height, width = height // 2, width // 2
            self.add_module(f"conv{number}", nn.Sequential(block))
            channels = filters
        if pooling == "max" and min(height, width) < 1:
            raise ValueError(f"four max-poolings leave nothing of a {input_shape[1]}x{input_shape[2]} image")
        self.pooling = pooling
        self.head = nn.Linear(filters * height * width if pooling == "max" else filters, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: a ``N x outputs``-dim tensor of ``x``, a ``N x channels x height x width``-dim tensor."""
        for number in range(1, BLOCKS + 1):
            x = self.get_submodule(f"conv{number}")(x)
        return self.head(x.flatten(1) if self.pooling == "max" else x.mean((2, 3)))  # type: ignore[no-any-return]

    def units(self) -> Units:
        """``conv1..conv4, head``."""
        return {
            name: tuple(f"{name}.{parameter}" for parameter, _ in child.named_parameters())
            for name, child in self.named_children()
        }
