"""The outer loop: Adam on the outer gradient, in slices that each end in a state from which anyone can go on.

The state after iteration i depends on the recipe alone (tasks are drawn by index, rate and loss weights are functions
of i), so a training cut into slices, killed and resumed gives the parameters that an unbroken one gives. A long
training looks for its fastest execution once, which may change how sums are rounded; its states name the execution, so
that whoever goes on from one computes alike.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from search_service.domain.candidate import Candidate
from search_service.domain.errors import LambdaSearchError
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.recipe import Recipe
from workers.adaptation.episodes import Episodes
from workers.adaptation.inner_loop import Adaptation, Parameters
from workers.adaptation.lanes import Lanes
from workers.adaptation.model import adaptation_for, batch_tensors, episodes_at_once
from workers.adaptation.networks import build_network
from workers.meta_training.execution import WORTH_CHOOSING_S, Execution, choose, eager_options
from workers.meta_training.maml import OuterGradient
from workers.meta_training.outer_loss import step_weights

GRADIENT_NORM_LIMIT = 10.0
"""The outer gradient is scaled down to this norm: second-order gradients of a young network can be huge."""

ITERATIONS_BEFORE_CHOOSING = 10
"""Iterations in one process whose fastest says how long the training will take."""
MEASURED_CALLS = 5
"""Calls by which an execution is measured, in turn with those of the others; the fastest of them counts."""

Progress = Callable[[int, float], None]
"""Called with the iterations done and a running mean of the outer loss; may raise to stop."""


class MetaTrainer:
    """Meta-trains the network of a recipe.

    Args:
        recipe: what is trained and how.
        episodes: the recipe's task family.
        device: where.
        lanes: where tasks are computed side by side.
        begin: parameters to begin from, where the recipe is a retraining.

    Raises:
        ValueError: a retraining without ``begin``.
    """

    def __init__(
        self,
        recipe: Recipe,
        episodes: Episodes,
        device: torch.device,
        lanes: Lanes | None = None,
        begin: Parameters | None = None,
    ) -> None:
        if (recipe.retraining is None) != (begin is None):
            raise ValueError("a retraining, and nothing else, begins from given parameters")
        self.recipe = recipe
        self.episodes = episodes
        self.device = device
        self.iteration = 0
        self.mean_loss = math.nan
        training = recipe.meta_training
        network = build_network(recipe.model, episodes.input_shape, recipe.tasks.outputs, training.seed).to(device)
        if begin is not None:
            network.load_state_dict(begin)
        self.adaptation: Adaptation = adaptation_for(
            network,
            recipe.tasks,
            training.inner_rate,
            recipe.norm_statistics,
            create_graph=training.order == "second",
            units=None if recipe.retraining is None else dict(recipe.retraining.units),
        )
        self._usual = Execution(episodes_at_once(recipe.model, device))
        self._outer_gradient = OuterGradient(
            self.adaptation,
            self.candidate.pattern,
            lanes or Lanes(),
            self._usual,
            factors=self.candidate.factors,
        )
        self._has_chosen = False
        self._call_seconds: list[float] = []
        self.parameters: Parameters = {
            name: parameter.clone() for name, parameter in self.adaptation.parameters().items()
        }
        self._optimizer = torch.optim.Adam(self.parameters.values(), lr=training.outer_rate)

    @property
    def candidate(self) -> Candidate:
        """What the inner loop is: full adaptation, or what is retrained under."""
        units = len(self.adaptation.units)
        if self.recipe.retraining is not None:
            return Candidate.parse(self.recipe.retraining.candidate, units)
        return Candidate(LambdaPattern.full(units, self.recipe.meta_training.inner_steps))

    @property
    def is_finished(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= self.recipe.meta_training.iterations

    def run(self, seconds: float, progress: Progress = lambda _iterations, _loss: None) -> None:
        """Train until finished or until ``seconds`` have passed, whichever is first; at least one iteration."""
        stop_at = time.monotonic() + seconds
        while not self.is_finished:
            self._iterate()
            progress(self.iteration, self.mean_loss)
            if time.monotonic() >= stop_at:
                return

    def state(self) -> bytes:
        """Parameters, Adam's moments and the iteration, as a safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"parameters.{name}"] = parameter
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
        metadata = {"iteration": str(self.iteration), "mean_loss": repr(self.mean_loss), "recipe": self.recipe.key}
        if self._has_chosen:
            metadata["execution"] = self._outer_gradient.execution.text
        return save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)

    def restore(self, state: bytes) -> None:
        """Go on from what :meth:`state` wrote.

        Raises:
            ValueError: it belongs to another recipe.
        """
        metadata = _metadata(state)
        if metadata["recipe"] != self.recipe.key:
            raise ValueError(f"training state of recipe {metadata['recipe'][:12]}, expected {self.recipe.key[:12]}")
        tensors = load(state)
        self._optimizer.state.clear()
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[f"parameters.{name}"])
            moments = {
                key: tensors[f"adam.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"adam.{key}.{name}" in tensors
            }
            if moments:
                self._optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(self.device) for key, value in moments.items()
                }
        self._has_chosen = "execution" in metadata
        execution = Execution.parse(metadata["execution"]).here(self.device) if self._has_chosen else self._usual
        if execution != self._outer_gradient.execution:
            self._outer_gradient = replace(self._outer_gradient, execution=execution)
        self.iteration = int(metadata["iteration"])
        self.mean_loss = float(metadata["mean_loss"])

    def checkpoint(self) -> bytes:
        """The parameters alone, as a safetensors file with the recipe in its metadata."""
        return save(
            {name: parameter.contiguous() for name, parameter in self.parameters.items()},
            {"config": json.dumps(self.recipe.config, sort_keys=True)},
        )

    def _iterate(self) -> None:
        training = self.recipe.meta_training
        if training.schedule == "cosine":
            scale = 0.5 * (1 + math.cos(math.pi * self.iteration / training.iterations))
            self._optimizer.param_groups[0]["lr"] = training.outer_rate * scale
        batch = self.episodes.draw(
            Split.TRAIN, training.seed, self.iteration * training.meta_batch, training.meta_batch
        )
        gradient, loss = self._gradient(batch_tensors(batch, self.device))
        for name, parameter in self.parameters.items():
            parameter.grad = gradient[name]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), GRADIENT_NORM_LIMIT)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedTraining(self.iteration, training.inner_rate)
        self._optimizer.step()
        self.mean_loss = loss if math.isnan(self.mean_loss) else 0.98 * self.mean_loss + 0.02 * loss
        self.iteration += 1

    def _gradient(self, tasks: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Parameters, float]:
        """The outer gradient of a batch of tasks, and its loss; on the way, look for the fastest execution once."""
        training = self.recipe.meta_training
        weights = None
        if training.outer_loss == "every_step":
            weights = step_weights(training.inner_steps, self.iteration, training.iterations)
        step_tensor = None if weights is None else torch.tensor(weights, device=self.device)

        def compute(outer_gradient: OuterGradient) -> tuple[Parameters, float]:
            return outer_gradient(self.parameters, *tasks, step_tensor)

        started = time.perf_counter()
        result = compute(self._outer_gradient)
        if not self._has_chosen and len(self._call_seconds) < ITERATIONS_BEFORE_CHOOSING:
            self._call_seconds.append(time.perf_counter() - started)
            if len(self._call_seconds) == ITERATIONS_BEFORE_CHOOSING:
                self._choose_execution(compute)
        return result

    def _choose_execution(self, compute: Callable[[OuterGradient], object]) -> None:
        """Go on in the execution that is fastest at ``compute``, if enough is left to do."""
        training = self.recipe.meta_training
        left = training.iterations - self.iteration
        if left * min(self._call_seconds) < WORTH_CHOOSING_S:
            return
        tried: dict[Execution, OuterGradient] = {}

        def seconds_left(executions: Sequence[Execution]) -> dict[Execution, float]:
            for execution in executions:
                tried.setdefault(execution, replace(self._outer_gradient, execution=execution))
                compute(tried[execution])  # traces or compiles
            seconds = dict.fromkeys(executions, math.inf)
            for _ in range(MEASURED_CALLS):
                for execution in executions:
                    started = time.perf_counter()
                    compute(tried[execution])
                    seconds[execution] = min(seconds[execution], time.perf_counter() - started)
            return {execution: left * value for execution, value in seconds.items()}

        options = eager_options(self._usual, training.meta_batch, self._outer_gradient.lanes.count, self.device)
        self._outer_gradient = tried[choose(self._usual, options, seconds_left, self.device)]
        self._has_chosen = True


class DivergedTraining(LambdaSearchError):
    """The outer loss or its gradient is no longer a number."""

    def __init__(self, iteration: int, inner_rate: float) -> None:
        super().__init__(
            f"meta-training diverged at iteration {iteration} (the loss or its gradient is not a number): lower "
            f"meta_training.inner_rate (now {inner_rate}) or meta_training.outer_rate"
        )


def read_checkpoint(data: bytes, device: torch.device) -> tuple[Parameters, dict[str, Any]]:
    """Parameters and recipe config of what :meth:`MetaTrainer.checkpoint` wrote."""
    parameters = {name: tensor.to(device) for name, tensor in load(data).items()}
    return parameters, json.loads(_metadata(data)["config"])


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: after an 8-byte little-endian length, a JSON header holds it."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length])["__metadata__"]
    return metadata
