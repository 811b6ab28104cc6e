"""The compose file: valid, private by default, and made of commands, settings and secrets that exist."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import SecretsSettingsSource

from search_service.settings import ENV_PREFIX, Settings
from search_service.storage.keys import PREFIX

COMPOSE_SERVICES = {"postgres", "migrate", "api", "worker", "worker-gpu", "dashboard"}
OURS = COMPOSE_SERVICES - {"postgres"}
LONG_RUNNING = COMPOSE_SERVICES - {"migrate"}
LOOPBACK = "${LAMBDA_SEARCH_BIND:-127.0.0.1}:"
SECRETS = "${LAMBDA_SEARCH_SECRETS_DIR:-./deploy/secrets}/"


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


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_processes_hold_no_privileges(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_every_long_running_service_has_a_healthcheck(
    compose: dict[str, Any], stages: dict[str, Any], name: str
) -> None:
    service = compose["services"][name]
    if "build" in service:
        assert "healthcheck" not in service, "the image's own holds"
        assert stages[service["build"]["target"]].values("HEALTHCHECK")
    else:
        assert service["healthcheck"]["test"][0] == "CMD"


def test_variables_of_containers_are_settings(compose: dict[str, Any]) -> None:
    for name in OURS:
        for variable in compose["services"][name].get("environment", {}):
            assert variable.removeprefix(ENV_PREFIX).lower() in Settings.model_fields, variable


def test_variables_of_the_file_are_explained_at_its_top(repository: Path) -> None:
    text = (repository / "docker-compose.yml").read_text()
    explained = set(re.findall(r"[A-Z_]{5,}", "".join(line for line in text.splitlines(True) if line.startswith("#"))))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) <= explained


def test_names_to_be_asked_under_are_a_list(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    variable = compose["services"]["api"]["environment"]["LAMBDA_SEARCH_ALLOWED_HOSTS"]
    default = re.fullmatch(r"\$\{LAMBDA_SEARCH_ALLOWED_HOSTS:-(.*)\}", variable)
    assert default is not None
    monkeypatch.setenv("LAMBDA_SEARCH_ALLOWED_HOSTS", default[1])
    assert Settings().allowed_hosts == ["api"]


def test_no_secret_stands_in_the_file(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        secret = [v for v in service.get("environment", {}) if "PASSWORD" in v or v.endswith(("_URL", "_KEY"))]
        told = {variable for variable in secret if not variable.endswith("_FILE")}
        assert told <= {"LAMBDA_SEARCH_DASHBOARD_URL"}, name


def test_the_report_links_to_the_dashboard_where_it_is_published(compose: dict[str, Any]) -> None:
    variable = compose["services"]["api"]["environment"]["LAMBDA_SEARCH_DASHBOARD_URL"]
    (published,) = compose["services"]["dashboard"]["ports"]
    assert variable == "${LAMBDA_SEARCH_DASHBOARD_URL-http://127.0.0.1:8080}"
    assert published == "${LAMBDA_SEARCH_BIND:-127.0.0.1}:8080:8080"


def test_every_secret_is_a_file_that_somebody_reads(compose: dict[str, Any]) -> None:
    assert compose["secrets"] == {name: {"file": SECRETS + name} for name in compose["secrets"]}
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", [])}
    assert used == set(compose["secrets"])


def test_secrets_of_our_processes_are_settings(compose: dict[str, Any]) -> None:
    for name in OURS:
        for secret in compose["services"][name]["secrets"]:
            assert secret.startswith(ENV_PREFIX.lower())
            assert secret.removeprefix(ENV_PREFIX.lower()) in Settings.model_fields
    with_admin_key = {name for name in OURS if "lambda_search_admin_key" in compose["services"][name]["secrets"]}
    assert with_admin_key == {"migrate"}


def make_secrets(repository: Path, folder: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, str(repository / "deploy/make-secrets"), str(folder)], check=True, capture_output=True)


def test_made_secrets_are_those_of_the_file_and_settings_read_them(
    repository: Path, compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    make_secrets(repository, folder)
    assert {file.name for file in folder.iterdir()} == set(compose["secrets"])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # Compose mounts the files as they are, and our containers run as another user.
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}

    read = SecretsSettingsSource(Settings, secrets_dir=folder)()
    password = (folder / "postgres_password").read_text()
    environment = compose["services"]["postgres"]["environment"]
    assert len(password) == 43
    assert read["admin_key"].startswith(PREFIX)
    assert read["database_url"] == (
        f"postgresql://{environment['POSTGRES_USER']}:{password}@postgres:5432/{environment['POSTGRES_DB']}"
    )


def test_secrets_are_made_once(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "lambda_search_database_url").write_text("postgresql://mine@elsewhere/database")
    make_secrets(repository, tmp_path)
    first = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert set(first) == {"lambda_search_database_url", "lambda_search_admin_key"}, "no password for another Postgres"
    make_secrets(repository, tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == first


def test_two_services_have_different_secrets(repository: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_secrets(repository, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        assert file.read_text() != (tmp_path / "two" / file.name).read_text()


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
    assert device["count"] == "all", "so that a further worker may be told to take another one"
    assert device["capabilities"] == ["gpu"]


def test_nothing_of_ours_starts_before_the_migrations(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in OURS - {"migrate"}:
        assert services[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}, name


def test_every_volume_is_declared(compose: dict[str, Any]) -> None:
    used = {source for service in compose["services"].values() for source in mounts(service).values()}
    used = {"datasets" if source == "${LAMBDA_SEARCH_DATA_DIR:-datasets}" else source for source in used}
    assert used == set(compose["volumes"])


def test_targets_are_stages_of_the_dockerfile(compose: dict[str, Any], stages: dict[str, Any]) -> None:
    targets = {name: s["build"]["target"] for name, s in compose["services"].items() if "build" in s}
    assert set(targets) == OURS
    assert set(targets.values()) <= set(stages)


def our_commands(compose: dict[str, Any]) -> dict[str, list[str]]:
    return {name: compose["services"][name]["command"] for name in OURS}


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
