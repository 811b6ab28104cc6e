"""``lambda-search doctor``: looks at everything that a service needs, and says what to do about what it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

import typer

from search_service.cli.diagnosis.finding import Check, Finding, Level, failure
from search_service.cli.environment import InvalidSettings, read_settings
from search_service.cli.exits import FAILURE
from search_service.cli.remote import Json, Profile, Url, print_json


def doctor(as_json: Json = False, url: Url = None, profile: Profile = None) -> None:
    """Check database, migrations, queue, workers, storage, devices and service, and say what to do.

    Exit code 0 when nothing failed, else 1.
    """
    findings = []
    for finding in _findings(url, profile):
        findings.append(finding)
        if not as_json:
            _show(finding)
    counts = Counter(finding.level for finding in findings)
    healthy = not counts[Level.FAILURE]
    if as_json:
        print_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        print(", ".join(f"{counts[level]} {level}" for level in Level))
    if not healthy:
        raise typer.Exit(FAILURE)


def _findings(url: str | None, profile: str | None) -> Iterator[Finding]:
    for name, check in _checks(url, profile):
        try:
            yield from check()
        except Exception as error:  # what one check did not foresee must not keep the others from looking
            yield failure(name, f"the check broke off: {type(error).__name__}: {error}", "report this, with the output")


def _checks(url: str | None, profile: str | None) -> Iterator[tuple[str, Check]]:
    """Name of each group of checks, and the checks; those that need settings only where they can be read."""
    from search_service.cli.diagnosis import machine, places, service, stored

    try:
        settings = read_settings()
    except InvalidSettings as error:
        found = failure("settings", str(error), "correct these environment variables")
        yield "settings", lambda: iter([found])
    else:
        yield "settings", partial(places.check_settings, settings)
        yield "database", partial(stored.check_database, settings)
        yield "artifacts", partial(places.check_artifacts, settings)
        yield "datasets", partial(machine.check_datasets, settings)
        yield "folders", partial(places.check_folders, settings)
        yield "devices", partial(machine.check_devices, settings)
    yield "service", partial(service.check_service, url, profile)


def _show(finding: Finding) -> None:
    print(f"{finding.level:<8} {finding.check:<14} {finding.found}", flush=True)
    if finding.to_do is not None:
        print(f"{'':<8} {'':<14} -> {finding.to_do}", flush=True)
