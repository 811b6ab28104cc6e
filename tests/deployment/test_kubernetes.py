"""The Kubernetes manifests: valid, and made of images, commands, settings, secrets and routes that exist."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from search_service.api import health
from search_service.settings import ENV_PREFIX, SECRETS_DIR, Settings
from workers.dashboard import Gate
from workers.runtime.__main__ import main as worker_main

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
FOLDERS = ("base", "gpu", "trial", "cluster")
OVERLAYS = ("trial", "cluster")
KUBERNETES = "1.34"
"""Version whose schemas the manifests follow."""
IMAGE = "lambda-search-"
"""Before the name of a target of the Dockerfile."""
DEPLOYMENTS = {"api", "dashboard", "worker-cpu", "worker-gpu"}
WORKERS = {"worker-cpu", "worker-gpu"}
SHUTDOWN = 10  # seconds that our processes take at most to end after SIGTERM

Manifest = dict[str, Any]


def kustomization(folder: str) -> Manifest:
    return yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())


def read_manifests() -> Iterator[tuple[str, Manifest]]:
    for folder in FOLDERS:
        for resource in kustomization(folder)["resources"]:
            if resource.endswith(".yaml"):
                for manifest in yaml.safe_load_all((MANIFESTS / folder / resource).read_text()):
                    yield f"{folder}/{manifest['kind']}/{manifest['metadata']['name']}", manifest


ALL = dict(read_manifests())
PODS = {name: manifest["spec"]["template"] for name, manifest in ALL.items() if "template" in manifest.get("spec", {})}
OUR_PODS = {name: pod for name, pod in PODS.items() if not name.startswith("trial/")}


def of_kind(kind: str) -> dict[str, Manifest]:
    """Manifests of a kind by their own name."""
    return {m["metadata"]["name"]: m for m in ALL.values() if m["kind"] == kind}


def main_container(pod: Manifest) -> Manifest:
    (container,) = pod["spec"]["containers"]
    return container


def containers(pod: Manifest) -> list[Manifest]:
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def test_every_file_belongs_to_a_kustomization() -> None:
    listed = {f"{folder}/{resource}" for folder in FOLDERS for resource in kustomization(folder)["resources"]}
    found = {f"{file.parent.name}/{file.name}" for file in MANIFESTS.glob("*/*.yaml")}
    assert found == {name for name in listed if name.endswith(".yaml")} | {f"{f}/kustomization.yaml" for f in FOLDERS}


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_follows_the_schema_of_its_kind(name: str) -> None:
    kubernetes_validate.validate(ALL[name], KUBERNETES, strict=True)


def test_a_misspelt_key_does_not_follow_it() -> None:
    wrong = json.loads(json.dumps(ALL["base/Deployment/api"]))
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_what_runs() -> None:
    assert set(of_kind("Deployment")) == DEPLOYMENTS
    assert set(of_kind("Job")) == {"migrate"}
    assert of_kind("Deployment")["api"]["spec"]["replicas"] == 2


@pytest.mark.parametrize("name", sorted(OUR_PODS))
def test_images_are_targets_of_the_dockerfile(name: str, stages: dict[str, Any]) -> None:
    for container in containers(OUR_PODS[name]):
        assert container["image"].removeprefix(IMAGE) in {"service", "dashboard", "worker"} & set(stages)


def test_overlays_choose_tags_for_these_images() -> None:
    used = {container["image"] for pod in OUR_PODS.values() for container in containers(pod)}
    assert {image["name"] for image in kustomization("cluster")["images"]} == used


@pytest.mark.parametrize("name", sorted(OUR_PODS))
def test_the_command_line_understands_the_command(name: str, repository: Path) -> None:
    # An unknown subcommand or option is refused before --help is answered.
    program, *arguments = main_container(OUR_PODS[name])["command"]
    assert program == "lambda-search"
    command_line = [sys.executable, "-c", "from search_service.cli import main; main()", *arguments, "--help"]
    run = subprocess.run(command_line, cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_commands_are_those_of_the_images(stages: dict[str, Any]) -> None:
    for name in DEPLOYMENTS:
        container = main_container(of_kind("Deployment")[name]["spec"]["template"])
        (image_command,) = stages[container["image"].removeprefix(IMAGE)].values("CMD")
        own = json.loads(image_command)
        assert container["command"][: len(own)] == own
        assert container["command"][len(own) :] == (
            ["--device", {"worker-cpu": "cpu", "worker-gpu": "cuda:0"}[name]] if name in WORKERS else []
        )


def test_the_worker_takes_a_device() -> None:
    # `lambda-search worker` hands its options on unread.
    assert "device" in inspect.signature(worker_main).parameters


def variables(container: Manifest) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container.get("env", [])}


def test_variables_are_settings() -> None:
    named = {variable for pod in OUR_PODS.values() for c in containers(pod) for variable in variables(c)}
    for folder in FOLDERS:
        for generator in kustomization(folder).get("configMapGenerator", []):
            named |= {literal.split("=")[0] for literal in generator["literals"]}
    for variable in named:
        assert variable.startswith(ENV_PREFIX)
        assert variable.removeprefix(ENV_PREFIX).lower() in Settings.model_fields, variable


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_of_an_overlay_can_be_read(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (generator,) = kustomization(overlay)["configMapGenerator"]
    assert generator["behavior"] == "merge"
    for literal in generator["literals"]:
        monkeypatch.setenv(*literal.split("=", 1))
    settings = Settings()
    assert re.match(r"(s3|file)://", settings.artifacts_url)
    assert "api" in settings.allowed_hosts


def test_config_maps_are_generated() -> None:
    maps = {
        source["configMapRef"]["name"]
        for pod in OUR_PODS.values()
        for container in containers(pod)
        for source in container.get("envFrom", [])
        if "configMapRef" in source
    }
    assert maps == {generator["name"] for generator in kustomization("base")["configMapGenerator"]}


def secrets_of(pod: Manifest) -> tuple[set[str], set[str]]:
    """Secrets that a pod must have, and those that it may have."""
    needed, optional = set(), set()
    for volume in pod["spec"].get("volumes", []):
        if "secret" in volume:
            needed.add(volume["secret"]["secretName"])
        for source in volume.get("projected", {}).get("sources", []):
            needed.add(source["secret"]["name"])
    for container in containers(pod):
        for source in container.get("envFrom", []):
            if "secretRef" in source:
                (optional if source["secretRef"].get("optional") else needed).add(source["secretRef"]["name"])
    return needed, optional


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_secret_is_generated_from_a_file(overlay: str) -> None:
    generators = {generator["name"]: generator for generator in kustomization(overlay)["secretGenerator"]}
    pods = [pod for name, pod in PODS.items() if name.split("/")[0] in ("base", "gpu", overlay)]
    needed = set().union(*(secrets_of(pod)[0] for pod in pods))
    optional = set().union(*(secrets_of(pod)[1] for pod in pods))
    assert needed <= set(generators) <= needed | optional
    for generator in generators.values():
        assert generator.keys() <= {"name", "files", "envs"}, "nothing secret stands in the file itself"
        for file in generator.get("files", []) + generator.get("envs", []):
            assert file.startswith("secrets/")


def test_secrets_stay_out_of_the_repository(repository: Path) -> None:
    assert "secrets/" in (repository / "deploy/.gitignore").read_text().split()


@pytest.mark.parametrize("name", sorted(OUR_PODS))
def test_secrets_lie_where_settings_look_for_them(name: str) -> None:
    mounts = {mount["name"]: mount for mount in main_container(OUR_PODS[name])["volumeMounts"]}
    assert Path(mounts["secrets"]["mountPath"]) == SECRETS_DIR
    keys = {key for pair in kustomization("cluster")["secretGenerator"] for key in pair.get("files", [])}
    for key in keys:
        assert Path(key).name.removeprefix(ENV_PREFIX.lower()) in Settings.model_fields


def test_only_the_migration_knows_the_admin_key() -> None:
    assert [name for name, pod in PODS.items() if "admin-key" in secrets_of(pod)[0]] == ["base/Job/migrate"]


@pytest.mark.parametrize("name", sorted(PODS))
def test_pods_run_without_root_and_without_privileges(name: str) -> None:
    pod = PODS[name]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in containers(PODS[name]):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context.get("runAsNonRoot", True) or container["name"] == "node-folders"
        if name in OUR_PODS:
            assert context["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("name", sorted(OUR_PODS))
def test_pods_run_as_the_user_of_the_images(name: str, stages: dict[str, Any]) -> None:
    context = OUR_PODS[name]["spec"]["securityContext"]
    for container in containers(OUR_PODS[name]):
        (user,) = stages[container["image"].removeprefix(IMAGE)].values("USER")
        assert context["runAsUser"] == context["fsGroup"] == int(user)


@pytest.mark.parametrize("name", sorted(PODS))
def test_every_mount_is_a_volume_and_every_volume_is_mounted(name: str) -> None:
    volumes = {volume["name"] for volume in PODS[name]["spec"].get("volumes", [])}
    claims = ALL[name]["spec"].get("volumeClaimTemplates", [])
    volumes |= {claim["metadata"]["name"] for claim in claims}
    assert {mount["name"] for c in containers(PODS[name]) for mount in c.get("volumeMounts", [])} == volumes


@pytest.mark.parametrize("name", sorted(PODS))
def test_every_container_says_what_it_needs(name: str) -> None:
    for container in containers(PODS[name]):
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert "memory" in resources["limits"]


@pytest.mark.parametrize("name", sorted(PODS))
def test_selectors_find_their_pods(name: str) -> None:
    if "selector" in ALL[name]["spec"]:
        assert ALL[name]["spec"]["selector"]["matchLabels"].items() <= PODS[name]["metadata"]["labels"].items()


def test_services_lead_to_ports_of_pods() -> None:
    for name, service in of_kind("Service").items():
        selector = service["spec"]["selector"].items()
        chosen = [pod for pod in PODS.values() if selector <= pod["metadata"]["labels"].items()]
        assert chosen, name
        for pod in chosen:
            named = {port["name"]: port["containerPort"] for port in main_container(pod)["ports"]}
            for port in service["spec"]["ports"]:
                assert named[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("name", ["api", "dashboard"])
def test_ports_are_those_that_the_process_listens_on(name: str, stages: dict[str, Any]) -> None:
    container = main_container(of_kind("Deployment")[name]["spec"]["template"])
    (exposed,) = stages[container["image"].removeprefix(IMAGE)].values("EXPOSE")
    listens = container["command"][container["command"].index("--port") + 1]
    assert [str(port["containerPort"]) for port in container["ports"]] == [listens] == [exposed]


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_metrics_are_served_where_prometheus_asks(name: str) -> None:
    container = main_container(of_kind("Deployment")[name]["spec"]["template"])
    (port,) = container["ports"]
    assert variables(container)["LAMBDA_SEARCH_METRICS_PORT"] == str(port["containerPort"])


def test_the_ingress_leads_to_the_api_under_a_name_it_goes_by() -> None:
    (ingress,) = of_kind("Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    (settings,) = kustomization("cluster")["configMapGenerator"]
    literals = dict(literal.split("=", 1) for literal in settings["literals"])
    assert rule["host"] in json.loads(literals["LAMBDA_SEARCH_ALLOWED_HOSTS"])
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    ports = of_kind("Service")[backend["name"]]["spec"]["ports"]
    assert backend["port"]["name"] in {port["name"] for port in ports}


def probes(container: Manifest) -> dict[str, Manifest]:
    return {name: container[name] for name in ("startupProbe", "livenessProbe", "readinessProbe") if name in container}


def test_probes_of_the_api_are_routes_that_ask_for_no_key() -> None:
    asked = probes(main_container(of_kind("Deployment")["api"]["spec"]["template"]))
    assert set(asked) == {"startupProbe", "livenessProbe", "readinessProbe"}
    open_paths = {route.path for route in health.router.routes}  # type: ignore[attr-defined]
    assert {probe["httpGet"]["path"] for probe in asked.values()} == {"/livez", "/readyz"} <= open_paths
    assert asked["livenessProbe"]["httpGet"]["path"] == "/livez", "a lost database is no reason to start anew"


def test_the_dashboard_answers_its_probes_under_any_name() -> None:
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("the gate answers itself")

    async def ask(path: str) -> int:
        transport = httpx.ASGITransport(app=Gate(behind, []))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.7:8080") as client:
            return (await client.get(path)).status_code

    asked = probes(main_container(of_kind("Deployment")["dashboard"]["spec"]["template"]))
    assert set(asked) == {"startupProbe", "livenessProbe"}
    for probe in asked.values():
        assert asyncio.run(ask(probe["httpGet"]["path"])) == 200


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_workers_are_alive_by_the_check_of_their_image(name: str, stages: dict[str, Any]) -> None:
    asked = probes(main_container(of_kind("Deployment")[name]["spec"]["template"]))
    (check,) = stages["worker"].values("HEALTHCHECK")
    for probe in asked.values():
        assert probe["exec"]["command"] == json.loads(check.partition("CMD ")[2])


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_workers_of_a_node_share_its_folder(name: str) -> None:
    pod = of_kind("Deployment")[name]["spec"]["template"]
    (volume,) = [volume for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    assert volume["hostPath"] == {"path": "/var/lib/lambda-search", "type": "DirectoryOrCreate"}
    (prepare,) = pod["spec"]["initContainers"]
    for container in (prepare, main_container(pod)):
        assert {"name": volume["name"], "mountPath": "/node"} in container["volumeMounts"]
    for variable in ("LOCK_DIR", "COMPILE_CACHE", "DATA_DIR"):
        assert variables(main_container(pod))[ENV_PREFIX + variable] in prepare["command"]


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_workers_can_write_where_they_must(name: str) -> None:
    container = main_container(of_kind("Deployment")[name]["spec"]["template"])
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    for variable, value in variables(container).items():
        if value is not None and value.startswith("/"):
            assert any(Path(value).is_relative_to(folder) for folder in writable), variable


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_a_new_worker_waits_until_the_old_one_has_given_its_device_up(name: str) -> None:
    assert of_kind("Deployment")[name]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_cpu_worker_computes_with_as_many_threads_as_it_may() -> None:
    container = main_container(of_kind("Deployment")["worker-cpu"]["spec"]["template"])
    (threads,) = [variable for variable in container["env"] if variable["name"] == "LAMBDA_SEARCH_THREADS"]
    assert threads["valueFrom"]["resourceFieldRef"] == {"containerName": container["name"], "resource": "limits.cpu"}


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_cores_of_workers_can_be_theirs_alone(name: str) -> None:
    # The kubelet gives whole cores to pods all of whose containers ask for what they are limited to.
    pod = of_kind("Deployment")[name]["spec"]["template"]
    for container in containers(pod):
        assert container["resources"]["limits"] == container["resources"]["requests"]
    assert main_container(pod)["resources"]["limits"]["cpu"].isdigit()


def test_only_the_gpu_worker_asks_for_a_gpu() -> None:
    asking = [name for name, pod in PODS.items() if "nvidia.com/gpu" in json.dumps(main_container(pod)["resources"])]
    assert asking == ["gpu/Deployment/worker-gpu"]
    assert main_container(PODS[asking[0]])["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
def test_processes_have_the_time_to_end_that_they_need(name: str) -> None:
    assert of_kind("Deployment")[name]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > SHUTDOWN


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_renders_it(overlay: str, repository: Path, tmp_path: Path) -> None:
    kubectl, bash = shutil.which("kubectl"), shutil.which("bash")
    if kubectl is None or bash is None:
        pytest.skip("no kubectl here")
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes", ignore=shutil.ignore_patterns("secrets"))
    secrets = tmp_path / "kubernetes" / overlay / "secrets"
    secrets.mkdir()
    if overlay == "cluster":
        (secrets / "lambda_search_database_url").write_text("postgresql://user:password@host/database")
        shutil.copy(MANIFESTS / "cluster/bucket.env.example", secrets / "bucket.env")
    subprocess.run([bash, str(repository / "deploy/make-secrets"), str(secrets)], check=True, capture_output=True)
    command = [kubectl, "kustomize", str(tmp_path / "kubernetes" / overlay)]
    rendered = list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered}
    for manifest in rendered:
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "lambda-search"
        if "template" in manifest.get("spec", {}):
            for secret in secrets_of(manifest["spec"]["template"])[0]:
                assert ("Secret", secret) in there
