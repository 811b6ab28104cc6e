"""Traces by OpenTelemetry, where they are configured: one span per API request and per step of a worker.

They are where OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra ``telemetry`` is installed; OpenTelemetry's other
variables (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and so on) mean what they mean everywhere.
Without, nothing of it is imported here. FastAPI itself makes the spans of requests once a tracer provider is set.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Tracer

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"
EXPORT_TIMEOUT = 3.0  # seconds of one export unless TIMEOUT says otherwise; a process that ends waits for its last one
SEARCH = "lambda_search.search"
"""Attribute that names the search a span is about."""
OUTCOME = "lambda_search.outcome"
"""Attribute that says how a worker's step ended."""

log = structlog.get_logger(__name__)

_tracer: Tracer | None = None


def start(service: str, processor: SpanProcessor | None = None) -> bool:
    """Begin to trace, if that is configured. Call it once, where a process begins.

    Args:
        service: the process's name in traces, unless OTEL_SERVICE_NAME says another.
        processor: gets the spans instead of the exporter that the environment configures.

    Returns:
        Whether spans are made.
    """
    global _tracer
    if processor is None and not os.environ.get(ENDPOINT):
        return False
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        processor = _exporting() if processor is None else processor
    except ImportError as error:
        log.warning("no traces: pip install 'lambda-search[telemetry]'", reason=str(error))
        return False
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(processor)
    trace.set_tracer_provider(provider)
    _tracer = provider.get_tracer("lambda_search")
    return True


def span(name: str, **attributes: Any) -> AbstractContextManager[Any]:
    """A span around a block; an error that leaves the block is noted on it. Nothing where nothing is traced.

    Args:
        name: what is done.
        attributes: what it is done to; written as ``lambda_search.NAME``.
    """
    if _tracer is None:
        return nullcontext()
    described = {f"lambda_search.{key}": value for key, value in attributes.items()}
    return _tracer.start_as_current_span(name, attributes=described)


def describe(key: str, value: str) -> None:
    """Add an attribute to the present span, if there is one."""
    if _tracer is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attribute(key, value)


def _exporting() -> SpanProcessor:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(timeout=None if os.environ.get(TIMEOUT) else EXPORT_TIMEOUT))
