"""What Prometheus reads of a worker. Counting is beside the work: nothing here raises, and nothing waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Literal, ParamSpec

import prometheus_client
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

from search_service.storage.tables import TrialRow
from workers.runtime.work import TimingOutcome

StepOutcome = Literal["done", "failed", "given_up", "echo"]
"""``done``: stored. ``failed``: it ended its search. ``given_up``: to be done again, or no longer wanted. ``echo``: the
job stood for a step that was done before."""

ADAPTATION_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # seconds

P = ParamSpec("P")

log = structlog.get_logger(__name__)


class _MirrorLag:
    """A gauge that is there only while this process mirrors: another one's last word would stand for ever."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauge, if it is known here."""
        family = GaugeMetricFamily(
            "lambda_search_mirror_lag_seconds", "Age of the oldest finished trial that the Optuna study lacks."
        )
        if self.seconds is not None:
            family.add_metric([], self.seconds)
        yield family


registry = CollectorRegistry()
_steps = Counter("lambda_search_steps_total", "Steps of searches.", ["phase", "outcome"], registry=registry)
_trials = Counter("lambda_search_trials_total", "Trials that came into a state.", ["state"], registry=registry)
_device_seconds = Counter(
    "lambda_search_device_seconds_total", "Seconds that the evaluator worked.", ["device", "phase"], registry=registry
)
_adaptation_seconds = Histogram(
    "lambda_search_adaptation_seconds",
    "Measured latencies of candidates.",
    ["device"],
    buckets=ADAPTATION_BUCKETS,
    registry=registry,
)
_reaped_tokens = Counter("lambda_search_reaped_tokens_total", "Tokens that the reaper brought back.", registry=registry)
_evaluator_deaths = Counter("lambda_search_evaluator_deaths_total", "Evaluators that died.", registry=registry)
_mirror_lag = _MirrorLag()
registry.register(_mirror_lag)


def _harmless(count: Callable[P, None]) -> Callable[P, None]:
    @wraps(count)
    def counting(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            count(*args, **kwargs)
        except Exception:  # what is counted wrongly must not fail what is done rightly
            log.exception("not counted", metric=count.__name__)

    return counting


def serve(port: int | None) -> int | None:
    """Serve the metrics from a thread of this process, on every address; a port that is taken is only complained of.

    Args:
        port: where; 0 takes a free one, None serves nothing.

    Returns:
        The port that is served on, if one is.
    """
    if port is None:
        return None
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server, _ = prometheus_client.start_http_server(port, registry=registry)
    except OSError as error:
        log.warning("no metrics: the port cannot be used", port=port, reason=str(error))
        return None
    log.info("metrics", port=server.server_port)
    return server.server_port


@_harmless
def step(phase: str, outcome: StepOutcome) -> None:
    """Count a step that has ended, one way or another."""
    _steps.labels(phase, outcome).inc()


@_harmless
def device_seconds(device: str, phase: str, seconds: float) -> None:
    """Count what a device has worked for a phase."""
    _device_seconds.labels(device, phase).inc(seconds)


@_harmless
def adaptations(device: str, outcome: Any) -> None:
    """Note the measured latencies of a timing run's candidates; of other outcomes nothing."""
    if isinstance(outcome, TimingOutcome):
        for figures in outcome.figures.values():
            _adaptation_seconds.labels(device).observe(figures["latency_s"]["median"])


@_harmless
def reaped(tokens: int) -> None:
    """Count tokens that were brought back."""
    _reaped_tokens.inc(tokens)


@_harmless
def evaluator_died() -> None:
    """Count a death of the evaluator."""
    _evaluator_deaths.inc()


@_harmless
def mirror_lag(seconds: float | None) -> None:
    """Set how far the study lags behind, or that another process knows."""
    _mirror_lag.seconds = seconds


def count_trials(session: Session) -> None:
    """Count the states that trials come into in a session, once they are committed."""
    states: list[str] = []

    @_harmless
    def look(session: Session, *_: Any) -> None:
        for row in session.dirty:
            if isinstance(row, TrialRow) and inspect(row).attrs.state.history.added:
                states.append(row.state)

    @_harmless
    def count(_: Session) -> None:
        for state in states:
            _trials.labels(state).inc()
        states.clear()

    event.listen(session, "before_flush", look)
    event.listen(session, "after_commit", count)
