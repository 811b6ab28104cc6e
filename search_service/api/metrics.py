"""What Prometheus reads of the API: requests are counted in this process, all else is read when it asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import prometheus_client
from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from search_service.api.access import Reader
from search_service.api.context import Db
from search_service.storage import workers
from search_service.storage.database import QUEUE_SCHEMA
from search_service.storage.tables import SearchRow, WorkerRow

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Stands for methods and paths that this service does not have: whoever asks must not make new series."""

router = APIRouter(tags=["health"])


class ApiMetrics:
    """What one API process has counted."""

    def __init__(self) -> None:
        # Each counter would bring a second series with the time at which it was made.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "lambda_search_http_requests_total",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "lambda_search_http_request_seconds",
            "Seconds until an answer began; an event stream then goes on.",
            ["method", "route"],
            registry=self.registry,
        )

    def count(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request.

        Args:
            method: as it was sent.
            route: the template of its path, never the path itself; None where there is no such path.
            status: what it was answered with.
            seconds: how long its answer took to begin.
        """
        named = method if method in METHODS else OTHER, route or OTHER
        self._requests.labels(*named, str(status)).inc()
        self._seconds.labels(*named).observe(seconds)


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request, _: Reader, database: Db, accept: Annotated[str, Header()] = "") -> Response:
    """Metrics in the format that Prometheus asks for."""
    encode, content_type = choose_encoder(accept)
    listeners = GaugeMetricFamily("lambda_search_event_listeners", "Event streams open in this process.")
    listeners.add_metric([], request.app.state.change_feed.follower_count)
    with database.session() as session:
        stored = [_searches(session), _queue_jobs(session), _workers(session)]
    counted: ApiMetrics = request.app.state.metrics
    return Response(encode(_Scrape([*counted.registry.collect(), *stored, listeners])), media_type=content_type)


class _Scrape(CollectorRegistry):
    """What one request is answered with."""

    def __init__(self, found: Iterable[Metric]) -> None:
        super().__init__()
        self._found = list(found)

    def collect(self) -> Iterator[Metric]:
        return iter(self._found)


def _searches(session: Session) -> Metric:
    family = GaugeMetricFamily("lambda_search_searches", "Searches stored.", labels=["status", "device"])
    query = select(SearchRow.status, SearchRow.device, func.count()).group_by(SearchRow.status, SearchRow.device)
    for status, device, count in session.execute(query):
        family.add_metric([status, device], count)
    return family


def _queue_jobs(session: Session) -> Metric:
    family = GaugeMetricFamily(
        "lambda_search_queue_jobs",
        "Jobs in the queue; todo waits, doing is being done, successful ones are deleted.",
        labels=["device", "state"],
    )
    query = f"select queue_name, status::text, count(*) from {QUEUE_SCHEMA}.procrastinate_jobs group by 1, 2"
    for device, state, count in session.execute(text(query)):
        family.add_metric([device, state], count)
    return family


def _workers(session: Session) -> Metric:
    family = GaugeMetricFamily("lambda_search_workers", "Workers that have announced themselves.", labels=["device"])
    query = select(WorkerRow.device, func.count()).where(workers.is_announced()).group_by(WorkerRow.device)
    for device, count in session.execute(query):
        family.add_metric([device], count)
    return family
