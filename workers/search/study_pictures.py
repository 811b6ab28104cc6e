"""What a finished search leaves on its Optuna study to look at: the front, and how much each unit matters.

Drawing and forests are loaded when the first search ends: a worker that only waits has no use for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from search_service.domain.candidate import Candidate
from search_service.domain.result import SearchResult

FRONT_PLOT, IMPORTANCE_PLOT = "front", "unit-importance"
DASHBOARD_WIDTH = 400
"""Pixels between a plot's axes on the dashboard, or a little more: names of points are placed for it."""
FEWEST_JUDGED = 10
"""Candidates below which no importance is told."""
MOST_STEPS = 64
"""Of any candidate: see ``search_service.domain.search.Space``."""

Judged = Sequence[tuple[Candidate, float]]
"""Candidates and their mean degradations."""


def save_front(study: optuna.Study, result: SearchResult) -> None:
    """Save latency against quality, as in the pictures of a result, on the study."""
    from workers.search.pictures.plane import plane_of
    from workers.search.pictures.plotly_figures import plane_figure

    figure = plane_figure(plane_of(result))
    names = dict(figure.layout.meta["names"])[DASHBOARD_WIDTH]
    title = "Front: latency against quality"
    figure.update_layout(title=title, margin={"t": 60}, meta=None, annotations=names)
    _save(study, figure, FRONT_PLOT)


def save_importance(study: optuna.Study, judged: Judged, unit_names: Sequence[str]) -> None:
    """Save the importance of each unit, where it can be told, on the study: as a plot, and as an attribute."""
    import plotly.graph_objects as go

    importance = unit_importance(judged, unit_names)
    if not importance:
        return
    study.set_user_attr("unit_importance", {name: round(share, 4) for name, share in importance.items()})
    names, shares = list(importance), list(importance.values())
    bars = go.Bar(x=shares, y=names, orientation="h", text=[f"{share:.0%}" for share in shares])
    layout = {
        "template": "none",
        "title": f"Importance of units for degradation, {len(judged)} candidates",
        "xaxis": {"title": "share of the variance of degradation (fANOVA)", "range": [0, 1.1], "tickformat": ".0%"},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    _save(study, go.Figure(bars, layout), IMPORTANCE_PLOT)


def unit_importance(judged: Judged, unit_names: Sequence[str]) -> dict[str, float]:
    """How much of the variance of degradation each unit explains, by in how many inner steps it moves.

    Functional ANOVA of a random forest (Hutter et al., ICML 2014), as Optuna computes it. It speaks of the candidates
    judged: a search in order of latency judges few that move the first units.

    Args:
        judged: the candidates of a search.
        unit_names: input to output.

    Returns:
        A share for each unit, in their order; none where too few candidates were judged, or all lose the same.
    """
    degradations = {degradation for _, degradation in judged}
    if len(judged) < FEWEST_JUDGED or len(degradations) < 2:
        return {}
    study = optuna.create_study()
    study.add_trials([_trial(candidate, degradation, unit_names) for candidate, degradation in judged])
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(found[name]) for name in unit_names}


def _trial(candidate: Candidate, degradation: float, unit_names: Sequence[str]) -> optuna.trial.FrozenTrial:
    moves = [sum(row[unit] for row in candidate.pattern.rows) for unit in range(len(unit_names))]
    return optuna.trial.create_trial(
        value=degradation,
        params=dict(zip(unit_names, moves, strict=True)),
        distributions={name: IntDistribution(0, MOST_STEPS) for name in unit_names},
    )


def _save(study: optuna.Study, figure: Any, name: str) -> None:
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, figure, graph_object_id=name)
