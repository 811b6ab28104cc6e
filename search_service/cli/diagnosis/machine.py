"""Checks of what this machine could compute, where the workers' packages are installed: devices and datasets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from search_service.cli.diagnosis.finding import Finding, failure, ok, warning
from search_service.cli.environment import is_installed
from search_service.cli.processes import module_command, module_environment
from search_service.settings import Settings

LIMIT = 120.0  # seconds; importing torch takes a few, on a cold disk many

_NO_WORKER = "not looked at: no worker can run here without 'lambda-search[worker]'"


class _Unanswered(Exception):
    """A process of the workers' side failed; says how."""


def check_devices(_: Settings) -> Iterator[Finding]:
    """The devices that a worker could serve, and what would compile for them."""
    if not is_installed("worker"):
        yield ok("devices", _NO_WORKER)
        return
    try:
        devices: list[dict[str, Any]] = json.loads(_said("workers.runtime.devices"))
    except (_Unanswered, ValueError) as error:
        yield failure("devices", str(error), "install 'lambda-search[worker]' anew; PyTorch must be importable")
        return
    for device in devices:
        yield _device(device)


def check_datasets(settings: Settings) -> Iterator[Finding]:
    """The task families that can be drawn here."""
    folder = settings.data_dir
    shown = f"{folder}{'' if folder.is_dir() else ' (not there yet)'}"
    if not is_installed("worker"):
        yield ok("datasets", f"{shown}: {_NO_WORKER}")
        return
    try:
        lines = _said("workers.adaptation.episodes", "list", "--data-dir", str(folder)).splitlines()
    except _Unanswered as error:
        yield failure("datasets", str(error), "install 'lambda-search[worker]' anew")
        return
    said = {family: rest.strip() for family, _, rest in (line.partition(" ") for line in lines)}
    ready = [family for family, rest in said.items() if rest == "ready"]
    yield ok("datasets", f"{shown}: {', '.join(ready) or 'nothing'} ready")
    for family in said.keys() - set(ready):
        # The reason ends with what to do.
        reason, _, to_do = said[family].rpartition(": ")
        yield warning("datasets", f"{family}: {reason or to_do}", f"if you need it, {to_do}")


def _device(device: dict[str, Any]) -> Finding:
    name = device["device"]
    if "error" in device:
        return failure("devices", f"{name}: {device['error']}", "check the driver: `nvidia-smi` must list the device")
    compiler = device["compiler"]
    what = device.get("gpu") or f"{device['processor']}, {device['cores']} cores"
    found = f"{name}: {what}, torch {device['torch']}, {f'compiler {compiler}' if compiler else 'no compiler'}"
    if not compiler:
        return warning("devices", found, "for the runtime 'compiled', install g++ and python3-dev")
    return ok("devices", found)


def _said(module: str, *arguments: str) -> str:
    command = module_command(module, *arguments)
    try:
        done = subprocess.run(
            command, env=module_environment(), capture_output=True, text=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _Unanswered(f"`python -m {module}` has not answered within {LIMIT:.0f} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise _Unanswered(f"`python -m {module}` failed: {last}")
    return done.stdout
