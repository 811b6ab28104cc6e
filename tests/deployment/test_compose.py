"""The compose file: valid, private by default, and made of commands that exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

COMPOSE_SERVICES = {"postgres", "migrate", "api", "worker", "worker-gpu", "dashboard"}
LOOPBACK = "${LAMBDA_SEARCH_BIND:-127.0.0.1}:"


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Folder in the container -> volume or folder of the host; a `${NAME:-default}` may hold colons itself."""
    return {folder: source for source, folder in (volume.rsplit(":", 1) for volume in service.get("volumes", []))}


def check_against_specification(file: Path) -> subprocess.CompletedProcess[str]:
    """The Compose specification's own JSON schema, as check-jsonschema ships it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_follows_the_compose_specification(repository: Path) -> None:
    check = check_against_specification(repository / "docker-compose.yml")
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_misspelt_key_does_not_follow_it(tmp_path: Path, compose: dict[str, Any]) -> None:
    wrong = {**compose, "services": {**compose["services"], "api": {"imagee": "lambda-search-service"}}}
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(wrong))
    check = check_against_specification(file)
    assert check.returncode == 1
    assert "imagee" in check.stdout


def test_it_names_the_services(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == COMPOSE_SERVICES


def test_every_published_port_listens_on_loopback_unless_told_otherwise(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"api", "dashboard"}
    for ports in published.values():
        for port in ports:
            assert port.startswith(LOOPBACK), port


def test_no_service_leaves_its_network(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert not {"network_mode", "privileged", "pid", "ipc"} & set(service), name


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_workers_scale(compose: dict[str, Any], name: str) -> None:
    worker = compose["services"][name]
    assert not {"container_name", "hostname", "ports"} & set(worker)


def test_workers_of_a_host_share_artifacts_and_the_timing_lock(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in ("worker", "worker-gpu"):
        environment = services[name]["environment"]
        assert mounts(services[name])[environment["LAMBDA_SEARCH_HOME"]] == "data"
        assert mounts(services[name])[environment["LAMBDA_SEARCH_LOCK_DIR"]] == "locks"
        assert environment["LAMBDA_SEARCH_DATA_DIR"] in mounts(services[name])


def test_only_the_gpu_profile_asks_for_a_gpu(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name for name, service in services.items() if "deploy" in service} == {"worker-gpu"}
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_nothing_of_ours_starts_before_the_migrations(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in COMPOSE_SERVICES - {"postgres", "migrate"}:
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}, name


def test_every_volume_is_declared(compose: dict[str, Any]) -> None:
    used = {source for service in compose["services"].values() for source in mounts(service).values()}
    used = {"datasets" if source == "${LAMBDA_SEARCH_DATA_DIR:-datasets}" else source for source in used}
    assert used == set(compose["volumes"])


def test_targets_are_stages_of_the_dockerfile(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    targets = {name: s["build"]["target"] for name, s in compose["services"].items() if "build" in s}
    assert set(targets) == COMPOSE_SERVICES - {"postgres"}
    assert set(targets.values()) <= set(stages)


def our_commands(compose: dict[str, Any]) -> dict[str, list[str]]:
    return {name: service["command"] for name, service in compose["services"].items() if "command" in service}


def test_commands_are_those_of_the_images(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    for name, command in our_commands(compose).items():
        if name == "migrate":  # the only service that runs another command than its image's own
            continue
        (image_command,) = stages[compose["services"][name]["build"]["target"]].values("CMD")
        assert command == json.loads(image_command)


def test_commands_name_one_subcommand_each(compose: dict[str, Any]) -> None:
    commands = our_commands(compose).values()
    assert {command[0] for command in commands} == {"lambda-search"}
    assert {command[1] for command in commands} == {"api", "worker", "dashboard", "migrate"}


@pytest.mark.parametrize("service", ["api", "worker", "dashboard", "migrate"])
def test_the_command_line_understands_the_command(repository: Path, compose: dict[str, Any], service: str) -> None:
    # An unknown subcommand or option is refused before --help is answered.
    arguments = our_commands(compose)[service][1:]
    command_line = [sys.executable, "-c", "from search_service.cli import main; main()", *arguments, "--help"]
    run = subprocess.run(command_line, cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
