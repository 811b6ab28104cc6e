"""The architecture diagram, which is the import contracts in pyproject.toml, holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

DOMAIN = "search_service.domain"


def test_the_contracts_hold(repository: Path) -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run([lint_imports, "--no-cache"], cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def domain_imports() -> set[str]:
    graph = grimp.build_graph("search_service", include_external_packages=True, cache_dir=None)
    modules = {DOMAIN, *graph.find_descendants(DOMAIN)}
    imported = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    return imported - modules


def test_the_domain_needs_the_standard_library_only(domain_imports: set[str]) -> None:
    assert domain_imports, "the graph holds external packages"
    assert domain_imports <= sys.stdlib_module_names


def test_a_worker_beside_its_evaluator_stays_small() -> None:
    """The parent process predicts latencies and decides; only its child computes."""
    code = (
        "import sys, workers.runtime.worker; print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
