"""From a task family's words to the functions of its adaptation: which loss, which metric, which tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search_service.domain.search import NetworkSpec, TaskFamily
from workers.adaptation.episodes import EpisodeBatch
from workers.adaptation.inner_loop import (
    Adaptation,
    NormStatistics,
    classification_loss,
    regression_loss,
)
from workers.adaptation.judging import accuracy, negative_mse
from workers.adaptation.shared_runs import Metric
from workers.adaptation.units import Units

TOGETHER = 25
"""Episodes in one call where calls are dear."""


def adaptation_for(
    network: nn.Module,
    tasks: TaskFamily,
    rate: float,
    norm_statistics: NormStatistics,
    create_graph: bool = True,
    units: Units | None = None,
) -> Adaptation:
    """How ``network`` adapts to tasks of a family: mean squared error for regression, cross-entropy otherwise."""
    loss = regression_loss if tasks.is_regression else classification_loss
    return Adaptation.of(network, loss, rate, norm_statistics, create_graph, units)


def metric_for(tasks: TaskFamily) -> Metric:
    """The quality of a task family: accuracy, or negative mean squared error for regression."""
    return negative_mse if tasks.is_regression else accuracy


def episodes_at_once(network: NetworkSpec, device: torch.device) -> int:
    """How many episodes one program call should compute together.

    On a CPU core, convolutions whose filters differ by episode gain nothing from it (measured: 0.7 to 1.3 times a
    loop's speed), while the tiny products of an MLP are all overhead one by one. A GPU wants many of either.
    """
    return 1 if network.network == "conv4" and device.type == "cpu" else TOGETHER


def batch_tensors(batch: EpisodeBatch, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support x and y, query x and y of a batch of episodes, on ``device``."""
    arrays = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    x, y, qx, qy = (torch.from_numpy(array).to(device) for array in arrays)
    return x, y, qx, qy
