"""What an installation pulls in, and that every bit of it is pinned."""

from __future__ import annotations

import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = {"torch", "optuna"}
OURS = ("search_service", "workers", "migrations")
DASHBOARD = "workers.dashboard"


def closure(project: dict[str, Any], *extras: str) -> set[str]:
    """Names of all distributions that `lambda-search[extras]` brings, followed through what is installed here."""
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    waiting = [Requirement(text) for text in texts]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for text in distribution(requirement.name).requires or []:
            needed = Requirement(text)
            wanted = [needed.marker.evaluate({"extra": extra}) for extra in ("", *key[1])] if needed.marker else [True]
            if any(wanted):
                waiting.append(needed)
    return {name for name, _ in seen}


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): str(requirement.specifier) for requirement in requirements}


def test_the_service_brings_neither_torch_nor_optuna(project: dict[str, Any]) -> None:
    assert not closure(project) & HEAVY


def test_the_dashboard_brings_no_torch(project: dict[str, Any]) -> None:
    assert closure(project, "dashboard") & HEAVY == {"optuna"}


def test_the_worker_brings_both(project: dict[str, Any]) -> None:
    assert closure(project, "worker") & HEAVY == HEAVY


def test_every_installed_distribution_has_one_exact_version(project: dict[str, Any], pins: dict[str, str]) -> None:
    unpinned = {name for name in closure(project, *project["optional-dependencies"]) if name not in pins}
    assert not unpinned
    assert all(pin.startswith("==") and "+" not in pin for pin in pins.values())


def test_nothing_is_pinned_that_nothing_needs(project: dict[str, Any], pins: dict[str, str]) -> None:
    assert not set(pins) - closure(project, *project["optional-dependencies"])


def test_pins_satisfy_the_declared_ranges(project: dict[str, Any], pins: dict[str, str]) -> None:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        pin = pins[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(pin), requirement


def distributions_imported(graph: grimp.ImportGraph, modules: set[str]) -> set[str]:
    """Names of the distributions that these modules import themselves."""
    imported = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    foreign = {name for name in imported if name.partition(".")[0] not in OURS} - sys.stdlib_module_names
    homes = packages_distributions()
    return {canonicalize_name(home) for name in foreign for home in homes.get(name, [name])}


def test_each_image_brings_what_its_code_imports(project: dict[str, Any]) -> None:
    graph = grimp.build_graph(*OURS, include_external_packages=True, cache_dir=None)
    ours = {module for module in graph.modules if module.partition(".")[0] in OURS}
    worker = {module for module in ours if module.partition(".")[0] == "workers"} - {DASHBOARD}
    # The embedded Postgres is for machines without a server; no image needs it.
    embedded = {Requirement(text).name for text in project["optional-dependencies"]["local"]}
    # Traces are for who installs their extra; `lambda-search doctor` looks at the store of artifacts where it can.
    traces, looked_at = closure(project, "telemetry"), {"fsspec"}
    service = distributions_imported(graph, ours - worker - {DASHBOARD})
    assert service <= closure(project) | embedded | traces | looked_at
    assert distributions_imported(graph, worker) <= closure(project, "worker") | traces
    assert distributions_imported(graph, ours & {DASHBOARD}) <= closure(project, "dashboard")
