"""The inner loop as pure functions: parameters, pattern and support set in, adapted state out.

Written for any ``nn.Module`` (see ``workers.adaptation.forward``); nothing here mutates a network. A step takes
gradients of the active units only, which is what a pattern costs in use; ``workers.adaptation.shared_runs`` judges many
patterns at once by the same functions.

Notation: P parameters by name, U units, S inner steps, N support and M query examples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.forward import forward
from workers.adaptation.normalisation import Statistics, applying, collecting, replace_batch_norms
from workers.adaptation.units import Units, units_of

Parameters = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
NormStatistics = Literal["support", "query", "running"]
"""Whose statistics normalise: the support set's, each batch's own, or those that the network holds as constants."""

_logger = logging.getLogger(__name__)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of ``N x ways`` logits against ``N`` labels."""
    return functional.cross_entropy(logits, labels)


def regression_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of ``N x outputs`` predictions."""
    return functional.mse_loss(predictions, targets)


@dataclass(frozen=True, slots=True)
class AdaptedState:
    """What predictions need: all parameters after the last step, and the support set's normalisation statistics.

    ``statistics`` is empty unless ``norm_statistics`` is ``support``, and for networks without normalisation.
    """

    parameters: Parameters
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How a network adapts, whatever the pattern: the network's function, its units, loss, rate and statistics."""

    network: nn.Module
    units: Units
    loss: Loss
    rate: float
    norm_statistics: NormStatistics = "support"
    create_graph: bool = True
    """False detaches the inner gradients: first order for whoever differentiates through the adaptation."""
    replaced_norms: tuple[str, ...] = ()
    """Names of the modules whose running statistics gave way to ``norm_statistics`` (see ``of``)."""

    @classmethod
    def of(
        cls,
        network: nn.Module,
        loss: Loss,
        rate: float,
        norm_statistics: NormStatistics = "support",
        create_graph: bool = True,
        units: Units | None = None,
    ) -> Adaptation:
        """The adaptation of a network with ``units``, or those that it declares.

        Where the network has PyTorch's batch normalisation, the adaptation owns a copy in which ``norm_statistics``
        decides what that normalises by, whatever mode (``train()``, ``eval()``) the network is in.

        Raises:
            UnsupportedNetwork: its units are none, or its normalisation cannot follow ``norm_statistics``.
        """
        units = units_of(network, units)
        stateless, replaced = replace_batch_norms(network, running=norm_statistics == "running")
        if replaced:
            _logger.info(
                "%s: %s now normalise by %s statistics", type(network).__name__, ", ".join(replaced), norm_statistics
            )
        return cls(stateless, units, loss, rate, norm_statistics, create_graph, replaced)

    def parameters(self) -> Parameters:
        """The network's own parameters, detached: the initial parameters of an adaptation."""
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def names_of(self, row: Sequence[bool]) -> tuple[str, ...]:
        """Names of the parameters that a row of a pattern updates."""
        if len(row) != len(self.units):
            raise ValueError(f"a row of {len(row)} units for a network of {len(self.units)}")
        return tuple(name for active, names in zip(row, self.units.values(), strict=True) if active for name in names)


def support_gradient(
    adaptation: Adaptation, parameters: Parameters, active: Sequence[str], support_x: Tensor, support_y: Tensor
) -> Parameters:
    """Gradient of the support loss with respect to the ``active`` parameters only.

    Args:
        adaptation: how the network adapts.
        parameters: all P parameters.
        active: names of those to differentiate by.
        support_x: ``N x ...``-dim tensor.
        support_y: ``N``-dim labels or ``N x outputs``-dim targets.
    """

    def support_loss(moving: Parameters) -> Tensor:
        return adaptation.loss(forward(adaptation.network, {**parameters, **moving}, support_x), support_y)

    gradient = grad(support_loss)({name: parameters[name] for name in active})
    return gradient if adaptation.create_graph else {name: value.detach() for name, value in gradient.items()}


def inner_step(
    adaptation: Adaptation,
    parameters: Parameters,
    row: Sequence[bool],
    support_x: Tensor,
    support_y: Tensor,
    factor: float = 1.0,
) -> Parameters:
    """One gradient step of the units that ``row`` names, at ``factor`` times the base rate.

    Returns all parameters; those of frozen units are the same objects. (Khabarlak, arXiv 2206.05930, section 3; rate
    factors are ours.)
    """
    gradient = support_gradient(adaptation, parameters, adaptation.names_of(row), support_x, support_y)
    stepped = {name: moved(adaptation, parameters[name], value, factor) for name, value in gradient.items()}
    return {**parameters, **stepped}


def moved(adaptation: Adaptation, parameter: Tensor, gradient: Tensor, factor: float = 1.0) -> Tensor:
    """``parameter - factor * rate * gradient``, in one operation."""
    return torch.sub(parameter, gradient, alpha=adaptation.rate * factor)


def support_statistics(adaptation: Adaptation, parameters: Parameters, support_x: Tensor) -> Statistics:
    """Normalisation statistics of the support set under ``parameters``; empty where predictions need none."""
    if adaptation.norm_statistics != "support":
        return {}
    with collecting(adaptation.network) as statistics:
        forward(adaptation.network, parameters, support_x)
    return statistics


def adapt(
    adaptation: Adaptation,
    parameters: Parameters,
    pattern: LambdaPattern,
    support_x: Tensor,
    support_y: Tensor,
    factors: Sequence[float] | None = None,
) -> AdaptedState:
    """Adapt under a pattern; the empty pattern leaves the parameters untouched.

    Args:
        adaptation: how the network adapts.
        parameters: all P parameters.
        pattern: S rows of U units.
        support_x: ``N x ...``-dim tensor.
        support_y: ``N``-dim labels or ``N x outputs``-dim targets.
        factors: of the base rate, one per row; all 1 unless given.
    """
    for row, factor in zip(pattern.rows, factors or (1.0,) * pattern.steps, strict=True):
        parameters = inner_step(adaptation, parameters, row, support_x, support_y, factor)
    return AdaptedState(parameters, support_statistics(adaptation, parameters, support_x))


def predict(adaptation: Adaptation, state: AdaptedState, query_x: Tensor) -> Tensor:
    """Outputs for ``query_x``, a ``M x ...``-dim tensor, from an adapted state.

    Under ``support`` and ``running`` statistics each prediction is independent of the other queries; under ``query``
    the batch's own statistics are used, as published MAML tables do.
    """
    if adaptation.norm_statistics != "support":
        return forward(adaptation.network, state.parameters, query_x)
    with applying(adaptation.network, state.statistics):
        return forward(adaptation.network, state.parameters, query_x)
