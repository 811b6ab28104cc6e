"""Small networks of many kinds, as people write them: none knows anything of adaptation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.adaptation.networks import MLP, Conv4

WAYS = 3


class Residual(nn.Module):
    """Three 3x3 convolutions, a 1x1 shortcut, 2x2 max-pooling; activation and sum in place."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        for number in (1, 2, 3):
            self.add_module(f"conv{number}", nn.Conv2d(channels if number == 1 else filters, filters, 3, padding=1))
            self.add_module(f"norm{number}", nn.BatchNorm2d(filters))
        self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, bias=False), nn.BatchNorm2d(filters))
        self.activation = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in (1, 2, 3):
            y = self.get_submodule(f"norm{number}")(self.get_submodule(f"conv{number}")(y))
            if number < 3:
                y = self.activation(y)
        y += self.shortcut(x)
        return functional.max_pool2d(self.activation(y), 2)


class ResNet12(nn.Module):
    """Four residual blocks of three convolutions (Lee et al., arXiv 1904.03758, section 4.1), and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 2, 2, 4, 4)
        for number in range(1, 5):
            self.add_module(f"block{number}", Residual(widths[number - 1], widths[number]))
        self.head = nn.Linear(widths[-1], WAYS)

    def forward(self, x: Tensor) -> Tensor:
        for number in range(1, 5):
            x = self.get_submodule(f"block{number}")(x)
        return torch.as_tensor(self.head(x.mean((2, 3))))


class Encoder(nn.Module):
    """A transformer block, normalised after each sum; PyTorch's module or its function does the attention."""

    def __init__(self, width: int, heads: int, as_module: bool) -> None:
        super().__init__()
        self.heads = heads
        if as_module:
            self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        else:
            self.projections = nn.Linear(width, 3 * width)
        self.norm1 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "attention"):
            attended, _ = self.attention(x, x, x, need_weights=False)
        else:
            parts = self.projections(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            attended = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = self.norm1(x + attended)
        return torch.as_tensor(self.norm2(x + self.feed(x)))


class Attention(nn.Module):
    """Embeds patches of 4x4 pixels, two transformer blocks, a head. The network itself owns the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(1, 8, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(4, 8))
        self.encoder1 = Encoder(8, 2, as_module=True)
        self.encoder2 = Encoder(8, 4, as_module=False)
        self.head = nn.Linear(8, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x).flatten(2).transpose(1, 2) + self.positions
        return torch.as_tensor(self.head(self.encoder2(self.encoder1(tokens)).mean(1)))

    def units(self) -> dict[str, tuple[str, ...]]:
        units = {
            name: [f"{name}.{own}" for own, _ in child.named_parameters()] for name, child in self.named_children()
        }
        units["embedding"].append("positions")
        return {name: tuple(names) for name, names in units.items()}


class Unrolled(nn.Module):
    """One body used at two depths, with another layer in between; activations and a residual sum in place."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(6, 5)
        self.body = nn.Linear(5, 5)
        self.between = nn.Linear(5, 5)
        self.head = nn.Linear(5, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        entered = self.entry(x).tanh_()
        x = self.body(entered).sigmoid_()
        x = self.body(self.between(x).relu_())
        x += entered
        return torch.as_tensor(self.head(x))


class Recurrent(nn.Module):
    """Reads the numbers of an example one by one; PyTorch's recurrent modules keep lists of their own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(1, 4, batch_first=True)
        self.head = nn.Linear(4, WAYS)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.memory(x.unsqueeze(-1))
        return torch.as_tensor(self.head(states[:, -1]))


def _normalised_mlp() -> nn.Module:
    layers = OrderedDict[str, nn.Module](
        layer1=nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, eps=1e-3, momentum=None), nn.ReLU(inplace=True)),
        layer2=nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.SiLU(inplace=True)),
        layer3=nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, affine=False), nn.Tanh(), nn.Dropout(0.5)),
        head=nn.Linear(5, WAYS),
    )
    return nn.Sequential(layers)


def _other_norms() -> nn.Module:
    layers = OrderedDict[str, nn.Module](
        group=nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)),
        instance=nn.Sequential(nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ELU(inplace=True)),
        plain=nn.Sequential(nn.Conv2d(4, 3, 3), nn.Hardtanh(inplace=True), nn.Flatten()),
        head=nn.Linear(12, WAYS),
    )
    return nn.Sequential(layers)


_IMAGE, _FLAT = (1, 8, 8), (6,)
_BUILDERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv4": (lambda: Conv4((1, 16, 16), WAYS, 3), (1, 16, 16)),
    "resnet12": (ResNet12, (1, 16, 16)),
    "mlp": (lambda: MLP(_FLAT, WAYS, (5, 4)), _FLAT),
    "normalised mlp": (_normalised_mlp, _FLAT),
    "attention": (Attention, _IMAGE),
    "shared parameters": (Unrolled, _FLAT),
    "recurrent": (Recurrent, _FLAT),
    "other norms": (_other_norms, _IMAGE),
}
NAMES = tuple(_BUILDERS)


def build(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network in evaluation mode, with parameters and running statistics unlike their initial ones."""
    builder, shape = _BUILDERS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        network = builder().double()
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            network(torch.randn(9, *shape, dtype=torch.float64))
    return network.to(dtype).eval()


def episode(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Support x and y, two examples of each class, and five query x."""
    generator = torch.Generator().manual_seed(seed)
    shape = _BUILDERS[name][1]
    labels = torch.arange(WAYS).repeat(2)
    x = torch.randn(2 * WAYS, *shape, generator=generator, dtype=torch.float64)
    x += (labels.double() - 1).reshape(-1, *(1 for _ in shape))
    queries = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), labels, queries.to(dtype)
