"""Traces, each in a process of its own: a tracer provider is set once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

SEARCH = "11111111-2222-3333-4444-555555555555"

REQUEST = f"""
from fastapi.testclient import TestClient
from search_service import telemetry
from search_service.api.app import create_app
from search_service.settings import Settings
print(telemetry.start("lambda-search-api"))
client = TestClient(create_app(Settings(database_url="postgresql://nobody@127.0.0.1:1/none")), base_url="http://localhost")
assert client.get("/v1/searches/{SEARCH}").status_code == 401
assert client.get("/livez").status_code == 200
with telemetry.span("step search", search="{SEARCH}", token=1):
    telemetry.describe(telemetry.OUTCOME, "done")
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """URL of a receiver on loopback, and the bodies that were posted to it."""
    bodies: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_requests_and_steps_are_spans_that_name_their_search(collector: tuple[str, list[bytes]]) -> None:
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    url, bodies = collector
    done = run(REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True\n"
    spans = {}
    for body in bodies:
        for resource in trace_service.ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert names["service.name"] == "lambda-search-api"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    spans[span.name] = {each.key: each.value for each in span.attributes}
    assert set(spans) == {"GET /v1/searches/{search_id}", "step search"}
    assert all(span["lambda_search.search"].string_value == SEARCH for span in spans.values())
    assert spans["GET /v1/searches/{search_id}"]["http.response.status_code"].int_value == 401
    assert spans["step search"]["lambda_search.outcome"].string_value == "done"
    assert spans["step search"]["lambda_search.token"].int_value == 1


def test_a_collector_that_is_gone_delays_no_end() -> None:
    pytest.importorskip("opentelemetry.sdk")
    started = time.monotonic()
    done = run(REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 10


def test_without_an_endpoint_nothing_is_imported() -> None:
    done = run(f"{REQUEST}\nimport sys; assert 'opentelemetry.sdk' not in sys.modules")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


def test_without_the_extra_it_says_what_to_install() -> None:
    code = f"import sys; sys.modules['opentelemetry.sdk'] = None\n{REQUEST}"
    done = run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "pip install 'lambda-search[telemetry]'" in done.stdout
    assert done.stdout.endswith("False\n")
