"""Sinusoid regression (Finn et al., arXiv 1703.03400, section 5.1): y = amplitude * sin(x - phase)."""

from __future__ import annotations

import numpy as np

from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes.episode import EpisodeBatch, draw_digest, episode_uniforms

AMPLITUDES = (0.1, 5.0)
PHASES = (0.0, np.pi)  # radians
INPUTS = (-5.0, 5.0)


class SinusoidEpisodes:
    """Each task is one sinusoid; amplitude, phase and inputs are uniform. Splits differ by their random stream only."""

    def __init__(self, task: TaskFamily) -> None:
        self.task = task
        self.input_shape = (1,)

    def class_count(self, split: Split) -> None:
        """None: these tasks have no classes."""

    def classes(self, split: Split, seed: int, start: int, count: int) -> None:
        """Regression tasks have no classes."""
        return

    def draw(self, split: Split, seed: int, start: int, count: int) -> EpisodeBatch:
        """Draw episodes ``start`` to ``start + count - 1``; x and y are `float32 [count, shots or queries, 1]`.

        Raises:
            ValueError: ``seed``, ``start`` or ``count`` is negative.
        """
        shots = self.task.shots
        uniforms = episode_uniforms(split, seed, start, count, 2 + shots + self.task.queries)
        amplitude = AMPLITUDES[0] + (AMPLITUDES[1] - AMPLITUDES[0]) * uniforms[:, :1]
        phase = PHASES[0] + (PHASES[1] - PHASES[0]) * uniforms[:, 1:2]
        x = INPUTS[0] + (INPUTS[1] - INPUTS[0]) * uniforms[:, 2:]
        digest = draw_digest(self.task, split, np.concatenate((amplitude, phase, x), axis=1))
        inputs = x.astype(np.float32)[:, :, None]
        targets = (amplitude * np.sin(x - phase)).astype(np.float32)[:, :, None]
        return EpisodeBatch(
            support_x=inputs[:, :shots],
            support_y=targets[:, :shots],
            query_x=inputs[:, shots:],
            query_y=targets[:, shots:],
            digest=digest,
        )
