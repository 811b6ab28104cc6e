"""The Grafana dashboard and Prometheus' configuration: they ask for metrics, ports and services that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

API_METRICS = {
    "lambda_search_http_requests_total": {"method", "route", "status"},
    "lambda_search_http_request_seconds": {"method", "route"},
    "lambda_search_searches": {"status", "device"},
    "lambda_search_queue_jobs": {"device", "state"},
    "lambda_search_event_listeners": set(),
    "lambda_search_workers": {"device"},
}
WORKER_METRICS = {
    "lambda_search_steps_total": {"phase", "outcome"},
    "lambda_search_trials_total": {"state"},
    "lambda_search_device_seconds_total": {"device", "phase"},
    "lambda_search_adaptation_seconds": {"device"},
    "lambda_search_reaped_tokens_total": set(),
    "lambda_search_evaluator_deaths_total": set(),
    "lambda_search_mirror_lag_seconds": set(),
}
METRICS: dict[str, set[str]] = API_METRICS | WORKER_METRICS
"""Metrics by name, without what a histogram appends, with their labels."""
OF_EVERY_TARGET = {"instance", "job", "le"}
"""Labels that Prometheus or a histogram adds."""
FROM_THE_DATABASE = {"lambda_search_searches", "lambda_search_queue_jobs", "lambda_search_workers"}
"""Gauges that every API process tells of the same rows."""
COLUMNS = 24


@pytest.fixture(scope="module")
def dashboard(repository: Path) -> dict[str, Any]:
    return json.loads((repository / "deploy/grafana/lambda-search.json").read_text())


@pytest.fixture(scope="module")
def prometheus(repository: Path) -> dict[str, Any]:
    return yaml.safe_load((repository / "deploy/prometheus.yml").read_text())


def expressions(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def metrics_in(expression: str) -> set[str]:
    names = re.findall(r"lambda_search_[a-z_]+", expression)
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_it_shows_every_metric_and_no_other(dashboard: dict[str, Any]) -> None:
    assert set().union(*(metrics_in(expression) for expression in expressions(dashboard))) == set(METRICS)


def test_it_groups_and_chooses_by_labels_that_the_metric_has(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        known = OF_EVERY_TARGET.union(*(METRICS[name] for name in metrics_in(expression)))
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        used = {label.strip() for group in grouped for label in group.split(",")}
        used |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|=|!=|!~)", expression))
        assert used <= known, expression


def test_counters_are_shown_as_rates_and_histograms_as_quantiles(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for metric in re.findall(r"lambda_search_[a-z_]+(?:_total|_bucket)\b(?:\{[^}]*\})?", expression):
            assert re.search(rf"(rate|increase)\({re.escape(metric)}\[\$__rate_interval\]\)", expression), expression
        assert ("histogram_quantile" in expression) == ("_bucket" in expression)


def test_what_every_api_tells_is_not_added_up(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for metric in metrics_in(expression) & FROM_THE_DATABASE:
            assert re.search(rf"max by \([^)]*\) \({metric}\b", expression), expression


def test_brackets_close(dashboard: dict[str, Any]) -> None:
    for expression in expressions(dashboard):
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression


def test_legends_name_labels_that_remain(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            outermost = re.findall(r"\bby \(([^)]*)\)", target["expr"])[:1]
            remain = {label.strip() for group in outermost for label in group.split(",")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= remain, target


def test_panels_have_ids_of_their_own_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells


def test_it_asks_the_data_source_that_is_chosen_at_its_top(dashboard: dict[str, Any]) -> None:
    (variable,) = dashboard["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == f"${{{variable['name']}}}"


def test_prometheus_asks_the_services_of_the_compose_file(prometheus: dict[str, Any], compose: dict[str, Any]) -> None:
    services = compose["services"]
    api, worker = prometheus["scrape_configs"]
    (target,) = api["static_configs"][0]["targets"]
    name, _, port = target.partition(":")
    assert port in services[name]["command"]
    (found,) = worker["dns_sd_configs"]
    for name in found["names"]:
        assert services[name]["environment"]["LAMBDA_SEARCH_METRICS_PORT"] == found["port"]


def test_prometheus_shows_the_api_a_key_from_a_file(prometheus: dict[str, Any]) -> None:
    api, worker = prometheus["scrape_configs"]
    assert api["authorization"].keys() == {"type", "credentials_file"}
    assert "authorization" not in worker
